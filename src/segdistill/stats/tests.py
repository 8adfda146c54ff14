"""Tests of paired differences: Wilcoxon's signed ranks, Holm's correction, and the spread between trainings.

Sources: F. Wilcoxon, Biometrics Bulletin 1 (1945); S. Holm, Scandinavian Journal of Statistics 6 (1979); for the
degrees of freedom of a sum of variances B. Welch, Biometrika 34 (1947), and F. Satterthwaite, Biometrics Bulletin 2
(1946); for intervals that are combined in quadrature G. Zou, A. Donner, Statistics in Medicine 27 (2008); for folds
C. Nadeau, Y. Bengio, Inference for the generalization error, Machine Learning 52 (2003), and R. Bouckaert, E. Frank,
PAKDD 2004; for false claims E. Christodoulou et al., False promises in medical imaging AI?, arXiv 2505.04720 (2025).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import MissingExtra


def group_index(groups: Sequence[Hashable]) -> NDArray[np.intp]:
    """Numbers the groups in order of first appearance: shape (N,), values 0 .. G-1.

    >>> group_index(["p2", "p1", "p2"]).tolist()
    [0, 1, 0]
    """
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(g, len(number)) for g in groups], dtype=np.intp)


def group_means(values: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """The mean of each group, in order of first appearance: shape (G,).

    >>> group_means(np.array([1.0, 5.0, 3.0]), ["p2", "p1", "p2"]).tolist()
    [2.0, 5.0]
    """
    index = group_index(groups)
    means: NDArray[np.float64] = (
        np.bincount(index, values) / np.bincount(index) if len(index) else np.zeros(0)
    )
    return means


def signed_rank(differences: Sequence[float]) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test of differences (N,); zeros are dropped.

    None where it cannot be computed: fewer than two differences, all zero, or no scipy.

    >>> signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    0.03125
    >>> signed_rank([0.0, 0.0])
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not values.any():
        return None
    try:
        from scipy.stats import wilcoxon
    except ImportError:
        return None
    p = float(wilcoxon(values).pvalue)
    return p if np.isfinite(p) else None


def rank_side(differences: Sequence[float]) -> int:
    """On which side Wilcoxon's ranks are: 1, -1, or 0. It need not be that of the mean.

    >>> rank_side([-0.1, -0.1, 0.9])
    0
    >>> rank_side([-0.1, -0.1, -0.1, 0.9])
    -1
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    sizes = np.sort(np.abs(values))
    twice = (
        np.searchsorted(sizes, np.abs(values), "left") + np.searchsorted(sizes, np.abs(values), "right") + 1
    )
    return int(
        np.sign((np.sign(values) * twice).sum())
    )  # twice the mean rank is whole, so that ties are exact


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of p values, in the order given; None stays None and counts as one of the tests.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    known = sorted((p, k) for k, p in enumerate(values) if p is not None)
    for rank, (p, k) in enumerate(known):
        largest = min(1.0, max(largest, p * (len(values) - rank)))
        corrected[k] = largest
    return corrected


class Error(NamedTuple):
    """A squared standard error and the degrees of freedom behind it."""

    variance: float
    freedom: float


def group_error(values: NDArray[np.float64], groups: Sequence[Hashable]) -> Error:
    """The error of the mean over cases when whole groups are drawn: that of a ratio of sums over groups.

    >>> group_error(np.array([1.0, 1.0, 3.0, 3.0]), ["p", "p", "q", "q"])
    Error(variance=1.0, freedom=1)
    """
    index = group_index(groups)
    sums, sizes = np.bincount(index, values), np.bincount(index)
    count = len(sizes)
    left = sums - values.mean() * sizes
    return Error(float(np.square(left).sum() * count / (count - 1) / len(values) ** 2), count - 1)


def combined(errors: Sequence[Error]) -> Error:
    """The error of a sum with independent errors, with Welch's and Satterthwaite's degrees of freedom.

    >>> combined([Error(1.0, 2), Error(1.0, 2)])
    Error(variance=2.0, freedom=4.0)
    """
    total = sum(error.variance for error in errors)
    squares = sum(error.variance**2 / error.freedom for error in errors)
    return Error(total, total**2 / squares if squares else float("inf"))


def seed_differences(a: dict[int | None, float], b: dict[int | None, float]) -> list[float]:
    """Mean a - mean b of each seed that both sides have, by seed.

    >>> seed_differences({0: 0.8, 1: 0.7}, {1: 0.5, 2: 0.6})
    [0.19999999999999996]
    """
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys(), key=str)]


