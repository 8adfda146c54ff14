"""Classes of whole images: scores, ROC curves, and classification.csv with one row per image."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import atomic_write, cell_text, csv_cell
from segdistill.metrics.base import Metric
from segdistill.metrics.calibration import Reliability

CLASSIFICATION_FILE = "classification.csv"
CAM_FOLDER = "grad_cam"
Floats = NDArray[np.float64]


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are the true classes, columns the predicted ones.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.asarray(truth) * classes + np.asarray(predicted)
    table: NDArray[np.int64] = np.bincount(flat, minlength=classes**2).reshape(classes, classes)
    return table


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    ratio: Floats = np.divide(
        numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator > 0
    )
    return ratio


def _weighted_auc(truth: NDArray[np.bool_], score: Floats, weight: Floats) -> Floats:
    """AUC for each row of weights (R, N): how often a positive scores above a negative; NaN without one of them."""
    levels, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(levels)))
    positives = np.add.reduceat((weight * truth)[:, order], starts, axis=1)
    negatives = np.add.reduceat((weight * ~truth)[:, order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    won = (positives * (below + negatives / 2)).sum(axis=1)
    area: Floats = np.divide(won, pairs, out=np.full(len(weight), np.nan), where=pairs > 0)
    return area


def _auc(truth: NDArray[np.intp], probability: Floats, weight: Floats) -> Floats:
    areas = [_weighted_auc(truth == k, probability[:, k], weight) for k in range(probability.shape[1])]
    mean: Floats = np.mean(areas, axis=0)
    return mean


def _hits(tables: Floats) -> Floats:
    return np.diagonal(tables, axis1=-2, axis2=-1)


def _f1(tables: Floats) -> Any:
    return _ratio(2 * _hits(tables), tables.sum(axis=-2) + tables.sum(axis=-1)).mean(axis=-1)


_OF_TABLES = (
    Metric("accuracy", lambda t: _ratio(_hits(t).sum(axis=-1), t.sum(axis=(-2, -1))), True, "Accuracy"),
    Metric("precision", lambda t: _ratio(_hits(t), t.sum(axis=-2)).mean(axis=-1), True, "Precision"),
    Metric("recall", lambda t: _ratio(_hits(t), t.sum(axis=-1)).mean(axis=-1), True, "Recall"),
    Metric("f1", _f1, True, "F1"),
)
SCORES = {m.name: m for m in (*_OF_TABLES, Metric("auc", _auc, True, "AUC"))}
"""Name -> score of a set of images: means over the classes; a class without images that is never predicted scores 0,
as scikit-learn's default has it."""
LOCATION = {
    name: Metric(name, itemgetter(name), True, label)
    for name, label in (
        ("iou", "IoU of the map"),
        ("dice", "Dice of the map"),
        ("box_iou", "IoU of the boxes"),
        ("box_dice", "Dice of the boxes"),
        ("cam_inside", "Grad-CAM in the lesion"),
    )
}
"""Name -> what is measured of one image (of `Classified.location`)."""


def weighted_scores(truth: NDArray[np.intp], probability: Floats, weight: Floats) -> dict[str, Floats]:
    """SCORES for each row of weights (R, N) of the images; AUC is NaN where a class is missing.

    Args:
        truth: (N,) class indices.
        probability: (N, K); the largest decides, the first of equals.
        weight: (R, N).

    >>> one = weighted_scores(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), np.ones((1, 2)))
    >>> one["accuracy"].tolist(), one["auc"].tolist()
    ([1.0], [1.0])
    """
    classes = probability.shape[1]
    cell = truth * classes + probability.argmax(axis=1)
    tables = (weight @ np.eye(classes**2)[cell]).reshape(-1, classes, classes)
    found: dict[str, Any] = {metric.name: metric.function(tables) for metric in _OF_TABLES}
    return found | {"auc": _auc(truth, probability, weight)}


class Roc(NamedTuple):
    """A ROC curve: false and true positive rates from (0, 0) to (1, 1), and the score from which on each holds."""

    false_positive: Floats
    true_positive: Floats
    threshold: Floats

    @property
    def area(self) -> float:
        """Area under the curve by trapezes: ties count half."""
        heights = (self.true_positive[1:] + self.true_positive[:-1]) / 2
        return float((np.diff(self.false_positive) * heights).sum())


