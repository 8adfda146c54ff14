from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdistill.errors import InputError
from segdistill.imaging.intensity import CT, MR
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.preprocess import Preprocess


def test_ct_window_reaches_the_network_as_minus_one_to_one() -> None:
    mean, std = CT.network_scale()
    prepare = Preprocess((1, 5), channels=1, mean=(mean,), std=(std,), intensity=CT)
    values = prepare(CT(np.array([[[-1000, -160, 40, 240, 3000]]]))[0])
    assert values.ravel() == pytest.approx([-1, -1, 0, 1, 1], abs=1.01 / 255)


def test_z_score_is_of_the_whole_volume() -> None:
    voxels = np.random.default_rng(0).normal(300, 40, (6, 20, 20)).astype(np.float32)
    voxels[0, 0, 0], voxels[0, 0, 1] = -5000, 9000
    mean, std = MR.network_scale()
    got = (MR(voxels).astype(float) / 255 - mean) / std
    expected = np.clip((voxels - voxels.mean()) / voxels.std(), -3, 5)
    assert np.abs(got - expected).max() <= 4 / 255 + 1e-6
    one_slice = MR.levels(voxels)(voxels[3])
    assert np.array_equal(one_slice, MR(voxels)[3])
    assert not np.array_equal(one_slice, MR(voxels[3:4])[0])
    assert not MR(np.full((2, 3, 3), 7)).any()


def test_settings_survive_and_old_ones_are_unchanged() -> None:
    old = Preprocess(size=(8, 8))
    assert list(old.to_dict()) == ["size", "colour", "channels", "mean", "std"]
    new = Preprocess(size=(8, 8), intensity=MR, patches=PatchGrid(3, 8))
    assert Preprocess.from_dict(new.to_dict()) == new
    assert Preprocess.from_dict({"size": [8, 8], "intensity": "ct"}).intensity == CT


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"intensity": "xray"}, "unknown intensity 'xray': use ct, mr, range"),
        ({"intensity": {"kind": "window", "low": 3, "high": 1}}, "low below high"),
        ({"intensity": {"kind": "gamma"}}, "unknown intensity 'gamma'"),
        ({"intensity": {"level": 3}}, "may have kind, low and high"),
        ({"intensity": {"kind": "window", "low": "a"}}, "wrong type"),
        ({"patches": {"count": 2}}, "count and size"),
        ({"patches": {"count": 0, "size": 8}}, "at least one patch"),
        ({"patches": {"count": 2, "size": 16}}, "not that of the patches"),
    ],
)
def test_bad_settings(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Preprocess.from_dict({"size": [8, 8], **values})


def test_lightvessel_grid() -> None:
    grid = PatchGrid(4, 256)
    assert grid.offsets(992) == [0, 245, 491, 736]
    assert len(grid.cut(np.zeros((992, 992)))) == 16
    with pytest.raises(InputError, match="shorter than a patch"):
        grid.offsets(255)
    with pytest.raises(InputError, match="do not cover a side of 1025 pixels: use at least 5"):
        grid.offsets(1025)


@given(st.data(), st.integers(1, 5), st.integers(1, 9))
def test_cutting_and_stitching_is_the_identity(data: st.DataObject, count: int, size: int) -> None:
    side = st.integers(size, count * size)
    shape = (data.draw(side), data.draw(side))
    picture = np.random.default_rng(0).random((*shape, 2)).astype(np.float32)
    grid = PatchGrid(count, size)
    patches = grid.cut(picture)
    assert all(patch.shape == (size, size, 2) for patch in patches)
    teacher_targets = np.stack([np.moveaxis(patch, 2, 0) for patch in patches])
    assert np.allclose(grid.stitch(teacher_targets, shape), np.moveaxis(picture, 2, 0), atol=1e-6)


def test_overlaps_are_averaged() -> None:
    grid = PatchGrid(2, 4)
    teacher_targets = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1) * np.ones((4, 1, 4, 4), np.float32)
    joined = grid.stitch(teacher_targets, (6, 6))[0]
    assert joined[0, 0] == 0
    assert joined[5, 5] == 3
    assert joined[0, 3] == 0.5
    assert joined[3, 3] == 1.5


def test_inputs_and_join() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12), dtype=np.uint8)
    patched = Preprocess((8, 8), channels=1, patches=PatchGrid(2, 8))
    assert np.allclose(patched.join(patched.inputs(pixels), (10, 12))[0], pixels / 255)
    plain = Preprocess((8, 8), channels=1)
    assert np.array_equal(plain.inputs(pixels)[0], plain(pixels))
    assert np.array_equal(plain.join(plain.inputs(pixels), (10, 12)), plain(pixels))
