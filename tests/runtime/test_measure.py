from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from segdistill.imaging.picture import Spacing
from segdistill.runtime.measure import convex_hull, feret, measure

masks = hnp.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def corners_of_largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
    y, x = np.nonzero(labels == 1 + int(np.argmax(sizes)))
    return np.concatenate([np.stack([x + i, y + j], 1) for i in (0, 1) for j in (0, 1)]).astype(float)


def brute_force(points: np.ndarray) -> tuple[float, float]:
    """All pairs, and the widest projection over every pair as long as the longest."""
    long = pdist(points).max()
    short = 0.0
    for p in points:
        for q in points[np.hypot(*(points - p).T) >= long - 1e-9]:
            normal = np.array([q[1] - p[1], p[0] - q[0]]) / long
            short = max(short, float(np.ptp(points @ normal)))
    return float(long), short


@settings(max_examples=120, deadline=None)
@given(masks, st.sampled_from([(1.0, 1.0), (0.2, 0.5), (3.0, 0.25)]))
def test_axes_are_those_of_brute_force(mask: np.ndarray, spacing: tuple[float, float]) -> None:
    size = measure(mask, Spacing(*spacing, "test"))
    assert size.area_px == mask.sum()
    if not mask.any():
        assert (size.long_px, size.short_px, size.area_mm2, size.long_mm) == (0, 0, 0, 0)
        return
    corners = corners_of_largest(mask)
    assert (size.long_px, size.short_px) == pytest.approx(brute_force(corners))
    assert (size.long_mm, size.short_mm) == pytest.approx(brute_force(corners * (spacing[1], spacing[0])))
    assert size.area_mm2 == pytest.approx(mask.sum() * spacing[0] * spacing[1])


@settings(max_examples=60, deadline=None)
@given(masks)
def test_turning_and_mirroring_change_nothing(mask: np.ndarray) -> None:
    if ndimage.label(mask, np.ones((3, 3)))[1] != 1:  # of equally large components the first counts
        return
    size = measure(mask)
    for other in (mask[::-1], mask[:, ::-1], mask.T):
        turned = measure(other)
        assert turned.area_px == size.area_px
        assert (turned.long_px, turned.short_px) == pytest.approx((size.long_px, size.short_px))


def test_known_shapes() -> None:
    one = measure(np.ones((1, 1), bool))
    assert (one.long_px, one.short_px) == pytest.approx((math.sqrt(2), math.sqrt(2)))
    assert one.area_mm2 is one.long_mm is one.short_mm is None
    y, x = np.mgrid[:201, :301]
    ellipse = ((x - 150) / 120) ** 2 + ((y - 100) / 60) ** 2 <= 1
    size = measure(ellipse, Spacing(0.1, 0.1, "test"))
    assert size.long_px == pytest.approx(241, abs=1)
    assert size.short_px == pytest.approx(121, abs=1)
    assert size.area_mm2 == pytest.approx(math.pi * 12 * 6, rel=0.01)
    assert measure(ellipse * np.uint8(255)) == measure(ellipse)


def test_only_the_largest_component_has_axes() -> None:
    mask = np.zeros((40, 40), bool)
    mask[0, 0] = mask[39, 39] = True
    mask[10:14, 10:13] = True
    size = measure(mask)
    assert size.area_px == 14
    assert size.long_px == 5


def test_no_millimetres_outside_of_the_calibrated_region() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:4, 2:4] = True
    spacing = Spacing(1, 1, "ultrasound region", (0, 0, 5, 5))
    assert measure(mask, spacing).area_mm2 == 4
    mask[8, 8] = True
    assert measure(mask, spacing).area_mm2 is None


def test_hull_is_scipy_s() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = np.unique(rng.integers(0, 30, (60, 2)), axis=0)
        points = points[np.lexsort((points[:, 0], points[:, 1]))]
        hull = convex_hull(points)
        expected = points[ConvexHull(points).vertices]
        assert {tuple(p) for p in hull} == {tuple(map(float, p)) for p in expected}
    assert feret(np.zeros((1, 2))) == (0.0, 0.0)


@pytest.mark.timeout(60)  # a tenth of a second; a way that compares all pairs of points would take hours
def test_a_large_noisy_mask_is_measured() -> None:
    mask = np.random.default_rng(0).random((600, 800)) < 0.45
    assert measure(mask).area_px == mask.sum()
