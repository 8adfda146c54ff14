from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from segdistill.stats.bootstrap import PairedDifference
from segdistill.stats.verdict import HELPS, HURTS, NO_EVIDENCE, Verdict, compare_scores, correct, sentence_of


def study(
    rng: np.random.Generator, effect: float = 0.0, luck: float = 0.01, seeds: int = 3, patients: int = 40
) -> Verdict:
    """Two methods on the same patients, some with two images; each training is lucky or not, as a whole."""
    groups = [k for k in range(patients) for _ in range(1 + k % 2)]
    hard = rng.normal(0, 0.12, patients)[groups]
    answer = rng.normal(0, 0.04, patients)[groups]  # whom the method suits

    def trained(lift: float, own: float) -> dict[int | None, np.ndarray]:
        return {
            s: 0.7 + hard + own * answer + lift + rng.normal(0, luck) + rng.normal(0, 0.05, len(groups))
            for s in range(seeds)
        }

    return compare_scores(
        trained(effect, 1.0), trained(0.0, 0.0), groups, variant="m", baseline="b", metric="dice"
    )


@pytest.mark.parametrize("luck", [0.0, pytest.param(0.01, marks=pytest.mark.slow), 0.04])
def test_without_a_difference_the_rule_is_wrong_in_at_most_one_of_twenty(luck: float) -> None:
    """400 studies over the three kinds of luck; in the last, interval and p alone would be wrong far more often."""
    count = 400 if luck == 0.01 else 200
    rng = np.random.default_rng(1)
    found = [study(rng, luck=luck) for _ in range(count)]
    wrong = sum(c.outcome != NO_EVIDENCE for c in found)
    assert wrong <= 0.05 * count + 2 * np.sqrt(0.05 * 0.95 * count)
    cases_alone = sum((c.difference.p or 1) < 0.05 for c in found)
    if luck == 0.04:
        assert cases_alone > 0.3 * count


def test_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(2)
    assert Counter(study(rng, 0.08).outcome for _ in range(60))[HELPS] >= 55
    assert Counter(study(rng, -0.08).outcome for _ in range(60))[HURTS] >= 55


def test_the_wider_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    found = [study(rng, 0.02) for _ in range(300)]
    hits = sum(c.low <= 0.02 <= c.high for c in found)  # type: ignore[operator]
    assert hits >= 0.92 * len(found)
    narrow = sum(c.difference.low <= 0.02 <= c.difference.high for c in found)  # type: ignore[operator]
    assert narrow < hits


def test_numbers_by_hand() -> None:
    a = {0: np.array([0.8, 0.6, 0.9, 0.7]), 1: np.array([0.7, 0.8, 0.9, 0.7])}
    b = {0: np.array([0.6, 0.6, 0.8, 0.7]), 1: np.array([0.7, 0.5, 0.8, 0.6])}
    found = compare_scores(a, b, ["p", "p", "q", "r"], variant="m", baseline="b", metric="dice")
    each = np.array([0.1, 0.15, 0.1, 0.05])  # averaged over seeds first, then paired
    assert found.difference.mean == pytest.approx(each.mean())
    assert found.difference.p == pytest.approx(stats.wilcoxon([0.125, 0.1, 0.05]).pvalue)
    assert found.per_seed == pytest.approx((0.075, 0.125))
    assert found.spread == pytest.approx(np.std([0.075, 0.125], ddof=1))
    assert (found.difference.n, found.difference.groups, found.seeds) == (4, 3, 2)
    assert found.low < found.difference.low  # type: ignore[operator]


def shown(**changes: object) -> Verdict:
    """A comparison that meets the whole rule, but for the changes."""
    facts: dict[str, object] = {
        "variant": "kd",
        "baseline": "baseline",
        "metric": "dice",
        "difference": PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.001),
        "side": 1,
        "corrected": 0.01,
        "low": 0.01,
        "high": 0.05,
        "seeds": 3,
        "baseline_seeds": 3,
    }
    return Verdict(**{**facts, **changes})  # type: ignore[arg-type]


def test_many_verdicts_are_told_together() -> None:
    nothing = [shown(variant=f"m{k}", low=-0.01) for k in range(5)]
    assert (
        sentence_of([shown(), shown(low=-0.01)])
        == "kd against baseline: helps; kd against baseline: no evidence."
    )
    assert sentence_of(nothing) == "Of 5 comparisons: no evidence: all 5."
    assert sentence_of([shown(), *nothing]) == "Of 6 comparisons: helps: kd against baseline; no evidence: 5."


LACKING = {
    "2 trainings": {"seeds": 2},
    "one training": {"baseline_seeds": 1},
    "interval over cases contains zero": {"difference": PairedDifference(0.03, -0.001, 0.06, 90, 80, 0.001)},
    "corrected p is 0.050": {"corrected": 0.05},
    "cannot be computed": {"corrected": None},
    "ranks point the other way": {"side": -1},
    "trainings differ": {"low": -0.001},
    "too few groups": {"difference": PairedDifference(0.03, None, None, 3, 1, None)},
}


@pytest.mark.parametrize("reason", LACKING)
def test_every_part_of_the_rule_is_needed(reason: str) -> None:
    assert shown().outcome == HELPS
    assert shown().reasons == ()
    lacking = shown(**LACKING[reason])
    assert lacking.outcome == NO_EVIDENCE
    assert any(reason in one.text for one in lacking.reasons)
    assert Verdict.from_dict(json.loads(json.dumps(lacking.to_dict()))) == lacking


