"""Volumes on the grid of a network, and back."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.errors import InputError
from segdistill.imaging.grid import (
    Run,
    VolumePreprocess,
    _gaussian,
    mask_at,
    pad_to,
    preprocess_from_dict,
    resample,
    resample_mask,
    slices_at,
)
from segdistill.imaging.postprocess import Postprocess, resize_probability

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@given(SHAPES, SHAPES)
def test_enlarging_is_trilinear_as_torch_has_it(
    shape: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    volume = noise(shape)
    target = tuple(a + b for a, b in zip(shape, more, strict=True))
    expected = F.interpolate(
        torch.from_numpy(volume)[None, None].float(), target, mode="trilinear", align_corners=False
    )[0, 0].numpy()
    assert np.abs(resample(volume, target) - expected).max() < 1e-2  # type: ignore[arg-type]


@given(SHAPES, SHAPES)
def test_slices_of_probabilities_are_trilinear_too(
    shape: tuple[int, int, int], more: tuple[int, int, int]
) -> None:
    known = noise((2, *shape)).astype(np.float32) / 255
    target = tuple(a + b for a, b in zip(shape, more, strict=True))
    expected = F.interpolate(torch.from_numpy(known)[None], target, mode="trilinear", align_corners=False)[0]
    found = np.stack(list(slices_at(known, target)), axis=1)  # type: ignore[arg-type]
    assert np.abs(found - expected.numpy()).max() < 1e-4


def test_a_constant_stays_one_however_it_is_resampled() -> None:
    for target in ((3, 5, 7), (20, 4, 9), (1, 1, 1)):
        assert np.abs(resample(np.full((9, 8, 7), 77, np.uint8), target) - 77).max() < 1e-3


@given(st.tuples(*[st.integers(4, 20)] * 3), st.floats(0, 0.9))
def test_windows_cover_every_voxel(shape: tuple[int, int, int], overlap: float) -> None:
    preprocess = VolumePreprocess((4, 4, 4), overlap=overlap)
    seen = np.zeros(shape, int)
    for window in preprocess.windows(shape):
        assert [part.stop - part.start for part in window] == [4, 4, 4]
        seen[window] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("shape", [(8, 8, 8), (13, 9, 17), (3, 20, 2)])
def test_a_network_that_looks_at_single_voxels_is_not_changed_by_windows(shape: tuple[int, int, int]) -> None:
    preprocess = VolumePreprocess((8, 8, 8))
    prepared = noise(shape)
    found = preprocess.predict(prepared, lambda batch: np.concatenate([batch, 1 - batch], axis=1))
    assert found.shape == (2, *shape)
    assert np.abs(found[0] - prepared / 255).max() < 1e-5


def at_once(preprocess: VolumePreprocess, prepared: np.ndarray, run: Run) -> np.ndarray:
    """The mean of the windows with all probabilities in memory."""
    padded, inner = pad_to(prepared, preprocess.size)
    weight, sums = _gaussian(preprocess.size), np.zeros(padded.shape, np.float32)
    total = None
    for window in preprocess.windows(padded.shape):  # type: ignore[arg-type]
        found = run(preprocess.normalise(padded[window])[None])[0]
        total = np.zeros((len(found), *padded.shape), np.float32) if total is None else total
        total[(slice(None), *window)] += found * weight
        sums[window] += weight
    assert total is not None
    return (total / sums)[(slice(None), *inner)]


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(*[st.integers(1, 23)] * 3),
    st.tuples(st.integers(1, 9), st.integers(2, 8), st.integers(3, 8)),
    st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(1, 30)),
)
def test_planes_are_the_same_to_the_bit_as_all_at_once(
    shape: tuple[int, int, int],
    size: tuple[int, int, int],
    overlap: float,
    count: int,
    wanted: tuple[int, int, int],
) -> None:
    """For any layout of windows, with and without resampling: probabilities, slices and masks."""
    preprocess, prepared = VolumePreprocess(size, overlap=overlap), noise(shape)
    turns = np.random.default_rng(1).normal(size=(count, *size)).astype(np.float32)

    def run(batch: np.ndarray) -> np.ndarray:
        chances = np.exp(4 * batch + turns)
        return np.asarray(chances / (chances.sum(1, keepdims=True) if count > 1 else 1 + chances), np.float32)

    whole = at_once(preprocess, prepared, run)
    assert np.array_equal(preprocess.predict(prepared, run), whole)
    post = Postprocess(classes=("background", "a", "b")[: max(count, 2)])
    for target in (shape, wanted):
        slices = list(slices_at(preprocess.planes(prepared, run), target))
        assert np.array_equal(slices, list(slices_at(whole, target)))
        found = mask_at(preprocess.planes(prepared, run), target, post)
        assert np.array_equal(found, mask_at(whole, target, post))


def test_probabilities_are_never_there_of_all_planes() -> None:
    preprocess, prepared = VolumePreprocess((8, 16, 16)), noise((400, 64, 64))
    tracemalloc.start()
    try:
        planes = preprocess.planes(prepared, lambda batch: np.repeat(batch, 3, axis=1))
        mask = mask_at(planes, (400, 64, 64), Postprocess(classes=("background", "a", "b")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (
        peak < 2 * mask.nbytes + 8 * 3 * 8 * 64 * 64 * 4
    )  # and some slabs of 8 planes, where all are 50 slabs


def test_columns_are_resampled_in_parts() -> None:
    volume = noise((5, 150, 150))
    flat = resize_probability(volume.reshape(1, 5, -1).astype(np.float32), (9, 150 * 150))
    assert np.array_equal(resample(volume, (9, 150, 150)), flat.reshape(9, 150, 150))


def test_a_grid_that_is_too_large_is_refused_before_it_is_made() -> None:
    preprocess = VolumePreprocess((64, 64, 64), (1.0, 1.0, 1.0))
    reason = (
        r"its 30 x 30 x 30 voxels of 40 x 40 x 40 mm become 1200 x 1200 x 1200 of 1 x 1 x 1 mm for the network, which "
        r"take 8\.8 GB of memory, and at most 8 GB are allowed: correct the spacing"
    )
    with pytest.raises(InputError, match=reason):
        preprocess.prepare(noise((30, 30, 30)), (40.0, 40.0, 40.0))
    preprocess.check_room((1500, 512, 512), (1.0, 1.0, 1.0), 20)
    with pytest.raises(InputError, match=r"its 10 x 9000 x 9000 voxels take .* GB"):
        preprocess.check_room((10, 9000, 9000), None, 3)


def test_spacing_decides_the_grid_and_unknown_spacing_leaves_voxels() -> None:
    preprocess = VolumePreprocess((8, 8, 8), (3.0, 1.0, 1.0))
    assert preprocess.prepare(noise((10, 32, 32)), (1.5, 2.0, 0.5)).shape == (5, 64, 16)
    volume = noise((10, 32, 32))
    assert np.array_equal(preprocess.prepare(volume, None), volume)
    assert np.array_equal(VolumePreprocess((8, 8, 8)).prepare(volume, (3.0, 3.0, 3.0)), volume)


def test_masks_come_back_in_the_shape_of_the_volume() -> None:
    mask = np.zeros((12, 16, 16), np.uint8)
    mask[2:8, 4:12, 4:12], mask[8:11, 4:12, 4:12] = 1, 2
    small = resample_mask(mask, (6, 8, 8))
    assert set(np.unique(small)) == {0, 1, 2}
    sure = np.stack([small == k for k in range(3)]).astype(np.float32)
    back = mask_at(sure, (12, 16, 16), Postprocess(classes=("background", "a", "b")))
    assert (back != mask).mean() < 0.05


def test_padding_and_records() -> None:
    padded, inner = pad_to(noise((2, 9, 3)), (4, 4, 4))
    assert padded.shape == (4, 9, 4)
    assert np.array_equal(padded[inner], noise((2, 9, 3)))
    preprocess = VolumePreprocess((8, 16, 16), (3.0, 0.5, 0.5), mean=(0.5,), std=(0.25,), overlap=0.25)
    assert preprocess_from_dict(preprocess.to_dict()) == preprocess
    assert preprocess_from_dict({"size": [8, 8]}).dimensions == 2


@pytest.mark.parametrize(
    "values",
    [
        {"dimensions": 3, "size": [8, 8]},
        {"dimensions": 3, "size": [8, 8, 0]},
        {"dimensions": 3, "size": [8, 8, 8], "spacing": [1, 1]},
        {"dimensions": 3, "size": [8, 8, 8], "spacing": [1, 1, 0]},
        {"dimensions": 3, "size": [8, 8, 8], "overlap": 1},
        {"dimensions": 3, "size": "no"},
        {"dimensions": 3, "size": [8, 8, 8], "more": 1},
    ],
)
def test_damaged_records_are_one_line(values: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        preprocess_from_dict(values)
    assert "\n" not in str(caught.value)
