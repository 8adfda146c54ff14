from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segdistill.errors import MissingExtra
from segdistill.stats.bootstrap import bootstrap_means
from segdistill.stats.tests import (
    Error,
    combined,
    group_error,
    holm,
    joint_interval,
    rank_side,
    seed_differences,
    seed_error,
    signed_rank,
)


def closed_test(p: list[float]) -> list[float]:
    """Holm by its other definition: the largest Bonferroni p of all the sets of hypotheses that hold this one."""
    every = range(len(p))
    sets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(every, n)]
    return [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if k in s) for k in every]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(deadline=None)
def test_holm_is_the_closure_of_bonferroni(p: list[float]) -> None:
    assert holm(p) == pytest.approx(closed_test(p))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx(
        [0.04, 0.06, 0.06, 0.06]
    )  # 4, 3 x .02, 2 x .03, ...
    assert holm([0.5, 0.04]) == pytest.approx([0.5, 0.08])
    assert holm([]) == []


def test_a_test_that_could_not_be_computed_still_counts() -> None:
    assert holm([0.02, None, 0.01]) == pytest.approx([0.04, None, 0.03])


def test_signed_ranks_by_enumeration() -> None:
    """p from all 2^n signs, not from scipy."""
    values = np.array([0.5, -0.1, 0.3, 0.25, 0.7, -0.05, 0.9])
    ranks = np.array([sorted(np.abs(values)).index(v) + 1 for v in np.abs(values)])
    every = [np.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(values))]
    above = ranks[values > 0].sum()
    p = 2 * min(np.mean([w >= above for w in every]), np.mean([w <= above for w in every]))
    assert signed_rank(values.tolist()) == pytest.approx(p)
    assert signed_rank((-values).tolist()) == pytest.approx(p)
    assert (rank_side(values.tolist()), rank_side((-values).tolist())) == (1, -1)


def test_the_ranks_may_point_away_from_the_mean() -> None:
    values = [-0.01] * 20 + [0.9]
    assert np.mean(values) > 0
    assert rank_side(values) == -1


@given(st.lists(st.sampled_from([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2]), max_size=12))
@settings(deadline=None)
def test_the_side_of_the_ranks_is_that_of_scipys_ranks(values: list[float]) -> None:
    moved = np.array([v for v in values if v])
    balance = (np.sign(moved) * stats.rankdata(np.abs(moved))).sum() if len(moved) else 0.0
    assert rank_side(values) == np.sign(balance)


def test_groups_of_one_size_have_the_standard_error_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=30)
    error = group_error(values, [k // 3 for k in range(30)])
    assert error.variance == pytest.approx(stats.sem(values.reshape(10, 3).mean(axis=1)) ** 2)
    assert error.freedom == 9


def test_uneven_groups_have_the_error_that_the_bootstrap_finds() -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(40, size=150).tolist()
    values = rng.normal(size=150) + rng.normal(size=40)[groups]
    drawn = bootstrap_means(values[:, None], groups, resamples=20_000)
    assert np.sqrt(group_error(values, groups).variance) == pytest.approx(drawn.std(), rel=0.05)


def test_nothing_to_rank() -> None:
    assert signed_rank([]) is signed_rank([0.3]) is signed_rank([0.0, 0.0]) is None
    assert rank_side([]) == rank_side([0.0]) == rank_side([0.2, -0.2]) == 0


def test_one_spread_alone_is_the_t_interval_over_seeds() -> None:
    a, b = {0: 0.80, 1: 0.84, 2: 0.79}, {0: 0.75, 1: 0.82, 2: 0.77}
    differences = seed_differences(a, b)
    assert differences == pytest.approx([0.05, 0.02, 0.02])
    error = seed_error(a, b)
    assert error is not None
    theirs = stats.ttest_1samp(differences, 0).confidence_interval()
    assert joint_interval(float(np.mean(differences)), [error]) == pytest.approx((theirs.low, theirs.high))


def test_other_seeds_are_independent_trainings() -> None:
    a, b = {0: 0.80, 1: 0.84, 2: 0.79}, {7: 0.75, 8: 0.82}
    error = seed_error(a, b)
    assert error is not None
    theirs = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False).confidence_interval()
    mean = float(np.mean(list(a.values())) - np.mean(list(b.values())))
    assert joint_interval(mean, [error]) == pytest.approx((theirs.low, theirs.high))
    assert seed_differences(a, b) == []


def test_too_few_trainings_have_no_spread() -> None:
    assert seed_error({0: 0.8}, {0: 0.7}) is None
    assert seed_error({0: 0.8, 1: 0.7}, {5: 0.7}) is None


def test_no_error_at_all_is_a_point() -> None:
    assert joint_interval(0.3, [Error(0.0, 2), combined([Error(0.0, 2), Error(0.0, 9)])]) == (0.3, 0.3)


def test_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra, match="report"):
        joint_interval(0.0, [Error(1.0, 2)])
    assert signed_rank([0.1, 0.2]) is None
