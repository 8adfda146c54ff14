from __future__ import annotations

import numpy as np
import pytest

from segdistill.records import Interval, Summary
from segdistill.report.folds import mean_and_spread, over_folds, render_folds


def summary(**metrics: float | None) -> Summary:
    return Summary({name: Interval(value, None, None, 4) for name, value in metrics.items()})


def test_against_numpy() -> None:
    values = np.array([0.61, 0.72, 0.55, 0.69, 0.7])
    found = over_folds({k: summary(dice=float(v)) for k, v in enumerate(values, 1)})["all"]["dice"]
    assert found["mean"] == pytest.approx(values.mean())
    assert found["sd"] == pytest.approx(values.std(ddof=1))
    assert found["n"] == 20


def test_what_a_fold_lacks_is_left_out() -> None:
    parts = {1: summary(dice=0.5, rmse_map=0.2), 2: summary(dice=None), 3: summary(dice=0.7)}
    found = over_folds(parts)["all"]
    assert found["dice"]["folds"] == {"1": 0.5, "3": 0.7}
    assert found["rmse_map"]["sd"] is None
    nothing = over_folds({1: summary(dice=None)})["all"]["dice"]
    assert (nothing["mean"], nothing["sd"], nothing["n"]) == (None, None, 0)
    assert mean_and_spread(nothing) == "—"
    assert over_folds({}) == {}


def test_the_page_escapes_and_says_what_is_missing() -> None:
    page = render_folds("a <b>", "x & y", 3, [1], {"<net>": over_folds({1: summary(dice=0.5)})}, {})
    assert "a &lt;b&gt;" in page
    assert "&lt;net&gt;" in page
    assert "1 of 3 folds are finished" in page
    assert page.count("http") == 0
