"""Intervals by the bootstrap over groups: cases of one group (one patient) are drawn together or not at all.

The interval is of the mean (percentiles of the resampled means); B. Efron, R. Tibshirani, An Introduction
to the Bootstrap, 1993, ch. 13; for clusters: C. Field, A. Welsh, Bootstrapping clustered data, JRSS B 69
(2007).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdistill.records import Interval
from segdistill.stats.tests import group_index, group_means, signed_rank

RESAMPLES = 2000
LEVEL = 0.95
CELLS = 4_000_000
"""Draws of cases or groups that are held in memory at once."""


@dataclass(frozen=True)
class PairedDifference(Interval):
    """Mean of a - b over n cases in `groups` groups.

    Attributes:
        p: of Wilcoxon's signed ranks over group means; None if it cannot be computed.
    """

    groups: int = 0
    p: float | None = None


def draw_groups(index: NDArray[np.intp], seed: int, resamples: int, step: int) -> Iterator[NDArray[np.intp]]:
    """How often each group is drawn, in parts of at most `step` draws: shapes (step, G).

    Every draw takes as many groups as there are, with replacement.

    Args:
        index: of each case's group, 0 to G - 1.
        seed: of the draws.
        resamples: number of draws in all.
        step: of one part.

    >>> [times.sum(axis=1).tolist() for times in draw_groups(np.array([0, 1, 1]), 0, resamples=3, step=2)]
    [[2, 2], [2]]
    """
    count = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


def bootstrap_means(
    values: NDArray[np.float64], groups: Sequence[Hashable], *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Means of the columns of `values` (N, M) in `resamples` draws of whole groups: shape (resamples, M).

    Every draw takes as many groups as there are, with replacement; its mean is over the cases drawn.

    >>> bootstrap_means(np.ones((4, 1)), ["a", "a", "b", "c"], resamples=3).ravel().tolist()
    [1.0, 1.0, 1.0]
    """
    index = group_index(groups)
    count = int(index.max()) + 1
    totals = np.zeros((count, values.shape[1] + 1))
    np.add.at(totals, index, np.column_stack([values, np.ones(len(values))]))
    parts = (times @ totals for times in draw_groups(index, seed, resamples, max(1, CELLS // count)))
    means: NDArray[np.float64] = np.concatenate([sums[:, :-1] / sums[:, -1:] for sums in parts])
    return means


def bootstrap_table(
    values: NDArray[np.float64],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Interval]:
    """One Interval per column of `values` (N, M), all from the same draws.

    >>> bootstrap_table(np.zeros((0, 1)), [])
    [Interval(mean=None, low=None, high=None, n=0)]
    """
    n = len(values)
    if n != len(groups):
        raise ValueError(f"{n} values for {len(groups)} groups: give one group per value")
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite: average only cases with a score")
    if n == 0:
        return [Interval(None, None, None, 0)] * values.shape[1]
    means = values.mean(axis=0)
    if len(set(groups)) < 2:
        return [Interval(float(m), None, None, n) for m in means]
    drawn = bootstrap_means(values, groups, seed=seed, resamples=resamples)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return [Interval(float(m), float(a), float(b), n) for m, a, b in zip(means, low, high, strict=True)]


def bootstrap_mean(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of `values` (N,) with its percentile bootstrap interval; without `groups` every value is its
    own group.

    Raises:
        ValueError: lengths differ, or a value is NaN or infinite.

    >>> result = bootstrap_mean([0.7, 0.8, 0.9, 0.8], ["a", "a", "b", "c"])
    >>> round(result.mean, 3), result.n, result.low < result.mean < result.high
    (0.8, 4, True)
    >>> bootstrap_mean([0.7, 0.9], ["a", "a"]).low is None
    True
    """
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    names = range(len(column)) if groups is None else groups
    return bootstrap_table(column, list(names), seed=seed, resamples=resamples)[0]


def bootstrap_rate(
    hits: Sequence[bool],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Share of `hits` (N,) that are true, with its bootstrap interval.

    Where all are alike, resampling gives an interval of width zero. There the exact two-sided bound for G independent
    groups is used: 1 - 0.025^(1/G) (C. Clopper, E. Pearson, Biometrika 26, 1934).

    >>> rate = bootstrap_rate([False] * 30)
    >>> rate.mean, rate.low, round(rate.high, 3)
    (0.0, 0.0, 0.116)
    """
    names = list(range(len(hits)) if groups is None else groups)
    found = bootstrap_mean([float(hit) for hit in hits], names, seed=seed, resamples=resamples)
    if found.low is None or found.mean not in (0.0, 1.0):
        return found
    reach = 1 - 0.025 ** (1 / len(set(names)))
    return Interval(0.0, 0.0, reach, found.n) if found.mean == 0.0 else Interval(1.0, 1 - reach, 1.0, found.n)


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Mean of a - b over the same cases in the same order, with interval; p where scipy is installed.

    Raises:
        ValueError: lengths differ, or a value is NaN or infinite.

    >>> result = paired_difference([0.8, 0.9, 0.7], [0.7, 0.8, 0.6])
    >>> round(result.mean, 3), result.n, round(result.low, 3)
    (0.1, 3, 0.1)
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}: pairs need the same cases on both sides")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    names = list(range(len(difference))) if groups is None else list(groups)
    mean = bootstrap_mean(difference.tolist(), names, seed=seed, resamples=resamples)
    per_group = group_means(difference, names)
    p = signed_rank(per_group.tolist())
    return PairedDifference(mean.mean, mean.low, mean.high, mean.n, len(per_group), p)
