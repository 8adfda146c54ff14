"""Metrics pooled over a set: one confusion table and one ranking of all its pixels, as vessel papers report them.

Source: the evaluation of LightVessel's sibling code (GKD-Framework): ACC, Se, F1 and AUC of the foreground, and
mIOU as the mean of the IoU of background and foreground, over all pixels of the test set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.metrics.base import Counts, Metric, Pair


def auc(scores: NDArray[Any], reference: NDArray[Any]) -> float | None:
    """Area under the ROC curve: how often a foreground pixel scores above one of background, ties counting half.

    Args:
        scores: higher means foreground; any shape.
        reference: of the same shape, foreground where not zero.

    Returns:
        None when all pixels are of one class.

    Raises:
        ValueError: the shapes differ, or a score is NaN.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    values, truth = np.asarray(scores).ravel(), np.asarray(reference).ravel() != 0
    if values.shape != truth.shape:
        raise ValueError(f"{values.size} scores for {truth.size} pixels: give one score per pixel")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    foreground, background = values[truth], np.sort(values[~truth])
    if not len(foreground) or not len(background):
        return None
    foreground.sort()  # neighbours then search in the same part of the other list
    below = np.searchsorted(background, foreground, "left").sum(dtype=np.float64)
    not_above = np.searchsorted(background, foreground, "right").sum(dtype=np.float64)
    return float((below + not_above) / 2 / len(foreground) / len(background))


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else 1.0


def _miou(c: Counts) -> float:
    return (_ratio(c.tp, c.tp + c.fp + c.fn) + _ratio(c.tn, c.tn + c.fp + c.fn)) / 2


_FROM_COUNTS = (
    Metric("accuracy", lambda c: _ratio(c.tp + c.tn, sum(c)), True, "Accuracy", digits=4),
    Metric("sensitivity", lambda c: _ratio(c.tp, c.tp + c.fn), True, "Sensitivity", digits=4),
    Metric("f1", lambda c: _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn), True, "F1", digits=4),
    Metric("miou", _miou, True, "mIoU of two classes", digits=4),
)
POOLED = {
    m.name: m for m in (*_FROM_COUNTS, Metric("auc", auc, True, "AUC", digits=4, needs_probability=True))
}
"""Name -> metric of a set: a function of its confusion table, and the AUC of its scores and references."""


def pooled_metrics(counts: Counts) -> dict[str, float]:
    """Accuracy, sensitivity, F1 and two-class mIoU of one confusion table.

    >>> pooled_metrics(Counts(tp=1, fp=1, fn=0, tn=2))["miou"]
    0.5833333333333333
    """
    return {metric.name: metric.function(counts) for metric in _FROM_COUNTS}


@dataclass
class Pool:
    """Collects the pixels of a set, image by image.

    Attributes:
        counts: the confusion table so far.

    >>> pool = Pool()
    >>> pool.add(np.array([[1, 0]]), np.array([[1, 0]]), np.array([[0.9, 0.2]]))
    >>> pool.metrics()["auc"]
    1.0
    """

    counts: Counts = field(default_factory=lambda: Counts(0, 0, 0, 0))
    _scores: list[NDArray[np.float32]] = field(default_factory=list)
    _truth: list[NDArray[np.bool_]] = field(default_factory=list)
    _pixels: int = 0

    def add(
        self, prediction: NDArray[Any], reference: NDArray[Any], scores: NDArray[Any] | None = None
    ) -> None:
        """Adds the pixels of an image or volume; probabilities of foreground, where there are any, for the AUC."""
        new = Pair(prediction, reference).counts
        self.counts = Counts(*(old + more for old, more in zip(self.counts, new, strict=True)))
        self._pixels += int(np.size(reference))
        if scores is not None:
            if np.shape(scores) != np.shape(reference):
                raise ValueError(f"scores have shape {np.shape(scores)}, the reference {np.shape(reference)}")
            self._scores.append(np.asarray(scores, np.float32).ravel())
            self._truth.append(np.asarray(reference).ravel() != 0)

    def metrics(self) -> dict[str, float | None]:
        """The values of `POOLED`; auc is None unless every image came with probabilities."""
        found: dict[str, float | None] = dict(pooled_metrics(self.counts))
        scored = sum(part.size for part in self._scores)
        complete = scored == self._pixels and scored > 0
        found["auc"] = auc(np.concatenate(self._scores), np.concatenate(self._truth)) if complete else None
        return found
