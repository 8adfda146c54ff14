from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.losses.cldice import soft_skel
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy.spatial import cKDTree

from segdistill.metrics.base import METRICS
from segdistill.metrics.centrelines import skeleton
from segdistill.metrics.surfaces import surface_distances

HD95, MSD, RMSE = (METRICS.create(name) for name in ("hd95", "msd", "rmse_boundary"))

PAIRS = st.integers(2, 3).flatmap(
    lambda axes: st.tuples(*[st.integers(3, 7)] * axes).flatmap(
        lambda shape: st.tuples(
            arrays(bool, shape), arrays(bool, shape), st.tuples(*[st.floats(0.3, 5)] * len(shape))
        )
    )
)


def as_monai(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


def blob(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    centres = rng.uniform(0.3, 0.7, (3, len(shape))) * shape
    return (
        np.min([np.linalg.norm((grid - c) / (0.2 * np.array(shape)), axis=-1) for c in centres], axis=0) < 1
    )


@pytest.mark.parametrize(("shape", "spacing"), [((40, 50), (0.7, 1.3)), ((12, 30, 26), (3.0, 0.6, 0.5))])
@pytest.mark.parametrize("seed", range(4))
def test_as_monai(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    p, r = blob(seed, shape), blob(seed + 100, shape)
    options = {"include_background": True, "spacing": spacing}
    expected = compute_hausdorff_distance(as_monai(p), as_monai(r), percentile=95, **options)
    assert HD95(p, r, spacing=spacing) == pytest.approx(float(expected), rel=1e-5)
    mean = compute_average_surface_distance(as_monai(p), as_monai(r), symmetric=True, **options)
    assert MSD(p, r, spacing=spacing) == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize(("shape", "spacing"), [((40, 50), (0.7, 1.3)), ((12, 30, 26), (3.0, 0.6, 0.5))])
@pytest.mark.parametrize("tolerance", [1.0, 2.0])
def test_surface_dice_as_monai(shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float) -> None:
    for seed in range(3):
        p, r = blob(seed, shape), blob(seed + 100, shape)
        expected = compute_surface_dice(
            as_monai(p), as_monai(r), [tolerance], include_background=True, spacing=spacing
        )
        found = METRICS.create("nsd" if tolerance == 1 else "nsd_2")(p, r, spacing=spacing)
        assert found == pytest.approx(float(expected), abs=1e-6)
        assert 0.02 < found < 0.98


def test_surface_dice_of_empty_masks() -> None:
    empty, full = np.zeros((4, 4)), np.eye(4)
    nsd = METRICS.create("nsd")
    assert [nsd(empty, empty), nsd(empty, full), nsd(full, empty)] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("shape", [(40, 50), (14, 30, 26)])
def test_skeletons_as_monai(shape: tuple[int, ...]) -> None:
    """MONAI's soft skeleton, of masks, after enough steps."""
    for seed in range(3):
        mask = blob(seed, shape)
        expected = soft_skel(as_monai(mask), 40)[0, 0].numpy() > 0.5
        np.testing.assert_array_equal(skeleton(mask), expected)
        assert 0 < expected.sum() < mask.sum()


def test_centreline_dice_by_hand() -> None:
    """A vessel five pixels wide, of which the prediction has the left 30 of 60 columns."""
    reference = np.zeros((20, 80), bool)
    reference[8:13, 10:70] = True
    prediction = reference.copy()
    prediction[:, 40:] = False
    cldice = METRICS.create("cldice")
    line = skeleton(reference)
    sensitivity = (line & prediction).sum() / line.sum()
    assert cldice(prediction, reference) == pytest.approx(2 * sensitivity / (1 + sensitivity), abs=0.03)
    assert [cldice(reference, reference), cldice(~reference & False, reference)] == [1.0, 0.0]
    assert cldice(~reference & False, ~reference & False) == 1.0
    assert cldice(np.ones((3, 5)), np.ones((3, 5))) == 1.0


def neighbours(mask: np.ndarray) -> np.ndarray:
    """Surface points, one at a time."""
    padded = np.pad(mask, 1)
    points = []
    for index in np.argwhere(mask):
        sides = [
            padded[tuple(index + 1 + step * np.eye(mask.ndim, dtype=int)[k])]
            for k in range(mask.ndim)
            for step in (-1, 1)
        ]
        if not all(sides):
            points.append(index)
    return np.array(points)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_as_nearest_neighbours(pair: tuple[np.ndarray, np.ndarray, tuple[float, ...]]) -> None:
    p, r, spacing = pair
    found = surface_distances(p, r, spacing)
    if not p.any() or not r.any():
        worst = float(np.sqrt(sum((n * s) ** 2 for n, s in zip(p.shape, spacing, strict=True))))
        assert found[0] == found[1] == pytest.approx(worst if p.any() or r.any() else 0)
        return
    a, b = neighbours(p) * spacing, neighbours(r) * spacing
    to_r, to_p = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    assert np.allclose(np.sort(found[0]), np.sort(to_r))
    assert np.allclose(np.sort(found[1]), np.sort(to_p))
    every = np.concatenate([to_r, to_p])
    assert RMSE(p, r, spacing=spacing) == pytest.approx(np.sqrt((every**2).mean()))
    hd95 = HD95(p, r, spacing=spacing)
    assert hd95 == pytest.approx(max(np.percentile(to_r, 95), np.percentile(to_p, 95)))
    diagonal = np.linalg.norm(np.multiply(p.shape, spacing))
    assert hd95 <= diagonal
    assert HD95(r, p, spacing=spacing) == hd95
    assert not surface_distances(p, p)[0].any()


def test_a_missed_structure_is_the_worst_of_all() -> None:
    r = blob(0, (30, 40))
    missed = HD95(np.zeros_like(r), r)
    corner = np.zeros_like(r)
    corner[0, 0] = True
    assert missed == 50.0
    assert missed > HD95(corner, r)
    with pytest.raises(ValueError, match="they must be equal"):
        surface_distances(r, r[:-1])
    with pytest.raises(ValueError, match="3 values for 2 axes"):
        surface_distances(r, r, (1.0, 1.0, 1.0))
