"""Verdicts over folds: by hand, against simulated studies, and with tables from elsewhere."""

from __future__ import annotations

import json
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segdistill.errors import InputError
from segdistill.stats.folds import CaseScore, TrainingKey, compare_rows
from segdistill.stats.tests import Error, false_claim, resampled_interval
from segdistill.stats.verdict import HELPS, HURTS, NO_EVIDENCE, UNDECIDED, Verdict

FOLDER = Path(__file__).parents[2] / "benchmarks"
FACTS: dict[str, Any] = {"variant": "kd", "baseline": "base", "metric": "dice"}


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """The benchmark's parts: its studies have the spread that was observed on BUSI."""
    sys.path.insert(0, str(FOLDER))  # it imports its neighbour
    try:
        return runpy.run_path(str(FOLDER / "verdict_power.py"))
    finally:
        sys.path.remove(str(FOLDER))


def rows(
    values: dict[tuple[int, int], list[float]], groups: dict[int, list[str]] | None = None
) -> dict[TrainingKey, list[CaseScore]]:
    return {
        TrainingKey(seed, fold): [
            CaseScore(f"f{fold}c{k}", groups[fold][k] if groups else f"f{fold}c{k}", value)
            for k, value in enumerate(scores)
        ]
        for (seed, fold), scores in values.items()
    }


def zero(values: dict[tuple[int, int], list[float]]) -> dict[tuple[int, int], list[float]]:
    return {key: [0.0] * len(scores) for key, scores in values.items()}


def test_numbers_by_hand() -> None:
    """Three folds of 3, 3 and 2 cases, two seeds; the baseline is 0, so that scores are differences."""
    values = {
        (0, 1): [0.10, 0.20, 0.00],
        (1, 1): [0.14, 0.22, 0.06],
        (0, 2): [0.05, -0.05, 0.30],
        (1, 2): [0.05, -0.01, 0.20],
        (0, 3): [0.20, 0.40],
        (1, 3): [0.30, 0.10],
    }
    groups = {1: ["p", "p", "q"], 2: ["r", "s", "t"], 3: ["u", "v"]}
    found = compare_rows(rows(values, groups), rows(zero(values), groups), **FACTS)
    each = {f: np.mean([values[0, f], values[1, f]], axis=0) for f in (1, 2, 3)}
    pooled = np.concatenate(list(each.values()))
    assert found.difference.mean == pytest.approx(pooled.mean())
    assert (found.difference.n, found.difference.groups, found.seeds, found.folds) == (8, 7, 6, 3)
    tests = [float(np.mean(values[key])) for key in sorted(values, key=lambda key: (key[1], key[0]))]
    assert found.per_seed == pytest.approx(tests)

    # Nadeau and Bengio: test and training cases are as 1 to 2 with three folds
    reach = stats.t.ppf(0.975, 5) * np.sqrt((1 / 6 + 1 / 2) * np.var(tests, ddof=1))
    assert found.resampled == pytest.approx((np.mean(tests) - reach, np.mean(tests) + reach))

    def of_groups(x: np.ndarray, names: list[str]) -> float:
        sums = {g: sum(v - x.mean() for v, n in zip(x, names, strict=True) if n == g) for g in set(names)}
        count = len(sums)
        return sum(s**2 for s in sums.values()) * count / (count - 1) / len(x) ** 2

    weights = np.array([3, 3, 2]) / 8
    cases = of_groups(pooled, [g for f in (1, 2, 3) for g in groups[f]])
    luck = [np.var([np.mean(values[s, f]) for s in (0, 1)], ddof=1) / 2 for f in (1, 2, 3)]
    means = np.array([each[f].mean() for f in (1, 2, 3)])
    observed = np.average((means - np.average(means, weights=weights)) ** 2, weights=weights) * 3 / 2
    explained = np.average([of_groups(each[f], groups[f]) for f in (1, 2, 3)], weights=weights)
    excess = max(0.0, observed - explained - np.average(luck, weights=weights))
    parts = [(cases, 6), (float(np.sum(weights**2 * luck)), 3), (excess * np.sum(weights**2), 2)]
    wide = np.sqrt(sum(stats.t.ppf(0.975, df) ** 2 * v for v, df in parts))
    assert (found.low, found.high) == pytest.approx((pooled.mean() - wide, pooled.mean() + wide))
    assert found.false_claim == pytest.approx(stats.t.cdf(-pooled.mean() / np.sqrt(cases), 6))
    assert Verdict.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_folds_that_differ_by_more_than_their_cases_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    even = {(0, f): list(0.05 + rng.normal(0, 0.02, 30)) for f in range(1, 6)}
    uneven = {(s, f): [v + 0.04 * (f - 3) for v in x] for (s, f), x in even.items()}
    calm, wild = (compare_rows(rows(v), rows(zero(v)), **FACTS) for v in (even, uneven))
    assert calm.outcome == HELPS
    assert wild.outcome == NO_EVIDENCE
    assert [reason.rule for reason in wild.reasons] == ["trainings"]
    assert wild.high - wild.low > 2 * (calm.high - calm.low)  # type: ignore[operator]


def shown(**changes: Any) -> Verdict:
    values = {(s, f): list(np.linspace(0.02, 0.08, 20)) for s in (0, 1) for f in range(1, 6)}
    found = compare_rows(rows(values), rows(zero(values)), **FACTS)
    assert found.outcome == HELPS
    return Verdict(**{**{name: getattr(found, name) for name in found.__dataclass_fields__}, **changes})


