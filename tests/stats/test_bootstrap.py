from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segdistill.stats.bootstrap import (
    Interval,
    bootstrap_mean,
    bootstrap_means,
    bootstrap_rate,
    paired_difference,
)

VALUES = st.lists(st.floats(0, 1, allow_nan=False), min_size=2, max_size=30)


def test_interval_agrees_with_scipy_where_every_case_is_a_group() -> None:
    values = np.random.default_rng(0).beta(8, 2, 80)
    ours = bootstrap_mean(values.tolist(), resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_groups_agree_with_scipy_on_the_ratio_of_group_sums() -> None:
    rng = np.random.default_rng(2)
    groups = rng.integers(25, size=90)
    values = rng.uniform(0, 1, 90) * 0.3 + rng.uniform(0, 0.7, 25)[groups]
    ours = bootstrap_mean(values.tolist(), groups.tolist(), resamples=20_000)
    names = np.unique(groups)
    sums, sizes = (np.array([f(values[groups == g]) for g in names]) for f in (np.sum, len))
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        random_state=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    alone = bootstrap_mean(values.tolist())
    assert width > (alone.high or 0) - (alone.low or 0)  # cases of one patient are no independent evidence


def test_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(200):
        interval = bootstrap_mean(rng.normal(0.5, 0.1, 60).tolist(), seed=seed, resamples=500)
        hits += interval.low <= 0.5 <= interval.high  # type: ignore[operator]
    assert 175 <= hits <= 199


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).uniform(size=(40, 2))
    whole = bootstrap_means(values, list(range(40)), resamples=50)
    monkeypatch.setattr("segdistill.stats.bootstrap.CELLS", 7 * 40)
    np.testing.assert_allclose(bootstrap_means(values, list(range(40)), resamples=50), whole)


@given(VALUES, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_properties(values: list[float], seed: int) -> None:
    interval = bootstrap_mean(values, seed=seed, resamples=200)
    assert interval == bootstrap_mean(values, seed=seed, resamples=200)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9  # type: ignore[operator]
    shifted = bootstrap_mean([v + 1 for v in values], seed=seed, resamples=200)
    assert shifted.low == pytest.approx((interval.low or 0) + 1)


@pytest.mark.parametrize(("values", "groups"), [([0.5], None), ([0.5, 0.7], ["p", "p"])])
def test_fewer_than_two_groups_have_no_interval(values: list[float], groups: list[str] | None) -> None:
    interval = bootstrap_mean(values, groups)
    assert interval.mean == pytest.approx(np.mean(values))
    assert (interval.low, interval.high) == (None, None)


@pytest.mark.parametrize("count", [2, 6, 40])
def test_a_rate_of_none_or_all_is_not_called_certain(count: int) -> None:
    exact = stats.binomtest(0, count).proportion_ci(0.95, method="exact")
    none, every = bootstrap_rate([False] * count), bootstrap_rate([True] * count)
    assert (none.low, none.high) == pytest.approx((exact.low, exact.high))
    assert (every.low, every.high) == pytest.approx((1 - exact.high, 1))
    mixed = [True] + [False] * count
    assert bootstrap_rate(mixed) == bootstrap_mean([float(hit) for hit in mixed])
    assert bootstrap_rate([False] * count, ["p"] * count).low is None


def test_nothing_is_nothing() -> None:
    assert bootstrap_mean([]) == Interval(None, None, None, 0)
    difference = paired_difference([], [])
    assert (difference.mean, difference.n, difference.p) == (None, 0, None)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        bootstrap_mean([0.5, float("nan")])
    with pytest.raises(ValueError, match="one group per value"):
        bootstrap_mean([0.5, 0.6], ["a"])
    with pytest.raises(ValueError, match="same cases"):
        paired_difference([0.5], [0.5, 0.6])


def test_paired_difference() -> None:
    rng = np.random.default_rng(6)
    b = rng.uniform(0.3, 0.8, 40)
    a = b + rng.normal(0.03, 0.02, 40)
    found = paired_difference(a.tolist(), b.tolist())
    assert found.mean == pytest.approx((a - b).mean())
    assert found.p == pytest.approx(stats.wilcoxon(a - b).pvalue)
    assert (found.n, found.groups) == (40, 40)
    assert found.low > 0  # type: ignore[operator]
    mirrored = paired_difference(b.tolist(), a.tolist())
    assert mirrored.low == pytest.approx(-(found.high or 0))
    paired_width = (found.high or 0) - (found.low or 0)
    alone = bootstrap_mean(a.tolist())
    assert paired_width < ((alone.high or 0) - (alone.low or 0)) / 2


def test_wilcoxon_is_over_group_means() -> None:
    found = paired_difference([0.6, 0.8, 0.9, 0.5], [0.5, 0.5, 0.5, 0.6], ["p", "p", "q", "r"])
    assert found.groups == 3
    assert found.p == pytest.approx(stats.wilcoxon([0.2, 0.4, -0.1]).pvalue)
    assert paired_difference([0.5, 0.6], [0.5, 0.6]).p is None
