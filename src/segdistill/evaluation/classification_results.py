"""classification.csv: what a network said of each whole image, and its summary with intervals."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.evaluation.calibration import Reliability
from segdistill.evaluation.classification import classification_scores, confusion
from segdistill.evaluation.statistics import bootstrap_mean
from segdistill.files import atomic_write

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
            said = classes[int(np.argmax(row.probability))]
            located = [repr(row.location[name]) if name in row.location else "" for name in LOCATION]
            writer.writerow([row.case, row.group, row.label, said, *map(repr, row.probability), *located])


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
