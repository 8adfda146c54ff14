"""The predicted sample size against simulated studies of that size."""

from __future__ import annotations

import numpy as np
import pytest

from segdistill.stats.power import Needed, Variances, needed, needed_text
from segdistill.stats.verdict import HELPS, compare_scores


def test_luck_of_trainings_cannot_be_made_up_by_cases() -> None:
    lucky = Variances(case=0.0144, training=0.01**2)
    one, other = needed(lucky, [3, 5], [0.02])
    assert one.cases is None  # 4.3 standard errors of three trainings are more than 0.02
    assert other.cases is not None
    free = Variances(case=0.0144, training=0.0)
    assert needed(free, [3], [0.02])[0].cases == pytest.approx((1.96 + 0.8416) ** 2 * 0.0144 / 0.02**2, abs=3)
    more = [found.cases for found in needed(free, [3], [0.01, 0.02])]
    assert more[0] == pytest.approx(4 * more[1], rel=0.03)  # type: ignore[operator]


def test_folds_need_the_corrected_t_test_too() -> None:
    crossed = Variances(case=0.0144, training=0.01**2, folds=5)
    single = Variances(case=0.0144, training=0.01**2)
    two = needed(crossed, [2], [0.02])[0].cases
    ten = needed(single, [10], [0.02])[0].cases
    assert two is not None
    assert ten is not None
    assert two > ten


def test_studies_of_the_predicted_size_find_it_four_times_in_five() -> None:
    """Within what Wilcoxon's ranks and the luck of a small simulation allow."""
    (found,) = needed(Variances(case=0.06**2, training=0.005**2), [5], [0.02])
    assert found.cases is not None
    rng, hits, count = np.random.default_rng(0), 0, 40
    for _ in range(count):
        share = rng.normal(0, 0.06, found.cases)
        a = {s: 0.02 + share + rng.normal(0, 0.005) for s in range(5)}
        b = {s: np.zeros(found.cases) for s in range(5)}
        verdict = compare_scores(a, b, range(found.cases), variant="a", baseline="b", metric="dice")
        hits += verdict.outcome == HELPS
    assert 0.6 * count <= hits < count


def test_in_words() -> None:
    found = (Needed(0.01, 1, 4000), Needed(0.02, 1, None))
    assert needed_text(found, folds=5) == (
        "To show 0.01 with 80 % power, about: 4,000 cases with 5 folds of 1 seed. "
        "To show 0.02 with 80 % power, about: no number of cases with 5 folds of 1 seed."
    )
    assert needed_text(()) == ""
