"""Maps on other grids than their image's, against scipy and against linear functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from segdistill.errors import InputError
from segdistill.imaging.regrid import on_grid
from segdistill.imaging.volume import Geometry, Volume

SHAPE = (4, 6, 8)


def volume(values: np.ndarray, geometry: Geometry, second: Geometry | None = None) -> Volume:
    return Volume(values, None, Path("a.nii"), geometry, second)


def image_of(geometry: Geometry, second: Geometry | None = None) -> Volume:
    return volume(np.zeros(geometry.shape, np.int16), geometry, second)


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    steps=st.tuples(*[st.floats(0.3, 3)] * 3),
    angle=st.floats(-0.5, 0.5),
)
def test_every_order_of_axes_is_turned_back(order, flips, steps, angle: float) -> None:
    cos, sin = np.cos(angle), np.sin(angle)
    axes = ((0.0, 0.0, 1.0), (-sin, cos, 0.0), (cos, sin, 0.0))
    geometry = Geometry(SHAPE, steps, axes, (5.0, -7.0, 9.0))
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    stored = values.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    other = geometry._arranged(list(order), list(flips))
    assert other.shape == stored.shape
    np.testing.assert_array_equal(on_grid(volume(stored, other), image_of(geometry)), values)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    shift=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
)
def test_other_voxels_as_scipy(shape, shift) -> None:
    """The same field of view with other voxels, moved by part of one."""
    target = Geometry(SHAPE, (3.0, 1.0, 0.5), origin=(10.0, 20.0, 30.0))
    steps = tuple(n * s / m for n, s, m in zip(SHAPE, target.step_mm, shape, strict=True))
    first = [(a - b) / 2 + c * a for a, b, c in zip(steps, target.step_mm, shift, strict=True)]
    origin = tuple(np.add(target.origin, first[::-1]).tolist())
    values = np.random.default_rng(1).random(shape).astype(np.float32)
    found = on_grid(volume(values, Geometry(shape, steps, origin=origin)), image_of(target))
    places = np.meshgrid(
        *((np.arange(n) * b - f) / a for n, a, b, f in zip(SHAPE, steps, target.step_mm, first, strict=True)),
        indexing="ij",
    )
    expected = map_coordinates(values.astype(np.float64), places, order=1, mode="nearest")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_lost_origin_is_not_compared() -> None:
    target = Geometry((1, 4, 4), (1.0, 1.0, 1.0), origin=(3.0, 4.0, 5.0))
    coarse = Geometry((1, 2, 2), (1.0, 2.0, 2.0), placed=False)
    values = np.array([[[0, 1], [0, 1]]], np.float32)
    np.testing.assert_allclose(on_grid(volume(values, coarse), image_of(target))[0, 0], [0, 0.25, 0.75, 1])


def test_the_second_transform_counts() -> None:
    first, second = (Geometry(SHAPE, (3.0, 1.0, 0.5), origin=(x, 1.0, 1.0)) for x in (1.0, 99.0))
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    np.testing.assert_array_equal(on_grid(volume(values, second), image_of(first, second)), values)
    np.testing.assert_array_equal(on_grid(volume(values, second, first), image_of(first)), values)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            Geometry((4, 6, 10), (3.0, 1.0, 0.5), origin=(1.0, 1.0, 1.0)),
            "4 x 6 x 8 against 4 x 6 x 10 voxels",
        ),
        (Geometry(SHAPE, (3.0, 1.0, 0.5), origin=(2.0, 1.0, 1.0)), "mm apart"),
        (
            Geometry(
                SHAPE,
                (3.0, 1.0, 0.5),
                ((0.0, 0.0, 1.0), (0.1, 0.995, 0.0), (0.995, -0.1, 0.0)),
                (1.0, 1.0, 1.0),
            ),
            "an orientation that differs by",
        ),
    ],
)
def test_another_field_of_view(other: Geometry, words: str) -> None:
    image = image_of(Geometry(SHAPE, (3.0, 1.0, 0.5), origin=(1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match=words):
        on_grid(volume(np.zeros(other.shape, np.float32), other), image)
