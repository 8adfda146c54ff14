"""Repeated trainings as LA-Net reports them: mean with a t-interval, and a one-sided test between two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from segdistill.errors import MissingExtra


class Repeated(NamedTuple):
    """Mean of n repetitions, the half-width of its interval and their standard deviation; None with one repetition."""

    mean: float
    half: float | None
    deviation: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f"±{self.half:.3f}" if self.half is not None else "")


def repeated(values: Sequence[float], level: float = 0.95) -> Repeated:
    """Mean with the interval of Student's t: t(n - 1) sd / sqrt(n), 4.303 sd / sqrt(3) for three repetitions.

    Raises:
        ValueError: no value. MissingExtra: scipy is not installed.

    >>> str(repeated([0.43, 0.44, 0.45]))
    '0.440±0.025'
    >>> str(repeated([0.43]))
    '0.430'
    """
    n = len(values)
    if not n:
        raise ValueError("no repetition: give at least one value")
    mean = math.fsum(values) / n
    if n == 1:
        return Repeated(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _stats().t.ppf((1 + level) / 2, n - 1) * deviation / math.sqrt(n)
    return Repeated(mean, float(half), deviation, n)


def better_p(ours: Sequence[float], other: Sequence[float]) -> float | None:
    """One-sided independent t-test: p of the null hypothesis that `ours` is not larger than `other`.

    It assumes equal variances, as the paper does. None with fewer than two repetitions on a side, or where
    none of them differ.

    Raises:
        MissingExtra: scipy is not installed.

    >>> better_p([0.9, 0.91, 0.92], [0.8, 0.81, 0.82]) < 0.001
    True
    """
    alike = len(set(ours)) == 1 and len(set(other)) == 1
    if alike or min(len(ours), len(other)) < 2:
        return None
    p = float(_stats().ttest_ind(ours, other, alternative="greater").pvalue)
    return p if math.isfinite(p) else None


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingExtra("intervals of repeated trainings", "report") from error
    return stats
