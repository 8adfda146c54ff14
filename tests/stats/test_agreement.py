"""Agreement of areas, and subgroups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from segdistill.metrics.cases import CaseResult
from segdistill.stats.agreement import area_agreement
from segdistill.stats.subgroups import subgroups
from tests.stats.made_results import result


def areas(count: int = 60, seed: int = 0) -> list[CaseResult]:
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0.02, 0.3, count)
    predicted = reference + rng.normal(0.01, 0.02, count)
    return [
        result(f"c{k}", 0.5, reference_area=float(r), predicted_area=float(p))
        for k, (r, p) in enumerate(zip(reference, predicted, strict=True))
    ]


def test_bland_and_altman_by_their_formulas() -> None:
    rows = areas()
    d = np.array([100 * (r.predicted_area - r.reference_area) for r in rows])
    found = area_agreement(rows)
    assert found.bias.mean == pytest.approx(d.mean())
    assert found.low == pytest.approx(d.mean() - 1.96 * d.std(ddof=1))
    assert found.high == pytest.approx(d.mean() + 1.96 * d.std(ddof=1))
    # their approximate standard error of a limit: sqrt(3 s^2 / n)
    reach = 1.96 * np.sqrt(3 / len(d)) * d.std(ddof=1)
    low, high = found.low_interval  # type: ignore[misc]
    assert (high - low) / 2 == pytest.approx(reach, rel=0.25)
    assert low < found.low < high  # type: ignore[operator]


def test_what_is_normal_or_alone_has_no_limits() -> None:
    rows = areas(4)
    normal = result("n", 0.0, "normal")
    assert area_agreement([*rows, normal]).bias == area_agreement(rows).bias
    one = area_agreement(rows[:1])
    assert (one.bias.n, one.low, one.low_interval) == (1, None, None)
    family = area_agreement([replace(r, group="p") for r in rows])
    assert family.low is not None
    assert family.low_interval is None
    assert area_agreement([]).bias.mean is None


def test_groups_widen_the_interval_of_the_bias() -> None:
    rows = [
        replace(r, group=f"g{k // 6}")
        for k, r in enumerate(sorted(areas(), key=lambda r: r.predicted_area - r.reference_area))
    ]
    alone, grouped = (area_agreement(part).bias for part in ([replace(r, group=r.case) for r in rows], rows))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)  # type: ignore[operator]


def test_subgroups_hold_every_case_once_and_say_how_many() -> None:
    rows = [
        replace(r, label="benign" if k % 3 else "malignant", site=f"s{k % 2}", group=f"g{k // 2}")
        for k, r in enumerate(areas(31))
    ]
    found = subgroups([*rows, result("n", 0.0, "normal")])
    for kind in ("class", "site", "size"):
        parts = [part for part in found if part.kind == kind]
        ids = [r.case for part in parts for r in part.cases]
        assert sorted(ids) == sorted(r.case for r in rows)
    small, medium, large = (part for part in found if part.kind == "size")
    assert [len(part.cases) for part in (small, medium, large)] == [11, 10, 10]
    assert max(r.reference_area for r in small.cases) < min(r.reference_area for r in medium.cases)
    assert max(r.reference_area for r in medium.cases) < min(r.reference_area for r in large.cases)
    benign = next(part for part in found if part.name == "benign")
    assert benign.score().n == sum(r.label == "benign" for r in rows)


def test_what_is_alike_is_not_divided() -> None:
    rows = [replace(r, reference_area=0.1) for r in areas(9)]
    assert subgroups(rows) == []
    assert subgroups([]) == subgroups(rows[:2]) == []
    two = [replace(r, reference_area=0.1 if k < 8 else 0.2) for k, r in enumerate(rows)]
    assert [len(part.cases) for part in subgroups(two)] == [8, 1]


def test_differences_of_a_subgroup_are_paired() -> None:
    rows = areas(12)
    part = next(p for p in subgroups(rows) if p.kind == "size")
    rng = np.random.default_rng(0)
    a, b = ({r.case: float(rng.uniform()) for r in rows} for _ in range(2))
    found = part.difference(a, b)
    d = [a[r.case] - b[r.case] for r in part.cases]
    assert found.mean == pytest.approx(np.mean(d))
    assert found.p == pytest.approx(stats.wilcoxon(d).pvalue)
