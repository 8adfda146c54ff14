"""Whether a method helps: one rule, stated before the numbers are seen, and the words for what it finds.

A method "helps" when all of this holds, and "hurts" when it holds with the sign turned; else there is "no evidence":

1. both sides were trained with at least three seeds;
2. the 95 % bootstrap interval over groups (patients) of the mean paired difference excludes zero, where each case is
   averaged over seeds first;
3. Wilcoxon's signed ranks over groups are on the same side, with p below 0.05 after Holm's correction over all methods
   that are compared with this baseline;
4. the wider interval, which adds the spread between trainings, excludes zero, too.

The last one is there because patients say nothing of luck in training: with many test cases a lucky seed is
"significant".
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.stats.bootstrap import PairedDifference, paired_difference
from segdistill.stats.tests import (
    Error,
    group_error,
    group_means,
    holm,
    joint_interval,
    rank_side,
    seed_differences,
    seed_error,
)
from segdistill.stats.text import number, signed

SEEDS = 3
GROUPS = 6  # the fewest with which signed ranks can reach p < 0.05
LEVEL = 0.05
HELPS, HURTS, NO_EVIDENCE = "helps", "hurts", "no evidence"

Scores = Mapping[int | None, NDArray[np.float64]]
"""One training's scores (N,) per seed, the cases in the same order everywhere."""


