"""Overlap of a predicted mask with its reference, 2-D or 3-D.

Of a volume all slices count together: |P|, |G| and |P and G| are summed before anything is divided.
TP, FP, FN and TN count pixels. Where a denominator is empty the score is 1 if both masks are empty, else 0
(the convention of the LightBTSeg evaluation: every metric per image, then the mean over images).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.metrics.base import Counts, Pair, register_metric

_ERROR = "Of overlap errors smaller is better."


def _ratio(numerator: float, denominator: float, counts: Counts) -> float:
    if denominator:
        return numerator / denominator
    return 0.0 if counts.tp + counts.fp + counts.fn else 1.0


@register_metric("dice", higher_is_better=True, label="Dice", always=True)
def dice(pair: Pair) -> float:
    """Dice coefficient: 2 TP / (2 TP + FP + FN).

    >>> dice(Pair(np.array([1, 1, 0]), np.array([1, 0, 0])))
    0.6666666666666666
    """
    c = pair.counts
    return _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn, c)


def class_dice(prediction: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Mean Dice over the classes that one of two index masks holds; 1 where neither holds any.

    >>> class_dice(np.array([1, 2, 0], np.uint8), np.array([1, 0, 0], np.uint8))
    0.5
    """
    indices = np.union1d(np.unique(prediction), np.unique(reference))
    scores = [dice(Pair(prediction == k, reference == k)) for k in indices if k]
    return float(np.mean(scores)) if scores else 1.0


@register_metric("iou", higher_is_better=True, label="IoU", always=True)
def iou(pair: Pair) -> float:
    """Intersection over union of the foreground (Jaccard index): TP / (TP + FP + FN).

    >>> iou(Pair(np.array([1, 1, 0]), np.array([1, 0, 0])))
    0.5
    """
    c = pair.counts
    return _ratio(c.tp, c.tp + c.fp + c.fn, c)


@register_metric("precision", higher_is_better=True, label="Precision", always=True)
def precision(pair: Pair) -> float:
    """Share of the predicted foreground that is right: TP / (TP + FP).

    >>> precision(Pair(np.array([0, 0]), np.array([1, 0])))  # nothing predicted, something there
    0.0
    """
    c = pair.counts
    return _ratio(c.tp, c.tp + c.fp, c)


@register_metric("recall", higher_is_better=True, label="Recall", always=True)
def recall(pair: Pair) -> float:
    """Share of the reference that was found: TP / (TP + FN).

    >>> recall(Pair(np.array([0, 0]), np.array([0, 0])))  # both empty
    1.0
    """
    c = pair.counts
    return _ratio(c.tp, c.tp + c.fn, c)


@register_metric("accuracy", higher_is_better=True, label="Accuracy", always=True)
def accuracy(pair: Pair) -> float:
    """Share of all pixels that agree: (TP + TN) / (TP + FP + FN + TN).

    >>> accuracy(Pair(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0])))
    0.75
    """
    c = pair.counts
    return _ratio(c.tp + c.tn, sum(c), c)


@register_metric("sensitivity", higher_is_better=True, label="Sensitivity")
def sensitivity(pair: Pair) -> float:
    """Recall under the name that AMTD's tables use."""
    return recall(pair)


@register_metric("voe", higher_is_better=False, label="VOE (1 − IoU)", note=_ERROR)
def voe(pair: Pair) -> float:
    """Volumetric overlap error as it is usually defined: 1 - IoU.

    >>> voe(Pair(np.array([1, 1]), np.array([1, 0])))
    0.5
    """
    return 1.0 - iou(pair)


@register_metric("voe_emkd", higher_is_better=False, label="VOE (EMKD)", note=_ERROR)
def voe_emkd(pair: Pair) -> float:
    """VOE as EMKD's code computes it, the only form that AMTD's numbers fit: 2 (|P| - |P and G|) / (|P| + |G|).

    It counts false positives only, and is 0 for an empty prediction: read it beside Dice.

    >>> voe_emkd(Pair(np.array([1, 1]), np.array([1, 0])))
    0.6666666666666666
    """
    c = pair.counts
    return 2 * c.fp / (2 * c.tp + c.fp + c.fn) if c.tp + c.fp + c.fn else 0.0


@register_metric("voe_printed", higher_is_better=False, label="VOE (printed)", note=_ERROR)
def voe_printed(pair: Pair) -> float:
    """VOE as AMTD prints it: 1 - |P and G| / (|P| + |G|), which is 1 - Dice / 2 and never below a half.

    >>> voe_printed(Pair(np.array([1, 1]), np.array([1, 1])))
    0.5
    """
    return 1.0 - dice(pair) / 2


@register_metric("rmse_map", higher_is_better=False, label="RMSE of the map", needs_probability=True)
def rmse_map(pair: Pair) -> float:
    """Root of the mean squared difference between a map of probabilities and the reference (0 or 1).

    Raises:
        InputError: the probability is not known.

    >>> rmse_map(Pair(np.array([1, 0]), np.array([1, 1]), probability=np.array([1.0, 0.0])))
    0.7071067811865476
    """
    if pair.probability is None:
        raise InputError("metric rmse_map needs probabilities, and this predictor gives masks only")
    truth = pair.reference.astype(np.float64)
    return float(np.sqrt(np.square(np.asarray(pair.probability, np.float64) - truth).mean()))