def test_where_the_two_rules_disagree_it_is_undecided() -> None:
    found = shown(resampled=(-0.01, 0.11))
    assert (found.outcome, [reason.rule for reason in found.reasons]) == (UNDECIDED, ["folds"])
    assert "the corrected t-test over folds does not confirm it" in found.details
    found = shown(corrected=0.2)
    assert found.outcome == UNDECIDED  # the t-test alone finds it
    assert [reason.rule for reason in found.reasons] == ["p", "folds"]
    assert shown(corrected=0.2, resampled=(-0.01, 0.11)).outcome == NO_EVIDENCE
    assert shown(seeds=2).outcome == NO_EVIDENCE  # two trainings are too few for either
    assert shown(resampled=(-0.11, -0.01)).outcome == UNDECIDED


def test_not_worse_needs_all_intervals() -> None:
    assert shown(margin=0.02).non_inferiority == "not worse"
    assert shown(margin=0.02, resampled=(-0.03, 0.1)).non_inferiority == "undecided"
    assert shown(default_margin=0.02).accepted == 0.02
    assert "the default margin" in shown(default_margin=0.02).details
    assert "(the margin): shown" in shown(margin=0.02, default_margin=0.02).details


def test_tables_from_elsewhere_count_their_networks_as_trainings() -> None:
    """Five networks of one seed, all tested on the same cases: each case is averaged over folds first."""
    rng = np.random.default_rng(1)
    luck = {f: 0.04 + rng.normal(0, 0.005) for f in range(1, 6)}
    own = rng.normal(0, 0.02, 40)
    a, b = (
        {
            TrainingKey(0, f): [CaseScore(f"c{k}", f"c{k}", lift[f] + side * own[k]) for k in range(40)]
            for f in luck
        }
        for side, lift in ((1.0, luck), (0.0, dict.fromkeys(luck, 0.0)))
    )
    found = compare_rows(a, b, **FACTS)
    assert (found.outcome, found.seeds, found.folds, found.difference.n) == (HELPS, 5, 1, 40)
    assert found.difference.mean == pytest.approx(np.mean(list(luck.values())) + own.mean())
    assert found.spread == pytest.approx(np.std(list(luck.values()), ddof=1))
    assert found.resampled is None


def test_below_three_trainings_the_cases_alone_count() -> None:
    """Two folds with one seed: what 40 cases would show, whatever their networks differ by."""
    rng = np.random.default_rng(1)
    values = {(0, fold): (0.3 * fold - 0.45 + rng.normal(0, 0.05, 20)).tolist() for fold in (1, 2)}
    found = compare_rows(rows(values), rows(zero(values)), **FACTS)
    scores = np.concatenate(list(values.values()))
    error = np.std(scores, ddof=1) / np.sqrt(40)
    assert found.smallest == pytest.approx((stats.t.ppf(0.975, 39) + 0.8416) * error, rel=0.02)
    assert "40 cases alone would show about" in found.details


def test_folds_that_cannot_be_paired_are_refused() -> None:
    values = {(0, f): [0.1, 0.2, 0.3] for f in (1, 2, 3)}
    other = rows(zero(values))
    del other[TrainingKey(0, 2)]
    assert compare_rows(rows(values), other, planned_folds=3, **FACTS).folds == 2
    short = rows({**zero(values), (0, 2): [0.0, 0.0]})
    with pytest.raises(
        InputError, match=r"trainings of fold 2 were tested on different cases \(such as 'f2c2'\)"
    ):
        compare_rows(rows(values), short, **FACTS)
    with pytest.raises(InputError, match="no fold was tested by all seeds of both sides"):
        compare_rows(rows({(0, 1): [0.1]}), rows({(0, 2): [0.1]}), **FACTS)
    mixed = {key: [CaseScore("same", "same", 0.1), *own] for key, own in rows(values).items()}
    with pytest.raises(InputError, match="two folds tested some of the same cases"):
        compare_rows(mixed, mixed, **FACTS)


def test_false_claims_by_hand() -> None:
    """With many groups Student's t is normal: 1.645 standard errors leave one in twenty."""
    assert false_claim(1.6449, Error(1.0, 1e6)) == pytest.approx(0.05, abs=1e-4)
    assert false_claim(-0.02, Error(0.0001, 50)) == pytest.approx(1 - 0.0255, abs=1e-3)
    assert false_claim(0.0, Error(0.0001, 9)) == pytest.approx(0.5)
    assert false_claim(0.01, Error(0.0, 9)) is None
    assert resampled_interval([0.1], 0.25) is None


def test_without_an_effect_few_verdicts_are_wrong(simulated: dict[str, Any]) -> None:
    """30 studies of two designs here; hundreds of all designs in benchmarks/verdict_power.py."""
    rng, count = np.random.default_rng(0), 30
    for name in ("5 folds, 647 cases, 1 seed", "5 folds, 647 cases, 2 seeds, double luck"):
        found = Counter(
            simulated["study"](rng, simulated["DESIGNS"][name], 0.0).outcome for _ in range(count)
        )
        wrong = found[HELPS] + found[HURTS]
        assert wrong <= 0.05 * count + 2 * np.sqrt(0.05 * 0.95 * count), (name, found)


@pytest.mark.slow
def test_more_studies_of_all_designs(simulated: dict[str, Any]) -> None:
    for name, design in simulated["DESIGNS"].items():
        found = simulated["rates"](design, 0.0, 1000, 7)
        assert found.get(HELPS, 0.0) + found.get(HURTS, 0.0) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000), name
        assert simulated["rates"](design, -0.02, 400, 7)["not worse by 0.02"] <= 0.025 + 2 * 0.008, name