@dataclass(frozen=True)
class Comparison:
    """One method against one baseline in one metric, everything as method minus baseline.

    Attributes:
        method, baseline, metric: what was compared.
        difference: of each case's average over seeds: mean, interval over groups, Wilcoxon's p.
        side: of Wilcoxon's ranks: 1, -1, or 0.
        corrected: p after Holm's correction over `family` methods; None where p is.
        low, high: interval over groups and trainings together; None with fewer than two trainings on a side.
        seeds, baseline_seeds: number of trainings.
        per_seed: mean differences of the seeds that both sides have; spread: their standard deviation (where the seeds
            differ, that of the difference of one training of each).
        smaller_is_better: of the metric, such as a distance.
        margin: a loss that would be accepted, stated beforehand; None: not stated.
        kind: what the baseline is: "equal steps", "equal time", "more time", or "" where not known; own baseline: whether it
            is the same network without distillation.
    """

    method: str
    baseline: str
    metric: str
    difference: PairedDifference
    side: int = 0
    corrected: float | None = None
    family: int = 1
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    baseline_seeds: int = 1
    per_seed: tuple[float, ...] = ()
    spread: float | None = None
    smaller_is_better: bool = False
    margin: float | None = None
    kind: str = ""
    same_student: bool = False

    @property
    def _sign(self) -> int:
        return -1 if self.smaller_is_better else 1

    @property
    def doubts(self) -> list[str]:
        """Which parts of the rule are not met, in words; none where the verdict is "helps" or "hurts"."""
        found, of = [], self.difference
        if (fewest := min(self.seeds, self.baseline_seeds)) < SEEDS:
            trained = "one training" if fewest == 1 else f"{fewest} trainings"
            found.append(f"{trained} on a side, and a verdict needs {SEEDS} seeds")
        if of.low is None or of.high is None:
            return [*found, "too few groups for an interval"]
        if of.low <= 0 <= of.high:
            found.append("the interval over cases holds zero")
        if self.corrected is None or self.corrected >= LEVEL:
            p = "not computable" if self.corrected is None else number(self.corrected, 3)
            found.append(f"the corrected p is {p}")
        elif self.side * (of.mean or 0) <= 0:
            found.append("the ranks point the other way than the mean")
        if self.low is not None and self.high is not None and self.low <= 0 <= self.high:
            found.append("trainings differ among each other by as much")
        return found

    @property
    def verdict(self) -> str:
        """Exactly one of "helps", "hurts", "no evidence", by the rule of this file.

        >>> found = PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.001)
        >>> Comparison("kd", "baseline", "dice", found, 1, 0.004, 4, 0.01, 0.05, 3, 3).verdict
        'helps'
        >>> Comparison("kd", "baseline", "dice", found, 1, 0.004, 4, seeds=1).verdict
        'no evidence'
        """
        if self.doubts:
            return NO_EVIDENCE
        return HELPS if self._sign * (self.difference.mean or 0) > 0 else HURTS

    @property
    def not_worse(self) -> bool:
        """Whether a loss as large as the margin is excluded, by both intervals, three seeds and six groups at least."""
        few = min(self.seeds, self.baseline_seeds) < SEEDS or self.difference.groups < GROUPS
        if self.margin is None or few:
            return False
        ends = [self.difference.low, self.low, self.difference.high, self.high]
        known = [self._sign * end for end in ends if end is not None]
        return len(known) == 4 and min(known) > -self.margin

    @property
    def words(self) -> str:
        """The verdict, and "not worse than by MARGIN" where that was shown and says more.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Comparison("kd", "a", "dice", found, 1, 1.0, 1, -0.015, 0.015, 3, 3, margin=0.02).words
        'no evidence, not worse than by 0.02'
        """
        return self.verdict + (
            f", not worse than by {self.margin:g}" if self.not_worse and self.verdict != HELPS else ""
        )

    @property
    def numbers(self) -> str:
        """The numbers behind the verdict in one line."""
        of = self.difference
        groups = "" if of.groups == of.n else f" in {of.groups} groups"
        line = f"{signed(of.mean)} {'Dice' if self.metric == 'dice' else self.metric}"
        line += (
            ", too few groups for an interval"
            if of.low is None
            else f", 95 % interval {signed(of.low)} to {signed(of.high)}"
        )
        line += f" over {of.n} paired cases{groups}"
        if self.low is not None:
            line += f", with the spread over trainings {signed(self.low)} to {signed(self.high)}"
        if of.p is not None:
            line += f", Wilcoxon p {_p(of.p)}"
            if self.family > 1 and self.corrected is not None:
                line += f", after Holm over {self.family} methods {_p(self.corrected)}"
        return line

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON and comparison.csv."""
        of = self.difference
        return {
            "method": self.method,
            "baseline": self.baseline,
            "kind": self.kind,
            "metric": self.metric,
            "cases": of.n,
            "groups": of.groups,
            "seeds": self.seeds,
            "baseline_seeds": self.baseline_seeds,
            "difference": of.mean,
            "low": of.low,
            "high": of.high,
            "low_with_seeds": self.low,
            "high_with_seeds": self.high,
            "spread_over_seeds": self.spread,
            "per_seed": list(self.per_seed),
            "p": of.p,
            "p_holm": self.corrected,
            "methods_in_holm": self.family,
            "margin": self.margin,
            "not_worse": self.not_worse,
            "verdict": self.verdict,
            "doubts": self.doubts,
        }


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def compare_scores(
    a: Scores, b: Scores, groups: Sequence[Hashable], *, seed: int = 0, **facts: Any
) -> Comparison:
    """Averages each case over the trainings of a side, pairs the cases, and measures the difference a - b.

    Args:
        a: scores (N,) of each training of the method, by its seed.
        b: the same of the baseline; the cases in the same order.
        groups: of the N cases.
        seed: of the bootstrap.
        facts: further fields of Comparison, such as method, baseline, metric.

    Raises:
        ValueError: lengths differ, or a score is not finite.
        MissingExtra: scipy is not installed, and several trainings are to be judged.

    >>> one = {0: np.array([0.8, 0.9]), 1: np.array([0.7, 0.9])}
    >>> two = {0: np.array([0.7, 0.8]), 1: np.array([0.6, 0.8])}
    >>> round(compare_scores(one, two, ["p", "q"], method="kd", baseline="baseline", metric="dice").difference.mean, 3)
    0.1
    """
    mean_a, mean_b = (np.mean(list(side.values()), axis=0) for side in (a, b))
    found = paired_difference(mean_a.tolist(), mean_b.tolist(), groups, seed=seed)
    made = Comparison(difference=found, seeds=len(a), baseline_seeds=len(b), **facts)
    if found.mean is None:
        return made
    averages = [{key: float(scores.mean()) for key, scores in side.items()} for side in (a, b)]
    trainings = seed_error(*averages)
    made = replace(
        made,
        side=rank_side(group_means(mean_a - mean_b, groups).tolist()),
        corrected=found.p,
        per_seed=tuple(seed_differences(*averages)),
        spread=None if trainings is None else _spread(trainings, len(a), len(b)),
    )
    if trainings is None or found.low is None:
        return made
    low, high = joint_interval(found.mean, [group_error(mean_a - mean_b, groups), trainings])
    return replace(made, low=low, high=high)


def _spread(error: Error, a: int, b: int) -> float:
    """The standard deviation of the difference between one training of each side."""
    return float(np.sqrt(error.variance * 2 / (1 / a + 1 / b)))


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with Holm's correction over all of them: those of several methods with one baseline.

    >>> found = PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.03)
    >>> [c.corrected for c in correct([Comparison(m, "baseline", "dice", found) for m in "ab"])]
    [0.06, 0.06]
    """
    p = holm([c.difference.p for c in comparisons])
    return [
        replace(c, corrected=value, family=len(comparisons)) for c, value in zip(comparisons, p, strict=True)
    ]
