"""Scores of a classifier of whole images: accuracy, macro precision, recall and F1, AUC. NumPy alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.evaluation.significance import group_index
from segdistill.evaluation.statistics import RESAMPLES, Interval

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
    said, there = tables.sum(axis=-2), tables.sum(axis=-1)
    precision, recall = _ratio(hit, said), _ratio(hit, there)
    f1 = _ratio(2 * hit, said + there)
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