def seed_error(a: dict[int | None, float], b: dict[int | None, float]) -> Error | None:
    """The error of mean a - mean b that comes from training again, given each training's mean score by its seed.

    Where both sides have the same seeds, it is that of the differences by seed, since student and baseline of one seed
    begin with the same weights; else the sides are independent. None with fewer than two trainings on a side.
    """
    if a.keys() == b.keys():
        return _error(seed_differences(a, b))
    sides = [_error(list(side.values())) for side in (a, b)]
    return combined([side for side in sides if side]) if all(sides) else None


def _error(values: list[float]) -> Error | None:
    if len(values) < 2:
        return None
    return Error(float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def joint_interval(mean: float, errors: Sequence[Error], level: float = 0.95) -> tuple[float, float]:
    """The interval around `mean` with several independent errors: their half-widths by Student's t, in quadrature.

    An error with few degrees of freedom, such as three seeds, keeps its own wide t. A sum of variances with the degrees
    of freedom of Welch and Satterthwaite is too narrow where that error dominates (7 % instead of 5 % wrong).

    Raises:
        MissingExtra: scipy is not installed.

    >>> low, high = joint_interval(0.0, [Error(1.0, 2)])
    >>> round(low, 3), round(high, 3)
    (-4.303, 4.303)
    """
    t = student_t()
    squares = [t.ppf(0.5 + level / 2, min(e.freedom, 1e9)) ** 2 * e.variance for e in errors]
    reach = float(np.sqrt(sum(squares)))
    return mean - reach, mean + reach


def resampled_interval(
    values: Sequence[float], share: float, level: float = 0.95
) -> tuple[float, float] | None:
    """Nadeau's and Bengio's interval of a mean difference over the tests of a cross-validation (corrected resampled t).

    The tests of a cross-validation are not independent, since the training sets of any two folds share most of their
    cases. The variance of J tests is therefore taken as (1 / J + share) s², not s² / J, with J - 1 degrees of freedom.
    Bouckaert and Frank use it for R repetitions of K folds, so that J = R K; here the repetitions are seeds.

    Args:
        values: the mean difference of each test (J,): one per fold and seed.
        share: test cases per training case: 1 / (K - 1) with K folds.
        level: of the interval.

    Returns:
        Both ends; None with fewer than two tests.

    Raises:
        MissingExtra: scipy is not installed.

    >>> low, high = resampled_interval([0.01, 0.02, 0.03, 0.02, 0.02], share=0.25)
    >>> round(low, 4), round(high, 4)
    (0.0068, 0.0332)
    """
    count = len(values)
    if count < 2:
        return None
    mean, variance = float(np.mean(values)), float(np.var(values, ddof=1))
    reach = float(student_t().ppf(0.5 + level / 2, count - 1) * np.sqrt((1 / count + share) * variance))
    return mean - reach, mean + reach


def false_claim(mean: float, error: Error) -> float | None:
    """The probability, given these cases, that the claim "better" is false: the true mean difference is not above 0.

    After Christodoulou et al. (2025), for segmentation: with a prior that prefers no mean and no standard deviation,
    and differences of a normal distribution, the true mean has Student's t as its posterior, so that
    P(true mean <= 0 | cases) = T(-mean / standard error), with G - 1 degrees of freedom. They estimate the standard
    error from published scores and the correlation of two networks; here the differences are paired, and the error is
    that of whole groups. It is about these two trained networks: the luck of a training is not in it ("cases only").

    Args:
        mean: of the differences, positive where the variant is better.
        error: from `group_error`.

    Returns:
        Above 0.5 where the variant is the worse one; None where nothing varies, or scipy is not installed.

    >>> round(false_claim(0.02, Error(0.0001, 50)), 4)
    0.0255
    """
    if error.variance <= 0:
        return None
    try:
        return float(student_t().cdf(-mean / np.sqrt(error.variance), error.freedom))
    except MissingExtra:
        return None


def student_t() -> Any:
    """Student's t of scipy.

    Raises:
        MissingExtra: scipy is not installed.

    >>> round(float(student_t().ppf(0.975, 2)), 3)
    4.303
    """
    try:
        from scipy.stats import t
    except ImportError as reason:
        raise MissingExtra("a verdict", "report") from reason
    return t
