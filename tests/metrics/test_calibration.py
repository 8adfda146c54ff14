from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case
from segdistill.errors import InputError, MissingExtra
from segdistill.metrics.calibration import BINS, Calibration, Reliability, near_boundary
from segdistill.metrics.cases import Scored, evaluate_cases
from segdistill.metrics.pooled import Pool


def error_by_hand(p: np.ndarray, truth: np.ndarray) -> float:
    edges = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for k in range(BINS):
        inside = (p >= edges[k]) & ((p < edges[k + 1]) if k < BINS - 1 else (p <= 1))
        if inside.any():
            total += inside.sum() * abs(p[inside].mean() - truth[inside].mean())
    return total / p.size


def test_error_and_brier_by_hand() -> None:
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.beta(0.5, 0.5, 4000), [0.0, 1.0]])
    truth = (rng.uniform(size=p.size) < p**2).astype(int)
    found = Reliability()
    for part in np.array_split(np.arange(p.size), 3):  # as images come, one after the other
        found.add(p[part], truth[part])
    assert found.error == pytest.approx(error_by_hand(p, truth), abs=1e-9)
    assert found.brier == pytest.approx(np.mean((p - truth) ** 2))
    assert found.error > 0.1  # truth is p squared: sure of too much


def test_honest_probabilities_have_almost_no_error() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(size=200_000)
    found = Reliability()
    found.add(p, rng.uniform(size=p.size) < p)
    assert found.error < 0.01  # type: ignore[operator]
    assert found.brier == pytest.approx(1 / 6, abs=0.005)  # the integral of p (1 - p)


def test_near_the_boundary_by_looking_at_every_pair() -> None:
    rng = np.random.default_rng(2)
    mask = np.zeros((17, 20), bool)
    mask[4:12, 5:14] = True
    mask[rng.integers(0, 17, 5), rng.integers(0, 20, 5)] = True
    points = np.argwhere(np.ones_like(mask))
    for distance in (1.0, 2.5, 5.0):
        expected = np.zeros_like(mask)
        for r, c in points:
            other = np.argwhere(mask != mask[r, c])
            expected[r, c] = np.hypot(*(other - [r, c]).T).min() <= distance
        np.testing.assert_array_equal(near_boundary(mask, distance), expected)


def test_no_contour_no_boundary() -> None:
    assert not near_boundary(np.zeros((4, 5))).any()
    assert not near_boundary(np.ones((4, 5))).any()
    empty = Calibration()
    empty.add(np.zeros((4, 5)), np.zeros((4, 5)), np.full((4, 5), 0.1))
    facts = empty.metrics()
    assert facts["boundary"] == {"ece": None, "brier": None, "pixels": 0, "bins": []}
    assert facts["all"]["ece"] == pytest.approx(0.1)


def test_errors_at_the_boundary_show_there() -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[20:40, 20:40] = 1
    score = truth.astype(float)
    score[near_boundary(truth, 2)] = 0.5
    score[20:40, 20] = 0.9
    found = Calibration()
    found.add(score > 0.5, truth, score)
    facts = found.metrics()
    assert facts["boundary"]["brier"] > 4 * facts["all"]["brier"]


def test_slices_of_a_volume_have_a_boundary_each() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(size=(3, 12, 12)) > 0.5
    score = rng.uniform(size=truth.shape)
    whole, parts = Calibration(), Calibration()
    whole.add(score > 0.5, truth, score)
    for k in range(3):
        parts.add(score[k] > 0.5, truth[k], score[k])
    for place in ("all", "boundary"):
        found, expected = (c.metrics()[place] for c in (whole, parts))
        np.testing.assert_allclose(found.pop("bins"), expected.pop("bins"))
        assert found == pytest.approx(expected)


def test_as_the_pool_of_an_evaluation(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9), 200, np.uint8)).save(tmp_path / "a.png")
    mask = np.zeros((8, 9), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    case = Case("a", tmp_path / "a.png", (tmp_path / "m.png",))
    pool = Calibration(distance=1, then=Pool())
    evaluate_cases([case], lambda picture: Scored(mask, np.full((8, 9), 0.25)), pool=pool)
    facts = pool.metrics()
    assert facts["all"]["ece"] == pytest.approx(32 / 72 - 0.25)
    assert facts["boundary"]["pixels"] == 16
    assert pool.then is not None
    assert pool.then.metrics()["accuracy"] == 1.0
    with pytest.raises(InputError, match="masks only"):
        evaluate_cases([case], lambda picture: mask, pool=Calibration())


def test_bad_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="outside of 0 to 1"):
        Reliability().add(np.array([1.2]), np.array([1]))
    with pytest.raises(ValueError, match="outside of 0 to 1"):
        Reliability().add(np.array([np.nan]), np.array([1]))


def test_missing_scipy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(MissingExtra, match="report"):
        near_boundary(np.eye(3))
