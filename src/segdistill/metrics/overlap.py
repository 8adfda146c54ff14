"""Foreground metrics of one predicted mask against its reference, both bool arrays of the same shape, 2-D or 3-D.

Of a volume all slices count together: |P|, |G| and |P and G| are summed before anything is divided.
TP, FP, FN and TN count pixels. Where a denominator is empty the score is 1 if both masks are empty, else 0
(the convention of the LightBTSeg evaluation: every metric per image, then the mean over images).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Counts(NamedTuple):
    """Pixels of the confusion table: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


def count_pixels(prediction: NDArray[Any], reference: NDArray[Any]) -> Counts:
    """The confusion table of two masks of one shape, (H, W) or (D, H, W); anything that is not zero is foreground.

    Raises:
        ValueError: the shapes differ.

    >>> count_pixels(np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]))
    Counts(tp=1, fp=1, fn=1, tn=1)
    """
    p, r = np.asarray(prediction) != 0, np.asarray(reference) != 0
    if p.shape != r.shape:
        raise ValueError(f"prediction has shape {p.shape}, reference {r.shape}: they must be equal")
    tp, positives, references = (int(np.count_nonzero(x)) for x in (p & r, p, r))
    return Counts(tp, positives - tp, references - tp, p.size - positives - references + tp)


def _ratio(numerator: float, denominator: float, counts: Counts) -> float:
    if denominator:
        return numerator / denominator
    return 0.0 if counts.tp + counts.fp + counts.fn else 1.0


def _dice(c: Counts) -> float:
    return _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn, c)


def _iou(c: Counts) -> float:
    return _ratio(c.tp, c.tp + c.fp + c.fn, c)


def _precision(c: Counts) -> float:
    return _ratio(c.tp, c.tp + c.fp, c)


def _recall(c: Counts) -> float:
    return _ratio(c.tp, c.tp + c.fn, c)


def _accuracy(c: Counts) -> float:
    return _ratio(c.tp + c.tn, sum(c), c)


def _voe(c: Counts) -> float:
    return 1.0 - _iou(c)


def _voe_emkd(c: Counts) -> float:
    return 2 * c.fp / (2 * c.tp + c.fp + c.fn) if c.tp + c.fp + c.fn else 0.0


def _voe_printed(c: Counts) -> float:
    return 1.0 - _dice(c) / 2


_FROM_COUNTS = {"dice": _dice, "iou": _iou, "precision": _precision, "recall": _recall, "accuracy": _accuracy}


def dice(prediction: Mask, reference: Mask) -> float:
    """Dice coefficient: 2 TP / (2 TP + FP + FN).

    >>> dice(np.array([[True, True, False]]), np.array([[True, False, False]]))
    0.6666666666666666
    """
    return _dice(count_pixels(prediction, reference))


def iou(prediction: Mask, reference: Mask) -> float:
    """Intersection over union of the foreground (Jaccard index): TP / (TP + FP + FN).

    >>> iou(np.array([[True, True, False]]), np.array([[True, False, False]]))
    0.5
    """
    return _iou(count_pixels(prediction, reference))


def precision(prediction: Mask, reference: Mask) -> float:
    """Share of the predicted foreground that is right: TP / (TP + FP).

    >>> precision(np.array([[False, False]]), np.array([[True, False]]))  # nothing predicted, something there
    0.0
    """
    return _precision(count_pixels(prediction, reference))


def recall(prediction: Mask, reference: Mask) -> float:
    """Share of the reference that was found (sensitivity): TP / (TP + FN).

    >>> recall(np.array([[False, False]]), np.array([[False, False]]))  # both empty
    1.0
    """
    return _recall(count_pixels(prediction, reference))


def accuracy(prediction: Mask, reference: Mask) -> float:
    """Share of all pixels that agree: (TP + TN) / (TP + FP + FN + TN).

    >>> accuracy(np.array([[True, True, False, False]]), np.array([[True, False, False, False]]))
    0.75
    """
    return _accuracy(count_pixels(prediction, reference))


METRICS: dict[str, Callable[[Mask, Mask], float]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
    "accuracy": accuracy,
}


def voe(prediction: Mask, reference: Mask) -> float:
    """Volumetric overlap error as it is usually defined: 1 - IoU. Smaller is better.

    >>> voe(np.array([[True, True]]), np.array([[True, False]]))
    0.5
    """
    return _voe(count_pixels(prediction, reference))


def voe_emkd(prediction: Mask, reference: Mask) -> float:
    """VOE as EMKD's code computes it, the only form that AMTD's numbers fit: 2 (|P| - |P and G|) / (|P| + |G|).

    It counts what is marked too much, and is 0 for an empty prediction: read it beside Dice, never alone.

    >>> voe_emkd(np.array([[True, True]]), np.array([[True, False]]))
    0.6666666666666666
    """
    return _voe_emkd(count_pixels(prediction, reference))


def voe_printed(prediction: Mask, reference: Mask) -> float:
    """VOE as AMTD prints it: 1 - |P and G| / (|P| + |G|), which is 1 - Dice / 2 and never below a half.

    >>> voe_printed(np.array([[True, True]]), np.array([[True, True]]))
    0.5
    """
    return _voe_printed(count_pixels(prediction, reference))


def rmse_map(probability: NDArray[Any], reference: NDArray[Any]) -> float:
    """Root of the mean squared difference between a map of probabilities and the reference (0 or 1).

    >>> rmse_map(np.array([[1.0, 0.0]]), np.array([[1, 1]]))
    0.7071067811865476
    """
    truth = (np.asarray(reference) != 0).astype(np.float64)
    return float(np.sqrt(np.square(np.asarray(probability, np.float64) - truth).mean()))


FROM_COUNTS: dict[str, Callable[[Counts], float]] = {
    **_FROM_COUNTS,
    "voe": _voe,
    "voe_emkd": _voe_emkd,
    "voe_printed": _voe_printed,
    "sensitivity": _recall,
}
"""Every metric that the confusion table alone decides, METRICS included."""


def all_metrics(prediction: NDArray[Any], reference: NDArray[Any]) -> dict[str, float]:
    """Every metric of METRICS, in its order, from one count of the pixels.

    >>> all_metrics(np.array([[1, 1, 0]]), np.array([[1, 0, 0]]))["iou"]
    0.5
    """
    counts = count_pixels(prediction, reference)
    return {name: _FROM_COUNTS[name](counts) for name in METRICS}