def test_lower_may_be_better() -> None:
    assert shown(metric="hd95", higher_is_better=False).outcome == HURTS
    down = PairedDifference(-0.03, -0.04, -0.02, 90, 80, 0.001)
    turned = {"difference": down, "side": -1, "low": -0.05, "high": -0.01}
    assert shown(**turned).outcome == HURTS
    assert shown(**turned, higher_is_better=False).outcome == HELPS


def test_not_worse_than_the_margin() -> None:
    even = {"difference": PairedDifference(0.001, -0.01, 0.012, 90, 80, 0.7), "corrected": 0.7}
    wide = {**even, "low": -0.015, "high": 0.017}
    assert shown(**wide, margin=0.02).words == "no evidence, not worse than by 0.02"
    assert not shown(**wide, margin=0.015).not_worse  # the end must lie above, not on it
    assert not shown(**wide, margin=0.012).not_worse  # the wider interval counts
    assert not shown(**wide).not_worse
    five = {"difference": PairedDifference(0.0, 0.0, 0.0, 9, 5, None), "low": 0.0, "high": 0.0}
    assert not shown(**five, margin=0.02).not_worse  # nothing varies in so few: that proves nothing
    assert not shown(**wide, margin=0.02, seeds=2).not_worse
    assert not shown(**{**even, "low": None, "high": None}, margin=0.02).not_worse
    assert shown(**wide, margin=0.018, higher_is_better=False).not_worse
    assert not shown(**wide, margin=0.016, higher_is_better=False).not_worse


def test_many_methods_cost_evidence() -> None:
    one = shown(difference=PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.02))
    assert correct([one])[0].outcome == HELPS
    assert [c.outcome for c in correct([one, one, one])] == [NO_EVIDENCE] * 3


def test_no_evidence_comes_with_what_would_have_been_shown() -> None:
    """Against the formula: t times the standard errors of cases and trainings, and 0.84 of both together."""
    rng = np.random.default_rng(2)
    base = rng.normal(0.8, 0.05, 40)
    a, b = ({s: base + rng.normal(0, 0.05, 40) + rng.normal(0, 0.01) for s in range(3)} for _ in range(2))
    found = compare_scores(a, b, list(range(40)), variant="kd", baseline="unet", metric="dice")
    difference = np.mean(list(a.values()), 0) - np.mean(list(b.values()), 0)
    trainings = np.var([(a[s] - b[s]).mean() for s in range(3)], ddof=1) / 3
    cases = difference.var(ddof=1) / 40
    reach = np.sqrt(stats.t.ppf(0.975, 39) ** 2 * cases + stats.t.ppf(0.975, 2) ** 2 * trainings)
    assert found.smallest == pytest.approx(reach + 0.8416 * np.sqrt(cases + trainings), rel=0.02)
    assert found.outcome == NO_EVIDENCE
    assert found.words.startswith(f"no evidence, would show {found.smallest:.3f} or more")
    assert f"40 cases and 3 seeds would show with 80 % power is about {found.smallest:.3f}" in found.details
    single = compare_scores(
        {0: a[0]}, {0: b[0]}, list(range(40)), variant="kd", baseline="unet", metric="dice"
    )
    assert "shows nothing below 3 seeds" in single.words
    assert "40 cases alone would show about" in single.details
    assert shown(smallest=0.04).words == "helps"


@pytest.mark.parametrize("seeds", [1, 2])
def test_below_three_seeds_it_is_what_the_cases_alone_would_show(seeds: int) -> None:
    """However much the trainings differ: with one degree of freedom their spread alone would make it 0.9."""
    rng = np.random.default_rng(2)
    base = rng.normal(0.8, 0.05, 40)
    a, b = (
        {s: base + rng.normal(0, 0.05, 40) + (0.1 * s + 0.02) * side for s in range(seeds)} for side in (1, 0)
    )
    found = compare_scores(a, b, list(range(40)), variant="kd", baseline="unet", metric="dice")
    error = np.sqrt((np.mean(list(a.values()), 0) - np.mean(list(b.values()), 0)).var(ddof=1) / 40)
    assert found.smallest == pytest.approx((stats.t.ppf(0.975, 39) + 0.8416) * error, rel=0.02)
    assert f"40 cases alone would show about {found.smallest:.3f}" in found.details
    assert found.to_dict()["smallest"] == found.smallest
    many = [shown(seeds=seeds, smallest=0.03) for _ in range(5)]
    assert sentence_of(many) == "Of 5 comparisons: no evidence: all 5."


def test_the_teacher_is_part_of_the_words() -> None:
    assert shown(this_teacher=True).words == "helps, with this teacher"
    nothing = [
        shown(variant=f"m{k}", low=-0.01, smallest=0.03 + k / 100, this_teacher=True) for k in range(5)
    ]
    ends = "(the smallest difference that would show: 0.030 to 0.070)"
    assert sentence_of(nothing) == f"Of 5 comparisons: no evidence, with this teacher: all 5 {ends}."


def test_nothing_to_compare_is_no_evidence() -> None:
    empty = compare_scores({0: np.zeros(0)}, {0: np.zeros(0)}, [], variant="m", baseline="b", metric="dice")
    assert empty.outcome == NO_EVIDENCE
    same = {s: np.full(9, 0.5) for s in range(3)}
    same_student = compare_scores(same, same, list(range(9)), variant="m", baseline="b", metric="dice")
    assert (same_student.outcome, same_student.low, same_student.high) == (NO_EVIDENCE, 0.0, 0.0)
