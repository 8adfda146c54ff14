"""Scores of a classifier of whole images with their intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.metrics.classification import (
    LOCATION,
    SCORES,
    Classified,
    confusion,
    reliability_of,
    truth_of,
    weighted_scores,
)
from segdistill.records import Classification, Interval, Scores
from segdistill.stats.bootstrap import CELLS, RESAMPLES, bootstrap_mean, draw_groups
from segdistill.stats.tests import group_index


def classification_scores(
    truth: Sequence[int] | NDArray[Any],
    probability: NDArray[Any],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Scores:
    """SCORES with 95 % percentile bootstrap intervals over groups.

    Precision, recall, F1 and AUC are means over the classes; AUC is of one class against the rest, and with two
    classes both curves are the same (Fan et al. 2023, section 4.5). The interval of the AUC is over the draws in which
    no class is missing.

    Args:
        truth: (N,) class indices.
        probability: (N, K), rows sum to 1; the largest decides, the first of equals.
        groups: of the cases; None: every case its own.
        seed: of the draws.
        resamples: number of draws.

    Raises:
        ValueError: the shapes do not fit.

    >>> scores = classification_scores([0, 0, 1, 1], np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]))
    >>> scores["accuracy"].mean, scores["auc"].mean
    (0.75, 1.0)
    """
    true, prob = np.asarray(truth, dtype=np.intp), np.asarray(probability, dtype=np.float64)
    if prob.ndim != 2 or len(prob) != len(true):
        raise ValueError(f"{len(true)} classes for probabilities {prob.shape}: give (N, K)")
    if not len(true):
        return dict.fromkeys(SCORES, Interval(None, None, None, 0))
    means = weighted_scores(true, prob, np.ones((1, len(true))))
    names = list(range(len(true)) if groups is None else groups)
    found = {name: [float("nan"), float("nan")] for name in SCORES}
    if len(set(names)) > 1:
        index = group_index(names)
        step = max(1, CELLS // len(index))
        drawn = [
            weighted_scores(true, prob, times[:, index].astype(np.float64))
            for times in draw_groups(index, seed, resamples, step)
        ]
        for name in SCORES:
            values = np.concatenate([part[name] for part in drawn])
            if np.isfinite(values).any():
                found[name] = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return {
        name: Interval(
            _or_none(means[name][0]), _or_none(found[name][0]), _or_none(found[name][1]), len(true)
        )
        for name in SCORES
    }


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def summarise_classification(
    rows: Sequence[Classified], classes: Sequence[str], seed: int = 0
) -> Classification:
    """Scores with intervals, location scores where some row has them, confusion table and calibration error.

    >>> rows = [Classified("a", "a", "ill", (0.9, 0.1), {}), Classified("b", "b", "well", (0.2, 0.8), {})]
    >>> summary = summarise_classification(rows, ["ill", "well"])
    >>> summary.scores["accuracy"].mean, summary.confusion, round(summary.calibration_error, 2)
    (1.0, [[1, 0], [0, 1]], 0.15)
    """
    truth = truth_of(rows, classes)
    probability = np.array([row.probability for row in rows]).reshape(len(rows), len(classes))
    scores = classification_scores(truth, probability, [row.group for row in rows], seed=seed)
    for name in LOCATION:
        measured = [(row.location[name], row.group) for row in rows if name in row.location]
        if measured:
            values, owners = zip(*measured, strict=True)
            scores[name] = bootstrap_mean(values, owners, seed=seed)
    table = confusion(truth, probability.argmax(axis=1), len(classes)).tolist()
    return Classification(scores, list(classes), table, reliability_of(rows, classes).error)
