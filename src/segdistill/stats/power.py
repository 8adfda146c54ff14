"""How many cases and seeds would show a difference, given what was observed.

The reach of the verdict's intervals (stats/verdict.py, stats/folds.py) is computed for other numbers of cases and
trainings from two observed variances: between cases (whole groups), and between trainings. A true difference is shown
with a power of 80 % where it is as large as that reach plus 0.84 standard errors (J. Cohen, Statistical power
analysis for the behavioral sciences, 1988, ch. 2). Wilcoxon's ranks and Holm's correction are not part of it, so that
the numbers are rough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segdistill.stats.tests import student_t

POWER = 0.80
EFFECTS = (0.01, 0.02)
MOST_CASES = 100_000


class Needed(NamedTuple):
    """What would show a true difference of `effect`: `cases` with `seeds` on each side (None: no number of cases)."""

    effect: float
    seeds: int
    cases: int | None


@dataclass(frozen=True)
class Variances:
    """What differences varied by.

    Attributes:
        case: N times the squared standard error of the mean over N cases, drawn in whole groups.
        training: of the difference between one training of each side, over trainings.
        groups: per case, 0 to 1.
        folds: of the cross-validation; 1: one hold-out.
    """

    case: float
    training: float
    groups: float = 1.0
    folds: int = 1

    def power_reach(self, cases: int, seeds: float) -> float:
        """The smallest difference that `cases` and `seeds` on each side would show with a power of 80 %.

        Raises:
            MissingExtra: scipy is not installed.

        >>> round(Variances(case=0.0144, training=0.0001).power_reach(96, 3), 3)
        0.046
        """
        t, trainings = student_t(), self.folds * seeds
        freedom = self.folds * (seeds - 1) if seeds > 1 else self.folds - 1
        errors = (
            (self.case / cases, max(1.0, cases * self.groups - 1)),
            (self.training / trainings, max(1, freedom)),
        )
        reach = np.sqrt(sum(t.ppf(0.975, free) ** 2 * variance for variance, free in errors))
        if self.folds > 1:  # Nadeau's and Bengio's interval has to exclude zero, too
            one = self.case * self.folds / cases + self.training
            share = 1 / trainings + 1 / (self.folds - 1)
            reach = max(reach, t.ppf(0.975, trainings - 1) * np.sqrt(share * one))
        quantile = t.ppf(POWER, 1e9)
        return float(reach + quantile * np.sqrt(sum(variance for variance, _ in errors)))


def needed(
    variances: Variances, seeds: Sequence[int], effects: Sequence[float] = EFFECTS
) -> tuple[Needed, ...]:
    """The cases that would show each effect with a power of 80 %, for each number of seeds.

    Args:
        variances: as observed.
        seeds: on each side; of a cross-validation for each fold.
        effects: true differences.

    Raises:
        MissingExtra: scipy is not installed.

    >>> [one.cases for one in needed(Variances(case=0.0144, training=0.0001), [3, 10], [0.02])]
    [None, 375]
    """
    return tuple(Needed(effect, k, _cases(variances, effect, k)) for effect in effects for k in seeds)


def seeds_of(first: int, second: int) -> float:
    """Seeds on each of two equal sides whose difference is as sure as that of `first` and `second`: the harmonic mean.

    >>> seeds_of(3, 3), seeds_of(1, 3)
    (3.0, 1.5)
    """
    return 2 / (1 / first + 1 / second)


def _cases(variances: Variances, effect: float, seeds: int) -> int | None:
    low, high = max(2, variances.folds), MOST_CASES
    if variances.power_reach(high, seeds) > effect:
        return None
    while low < high:  # the reach falls with the number of cases
        middle = (low + high) // 2
        if variances.power_reach(middle, seeds) > effect:
            low = middle + 1
        else:
            high = middle
    return low


def needed_text(found: Sequence[Needed], folds: int = 1) -> str:
    """In words; "" where nothing is known.

    >>> needed_text([Needed(0.02, 3, None), Needed(0.02, 10, 375)])
    'To show 0.02 with 80 % power, about: no number of cases with 3 seeds, 375 cases with 10 seeds.'
    """
    parts = []
    for effect in dict.fromkeys(one.effect for one in found):
        each = ", ".join(_one(one, folds) for one in found if one.effect == effect)
        parts.append(f"To show {effect:g} with {POWER:.0%} power, about: {each}.".replace("%", " %"))
    return " ".join(parts)


def _one(found: Needed, folds: int) -> str:
    count = "no number of cases" if found.cases is None else f"{found.cases:,} cases"
    times = f"{folds} folds of " if folds > 1 else ""
    return f"{count} with {times}{found.seeds} seed{'s' * (found.seeds != 1)}"
