"""Agreement of predicted and reference areas after Bland and Altman.

J. M. Bland, D. G. Altman, Statistical methods for assessing agreement between two methods of clinical measurement,
Lancet 327 (1986). The bias is the mean of predicted minus reference area, the limits bias ± 1.96 standard deviations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.metrics.cases import CaseResult
from segdistill.records import Interval
from segdistill.stats.bootstrap import bootstrap_means, bootstrap_table


@dataclass(frozen=True)
class Agreement:
    """Predicted against reference area over n cases, in percent of the image.

    Attributes:
        bias: mean of predicted minus reference, with its bootstrap interval over groups.
        low, high: limits of agreement; None with fewer than two cases.
        low_interval, high_interval: bootstrap intervals of the limits; None with fewer than two groups.
        means, differences: per case.
    """

    bias: Interval
    low: float | None
    high: float | None
    low_interval: tuple[float, float] | None
    high_interval: tuple[float, float] | None
    means: NDArray[np.float64]
    differences: NDArray[np.float64]


def area_agreement(results: Iterable[CaseResult], seed: int = 0) -> Agreement:
    """Bland and Altman's agreement of the areas of the cases with something to find.

    >>> rows = [CaseResult(c, c, reference_area=0.1, predicted_area=p) for c, p in (("a", 0.11), ("b", 0.13))]
    >>> found = area_agreement(rows)
    >>> round(found.bias.mean, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.772, 4.772)
    """
    rows = [r for r in results if not r.normal]
    predicted, reference = (
        100 * np.array([getattr(r, name) for r in rows], np.float64)
        for name in ("predicted_area", "reference_area")
    )
    differences, groups = predicted - reference, [r.group for r in rows]
    means = (predicted + reference) / 2
    (bias,) = bootstrap_table(differences[:, None], groups, seed=seed)
    if len(rows) < 2:
        return Agreement(bias, None, None, None, None, means, differences)
    low, high = _limits(differences.mean(), np.square(differences).mean(), len(rows))
    if bias.low is None:
        return Agreement(bias, float(low), float(high), None, None, means, differences)
    draws = bootstrap_means(np.column_stack([differences, np.square(differences)]), groups, seed=seed)
    ends = [np.percentile(end, [2.5, 97.5]) for end in _limits(draws[:, 0], draws[:, 1], len(rows))]
    intervals = [(float(a), float(b)) for a, b in ends]
    return Agreement(bias, float(low), float(high), intervals[0], intervals[1], means, differences)


def _limits(mean: Any, square: Any, n: int) -> tuple[Any, Any]:
    """Mean ± 1.96 standard deviations, from the means of differences and of their squares."""
    reach = 1.96 * np.sqrt(np.maximum(square - np.square(mean), 0) * n / (n - 1))
    return mean - reach, mean + reach