def roc_curve(positive: NDArray[Any], score: NDArray[Any]) -> Roc | None:
    """One point per distinct score, in falling order; None when all cases are of one kind.

    >>> roc_curve(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])).area
    0.75
    """
    truth, values = np.asarray(positive) != 0, np.asarray(score, np.float64)
    if truth.all() or not truth.any():
        return None
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # the last case of every tie
    true, false = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
    return Roc(
        np.concatenate([[0.0], false / false[-1]]),
        np.concatenate([[0.0], true / true[-1]]),
        np.concatenate([[np.inf], values[order][last]]),
    )


@dataclass(frozen=True)
class Classified:
    """One image.

    Attributes:
        case, group, label: as in the case table.
        probability: of each class, in the order of the network's outputs.
        location: what of LOCATION was measured: overlap of the map with the reference at the network's input size,
            overlap of their boxes at the image's own, and the share of Grad-CAM within the reference.
    """

    case: str
    group: str
    label: str
    probability: tuple[float, ...]
    location: dict[str, float]


@dataclass(frozen=True)
class ClassReport:
    """The classification of one stage, as it lies in the stage's folder.

    Attributes:
        classes: in the order of the network's outputs.
        rows: one per test case.
        pictures: case -> PNG of its Grad-CAM.
    """

    classes: Sequence[str]
    rows: Sequence[Classified]
    pictures: dict[str, bytes] = field(default_factory=dict)


_TEXT = ("case", "group", "label", "predicted")
_PREFIX = "p_"


def write_classification_csv(rows: Iterable[Classified], classes: Sequence[str], path: str | Path) -> None:
    """Writes one row per image, whole or not at all; reading gives the same numbers back.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "classification.csv"
    >>> write_classification_csv([Classified("a", "a", "ill", (0.75, 0.25), {"iou": 0.5})], ["ill", "well"], target)
    >>> read_classification_csv(target)
    (['ill', 'well'], [Classified(case='a', group='a', label='ill', probability=(0.75, 0.25), location={'iou': 0.5})])
    """
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_TEXT, *(csv_cell(_PREFIX + name) for name in classes), *LOCATION])
        for row in rows:
            predicted = classes[int(np.argmax(row.probability))]
            located = [repr(row.location[name]) if name in row.location else "" for name in LOCATION]
            texts = map(csv_cell, (row.case, row.group, row.label, predicted))
            writer.writerow([*texts, *map(repr, row.probability), *located])


def read_classification_csv(path: str | Path) -> tuple[list[str], list[Classified]]:
    """Classes and rows of what `write_classification_csv` wrote; none where there is no file.

    Raises:
        InputError: the file holds something else.

    >>> read_classification_csv("nowhere.csv")
    ([], [])
    """
    if not Path(path).exists():
        return [], []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        classes = [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]
        try:
            rows = [
                Classified(
                    cell_text(row["case"]),
                    cell_text(row["group"]),
                    cell_text(row["label"]),
                    tuple(float(row[_PREFIX + name]) for name in classes),
                    {name: float(row[name]) for name in LOCATION if row[name]},
                )
                for row in reader
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a classification.csv: {error}") from error
    return classes, rows


def read_class_report(folder: Path) -> ClassReport | None:
    """What lies in a stage's folder; None for a stage that does not classify.

    >>> read_class_report(Path("nowhere")) is None
    True
    """
    classes, rows = read_classification_csv(folder / CLASSIFICATION_FILE)
    if not rows:
        return None
    pictures = {path.stem: path.read_bytes() for path in sorted((folder / CAM_FOLDER).glob("*.png"))}
    return ClassReport(classes, rows, pictures)


def file_stem(case: str) -> str:
    """A case's id as the name of a file.

    >>> file_stem("scan/frame 1")
    'scan_frame 1'
    """
    return case.replace("/", "_").replace("\\", "_")


def truth_of(rows: Sequence[Classified], classes: Sequence[str]) -> NDArray[np.intp]:
    """The class index of each row.

    >>> truth_of([Classified("a", "a", "ill", (0.5, 0.5), {})], ["well", "ill"]).tolist()
    [1]
    """
    return np.array([classes.index(row.label) for row in rows], dtype=np.intp)


def reliability_of(rows: Sequence[Classified], classes: Sequence[str]) -> Reliability:
    """How far probabilities are from frequencies: with two classes those of the first class, with more those of the
    predicted class.
    """
    found = Reliability()
    if rows:
        truth, probability = truth_of(rows, classes), np.array([row.probability for row in rows])
        if len(classes) == 2:
            found.add(probability[:, 0], truth == 0)
        else:
            found.add(probability.max(axis=1), probability.argmax(axis=1) == truth)
    return found
