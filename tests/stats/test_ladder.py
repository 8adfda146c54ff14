"""The fixed sequence of a ladder, the margins, and what can be decided, against counts and formulas of their own."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from segdistill.stats.bootstrap import PairedDifference
from segdistill.stats.ladder import (
    ASSUMED_CASE_SD,
    ASSUMED_TRAINING_SD,
    claimed_rung,
    count_tested,
    decidable_margin,
    decidable_text,
    passing_margin,
)
from segdistill.stats.verdict import NotWorse, Verdict

OUTCOMES: tuple[NotWorse, ...] = ("not worse", "worse", "undecided")


@pytest.mark.parametrize("outcomes", list(product(OUTCOMES, repeat=3)))
def test_the_first_rung_that_does_not_pass_ends_the_claim(outcomes: tuple[NotWorse, ...]) -> None:
    passing = 0
    while passing < 3 and outcomes[passing] == "not worse":
        passing += 1
    assert claimed_rung(outcomes) == (passing - 1 if passing else None)
    assert count_tested(outcomes) == min(passing + 1, 3)


def test_a_fixed_sequence_seldom_claims_a_rung_that_is_worse() -> None:
    """Rungs that lose exactly the margin pass in 2.5 % of studies; a claim for any of them is no more frequent."""
    rng, margin, claims = np.random.default_rng(0), 0.02, 0
    for _ in range(2000):
        shared = rng.normal()
        lows = [
            -margin + 0.01 * (0.7 * shared + 0.714 * rng.normal()) - 1.96 * 0.01 for _ in range(4)
        ]  # lower ends of intervals of correlated rungs
        outcomes: list[NotWorse] = ["not worse" if low > -margin else "undecided" for low in lows]
        claims += claimed_rung(outcomes) is not None
    assert claims / 2000 < 0.025 + 2 * np.sqrt(0.025 * 0.975 / 2000)


def verdict(mean: float, reach: float, resampled: float, margin: float) -> Verdict:
    found = PairedDifference(mean, mean - 0.8 * reach, mean + 0.8 * reach, 90, 80, 0.5)
    ends = {"low": mean - reach, "high": mean + reach, "resampled": (mean - resampled, mean + resampled)}
    return Verdict("small", "large", "dice", found, seeds=5, baseline_seeds=5, margin=margin, **ends)


@pytest.mark.parametrize(
    ("mean", "reach", "resampled"), [(-0.01, 0.02, 0.01), (0.0, 0.01, 0.03), (0.05, 0.01, 0.02)]
)
def test_the_passing_margin_is_where_the_verdict_turns(mean: float, reach: float, resampled: float) -> None:
    needed = passing_margin(verdict(mean, reach, resampled, 0.02))
    assert needed is not None
    assert verdict(mean, reach, resampled, needed + 1e-6).non_inferiority == "not worse"
    if needed > 1e-3:
        assert verdict(mean, reach, resampled, needed - 1e-6).non_inferiority == "undecided"


@pytest.mark.parametrize("few", [{"seeds": 2}, {"baseline_seeds": 2}])
def test_too_few_trainings_decide_at_no_margin(few: dict[str, int]) -> None:
    found = replace(verdict(0.0, 0.01, 0.02, 0.5), **few)
    assert found.non_inferiority == "undecided"
    assert passing_margin(found) is None
    assert passing_margin(verdict(0.0, 0.01, 0.02, 0.5)) is not None


def test_without_intervals_there_is_no_passing_margin() -> None:
    assert passing_margin(Verdict("a", "b", "dice", PairedDifference(0.1, None, None, 3, 1))) is None


def test_the_decidable_margin_is_the_reach_of_the_widest_interval_plus_power() -> None:
    cases, folds, seeds = 400, 5, 2
    case, training = ASSUMED_CASE_SD**2 / cases, ASSUMED_TRAINING_SD**2 / (folds * seeds)
    joint = np.hypot(
        stats.t.ppf(0.975, cases - 1) * np.sqrt(case),
        stats.t.ppf(0.975, folds * (seeds - 1)) * np.sqrt(training),
    )
    one = ASSUMED_CASE_SD**2 * folds / cases + ASSUMED_TRAINING_SD**2
    corrected = stats.t.ppf(0.975, folds * seeds - 1) * np.sqrt((1 / (folds * seeds) + 1 / (folds - 1)) * one)
    expected = max(joint, corrected) + stats.norm.ppf(0.8) * np.sqrt(case + training)
    assert decidable_margin(cases, cases, folds, seeds) == pytest.approx(expected, rel=1e-3)
    assert decidable_margin(cases, cases, 2, 1) is None
    assert decidable_margin(cases, 5, folds, seeds) is None
    assert "no margin can be decided" in decidable_text(0.02, None, 400, 2, 1)
