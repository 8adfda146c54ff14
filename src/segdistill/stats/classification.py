"""What a stage's folder holds of the classes of whole images: the answers, and where the network looked."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.metrics.calibration import Reliability
from segdistill.stats.bootstrap import RESAMPLES, Interval, bootstrap_mean
from segdistill.stats.tests import group_index

SCORES = ("accuracy", "precision", "recall", "f1", "auc")
_CELLS = 4_000_000  # weights held in memory at once
Floats = NDArray[np.float64]


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes): rows are the true classes, columns the predicted ones.

    >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    flat = np.asarray(truth) * classes + np.asarray(predicted)
    table: NDArray[np.int64] = np.bincount(flat, minlength=classes**2).reshape(classes, classes)
    return table


def _macro(tables: Floats) -> dict[str, Floats]:
    """Scores of confusion tables (..., K, K); a class that is neither there nor predicted scores 0, as scikit-learn's
    default has it.
    """
    hit = np.diagonal(tables, axis1=-2, axis2=-1)
    predicted, there = tables.sum(axis=-2), tables.sum(axis=-1)
    precision, recall = _ratio(hit, predicted), _ratio(hit, there)
    f1 = _ratio(2 * hit, predicted + there)
    return {
        "accuracy": _ratio(hit.sum(axis=-1), tables.sum(axis=(-2, -1))),
        "precision": precision.mean(axis=-1),
        "recall": recall.mean(axis=-1),
        "f1": f1.mean(axis=-1),
    }


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    ratio: Floats = np.divide(
        numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator > 0
    )
    return ratio


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


def _scores(truth: NDArray[np.intp], probability: Floats, weight: Floats) -> dict[str, Floats]:
    """SCORES for each row of weights (R, N); AUC is NaN where a class is missing."""
    classes = probability.shape[1]
    cell = truth * classes + probability.argmax(axis=1)
    tables = weight @ np.eye(classes**2)[cell]
    found = _macro(tables.reshape(-1, classes, classes))
    areas = [_weighted_auc(truth == k, probability[:, k], weight) for k in range(classes)]
    return found | {"auc": np.mean(areas, axis=0)}


def classification_scores(
    truth: Sequence[int] | NDArray[Any],
    probability: NDArray[Any],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """SCORES with 95 % percentile bootstrap intervals over groups.

    Precision, recall, F1 and AUC are means over the classes; AUC is of one class against the rest, and with two
    classes both curves are the same (Fan et al. 2023, section 4.5). Draws in which a class is missing say nothing of
    the AUC and are left out of its interval.

    Args:
        truth: (N,) class indices.
        probability: (N, K), rows sum to 1; the largest is the answer, the first of equals.
        groups: of the cases; None: every case its own.
        seed: of the draws.
        resamples: number of draws.

    >>> scores = classification_scores([0, 0, 1, 1], np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]))
    >>> scores["accuracy"].mean, scores["auc"].mean
    (0.75, 1.0)
    """
    true, prob = np.asarray(truth, dtype=np.intp), np.asarray(probability, dtype=np.float64)
    if prob.ndim != 2 or len(prob) != len(true):
        raise ValueError(f"{len(true)} classes for probabilities {prob.shape}: give (N, K)")
    if not len(true):
        return dict.fromkeys(SCORES, Interval(None, None, None, 0))
    means = _scores(true, prob, np.ones((1, len(true))))
    names = range(len(true)) if groups is None else list(groups)
    found = {name: [float("nan"), float("nan")] for name in SCORES}
    if len(set(names)) > 1:
        drawn = [_scores(true, prob, weight) for weight in _draws(list(names), seed, resamples)]
        for name in SCORES:
            values = np.concatenate([part[name] for part in drawn])
            if np.isfinite(values).any():
                found[name] = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return {
        name: Interval(_finite(means[name][0]), _finite(found[name][0]), _finite(found[name][1]), len(true))
        for name in SCORES
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _draws(groups: list[Hashable], seed: int, resamples: int) -> Iterator[Floats]:
    """Weights (R, N) of the cases in draws of as many groups as there are, with replacement."""
    index = group_index(groups)
    count = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // max(count, len(index)))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, index].astype(np.float64)


LOCATION = ("iou", "dice", "box_iou", "box_dice", "cam_inside")
_TEXT = ("case", "group", "label", "predicted")
_PREFIX = "p_"


@dataclass(frozen=True)
class Classified:
    """One image.

    Attributes:
        case, group, label: as in the case table.
        probability: of each class, in the order of the network's answers.
        location: what of LOCATION was measured: overlap of the map with the reference at the network's input size,
            overlap of their boxes at the image's own, and the share of Grad-CAM within the reference.
    """

    case: str
    group: str
    label: str
    probability: tuple[float, ...]
    location: dict[str, float]


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
        writer.writerow([*_TEXT, *(_PREFIX + name for name in classes), *LOCATION])
        for row in rows:
            predicted = classes[int(np.argmax(row.probability))]
            located = [repr(row.location[name]) if name in row.location else "" for name in LOCATION]
            writer.writerow(
                [row.case, row.group, row.label, predicted, *map(repr, row.probability), *located]
            )


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
                    row["case"],
                    row["group"],
                    row["label"],
                    tuple(float(row[_PREFIX + name]) for name in classes),
                    {name: float(row[name]) for name in LOCATION if row[name]},
                )
                for row in reader
            ]
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a classification.csv: {error}") from error
    return classes, rows


def truth_of(rows: Sequence[Classified], classes: Sequence[str]) -> NDArray[np.intp]:
    """The class index of each row.

    >>> truth_of([Classified("a", "a", "ill", (0.5, 0.5), {})], ["well", "ill"]).tolist()
    [1]
    """
    return np.array([classes.index(row.label) for row in rows], dtype=np.intp)


def reliability_of(rows: Sequence[Classified], classes: Sequence[str]) -> Reliability:
    """How far stated probabilities are from what is: with two classes those of the first class, with more those of the
    answer.
    """
    found = Reliability()
    if rows:
        truth, stated = truth_of(rows, classes), np.array([row.probability for row in rows])
        if len(classes) == 2:
            found.add(stated[:, 0], truth == 0)
        else:
            found.add(stated.max(axis=1), stated.argmax(axis=1) == truth)
    return found


def summarise_classification(
    rows: Sequence[Classified], classes: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Scores and location figures as {"mean", "low", "high", "n"}; `classes`, `confusion` (rows are the true classes)
    and `calibration_error`.

    >>> rows = [Classified("a", "a", "ill", (0.9, 0.1), {}), Classified("b", "b", "well", (0.2, 0.8), {})]
    >>> summary = summarise_classification(rows, ["ill", "well"])
    >>> summary["accuracy"]["mean"], summary["confusion"], round(summary["calibration_error"], 2)
    (1.0, [[1, 0], [0, 1]], 0.15)
    """
    truth = truth_of(rows, classes)
    stated = np.array([row.probability for row in rows]).reshape(len(rows), len(classes))
    groups = [row.group for row in rows]
    summary: dict[str, Any] = {
        name: interval.to_dict()
        for name, interval in classification_scores(truth, stated, groups, seed=seed).items()
    }
    for name in LOCATION:
        measured = [(row.location[name], row.group) for row in rows if name in row.location]
        if measured:
            values, owners = zip(*measured, strict=True)
            summary[name] = bootstrap_mean(values, owners, seed=seed).to_dict()
    return summary | {
        "classes": list(classes),
        "confusion": confusion(truth, stated.argmax(axis=1), len(classes)).tolist(),
        "calibration_error": reliability_of(rows, classes).error,
    }


CLASSIFICATION_FILE = "classification.csv"
CAM_FOLDER = "grad_cam"


@dataclass(frozen=True)
class ClassReport:
    """What one stage says of whole images.

    Attributes:
        classes: in the order of its answers.
        rows: one per test case.
        pictures: case -> PNG of its Grad-CAM.
    """

    classes: Sequence[str]
    rows: Sequence[Classified]
    pictures: dict[str, bytes] = field(default_factory=dict)


def read_class_report(folder: Path) -> ClassReport | None:
    """What lies in a stage's folder; None for a stage that classifies nothing.

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
