from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from segdistill.errors import InputError
from segdistill.imaging.components import label_components
from segdistill.imaging.contours import draw_overlay, outline
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.imaging.preprocess import Preprocess, prepare_mask

sides = st.integers(1, 40)
pictures = st.tuples(sides, sides, st.sampled_from([0, 3])).flatmap(
    lambda s: hnp.arrays(np.uint8, s[:2] if s[2] == 0 else s)
)
masks = hnp.arrays(bool, st.tuples(sides, sides))


@settings(max_examples=50, deadline=None)
@given(pictures, sides, sides, st.sampled_from([("grey", 1), ("grey", 3), ("grey", 5), ("rgb", 3)]))
def test_shapes_types_and_values(pixels: np.ndarray, height: int, width: int, kind: tuple[str, int]) -> None:
    preprocess = Preprocess((height, width), *kind, mean=(0.4,), std=(0.2,))
    prepared = preprocess.prepare(pixels)
    assert prepared.dtype == np.uint8
    assert prepared.shape == (height, width, 3 if kind[0] == "rgb" else 1)
    assert prepared.min() >= pixels.min()
    assert prepared.max() <= pixels.max()
    ready = preprocess(pixels)
    assert ready.dtype == np.float32
    assert ready.shape == (kind[1], height, width)
    expected = (np.broadcast_to(prepared, (height, width, kind[1])) / 255 - 0.4) / 0.2
    assert np.allclose(ready, expected.transpose(2, 0, 1), atol=1e-5)


def test_same_size_is_untouched_and_grey_is_pillow_s() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert np.array_equal(Preprocess((9, 7), "rgb").prepare(pixels), pixels)
    assert np.array_equal(
        Preprocess((9, 7)).prepare(pixels)[..., 0], np.asarray(Image.fromarray(pixels).convert("L"))
    )
    half = Image.fromarray(pixels).convert("L").resize((4, 5), Image.Resampling.BILINEAR)
    assert np.array_equal(Preprocess((5, 4)).prepare(pixels)[..., 0], np.asarray(half))


@pytest.mark.parametrize(
    "values",
    [
        {"size": (0, 4)},
        {"size": (4, 4), "colour": "blue"},
        {"size": (4, 4), "colour": "rgb", "channels": 1},
        {"size": (4, 4), "mean": (0.1, 0.2)},
        {"size": (4, 4), "std": (0.0,)},
        {"size": (4, 4), "mean": (float("nan"),)},
    ],
)
def test_settings_that_make_no_sense(values: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Preprocess(**values)
    with pytest.raises(InputError):
        Preprocess.from_dict(values)


@pytest.mark.parametrize("values", [{}, {"size": 4}, {"size": [4, "x"]}, {"size": [4, 4], "sise": 1}, [1]])
def test_settings_from_json_that_are_wrong(values: Any) -> None:
    with pytest.raises(InputError):
        Preprocess.from_dict(values)


def test_settings_survive_json() -> None:
    preprocess = Preprocess((8, 9), "rgb", 3, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    postprocess = Postprocess(0.4, ("background", "benign", "malignant"))
    assert Postprocess.from_dict(json.loads(json.dumps(postprocess.to_dict()))) == postprocess
    for wrong in (
        {"threshold": 2},
        {"threshold": "x"},
        {"classes": "ab"},
        {"classes": ["a"]},
        {"other": 1},
        3,
    ):
        with pytest.raises(InputError):
            Postprocess.from_dict(wrong)  # type: ignore[arg-type]


def test_pixels_of_the_wrong_kind_are_refused() -> None:
    for pixels in (np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(InputError):
            Preprocess((4, 4)).prepare(pixels)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Preprocess((4, 4), "rgb").normalise(np.zeros((4, 4, 1), np.uint8))


@settings(max_examples=50, deadline=None)
@given(masks, st.integers(1, 4))
def test_prepare_mask_counts_area(mask: np.ndarray, factor: int) -> None:
    enlarged = mask.repeat(factor, 0).repeat(factor, 1)
    assert np.array_equal(prepare_mask(enlarged, mask.shape), mask)
    height, width = (side - side % factor for side in mask.shape)
    if height and width:
        whole = mask[:height, :width]
        share = whole.reshape(height // factor, factor, width // factor, factor).mean((1, 3))
        assert np.array_equal(prepare_mask(whole, share.shape), share >= 0.5 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (2, 5, 7), elements=st.floats(0, 1, width=32)), sides, sides)
def test_resized_probabilities_stay_probabilities(probability: np.ndarray, height: int, width: int) -> None:
    resized = resize_probability(probability, (height, width))
    assert resized.shape == (2, height, width)
    assert resized.dtype == np.float32
    assert (resized.min((1, 2)) >= probability.min((1, 2)) - 1e-5).all()
    assert (resized.max((1, 2)) <= probability.max((1, 2)) + 1e-5).all()


def test_masks_for_one_two_and_three_planes() -> None:
    lesion = np.array([[0.2, 0.5, 0.6]], np.float32)
    two = np.stack([1 - lesion, lesion])
    assert Postprocess().mask(two, (1, 3)).tolist() == [[0, 0, 1]]
    assert np.array_equal(Postprocess().mask(lesion[None], (1, 3)), Postprocess().mask(two, (1, 3)))
    three = Postprocess(classes=("background", "a", "b"))
    planes = np.array([[[0.6, 0.2]], [[0.1, 0.3]], [[0.3, 0.5]]], np.float32)
    assert three.mask(planes, (1, 2)).tolist() == [[0, 2]]
    assert np.allclose(three.foreground(planes, (1, 2)), [[0.4, 0.8]])
    with pytest.raises(InputError, match="do not fit"):
        Postprocess().mask(planes, (1, 2))


@settings(max_examples=60, deadline=None)
@given(masks)
def test_outline_is_mask_without_its_erosion(mask: np.ndarray) -> None:
    cross = ndimage.generate_binary_structure(2, 1)
    assert np.array_equal(outline(mask), mask & ~ndimage.binary_erosion(mask, cross, border_value=0))


def test_overlay() -> None:
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    pixels = np.full((5, 5), 100, np.uint8)
    drawn = draw_overlay(pixels, [(mask, (255, 0, 0))], fill_opacity=0.5)
    assert drawn[0, 0].tolist() == [100, 100, 100]
    assert drawn[1, 1].tolist() == [255, 0, 0]
    assert drawn[2, 2].tolist() == [178, 50, 50]
    assert (pixels == 100).all()
    colour = np.zeros((5, 5, 3), np.uint8)
    draw_overlay(colour, [(mask, (1, 2, 3))])
    assert not colour.any()
    with pytest.raises(InputError, match="differ in size"):
        draw_overlay(pixels, [(mask[1:], (255, 0, 0))])


def same_parts(labels: np.ndarray, expected: np.ndarray) -> bool:
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@settings(max_examples=150, deadline=None)
@given(masks)
def test_components_are_scipy_s(mask: np.ndarray) -> None:
    labels, count = label_components(mask)
    expected, number = ndimage.label(mask, np.ones((3, 3)))
    assert count == number
    assert same_parts(labels, expected)
    firsts = [int(np.flatnonzero(labels.ravel() == n)[0]) for n in range(1, count + 1)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("kind", ["noise", "combs", "spiral"])
def test_components_of_large_hard_masks(kind: str) -> None:
    mask = np.zeros((600, 800), bool)
    if kind == "noise":
        mask = np.random.default_rng(0).random((600, 800)) < 0.4
    elif kind == "combs":
        mask[:, ::2] = True
        mask[::599] = True
    else:
        top, left, bottom, right = 0, 0, 600, 800
        while bottom - top > 4 and right - left > 4:
            mask[top, left:right] = mask[top:bottom, right - 1] = mask[bottom - 1, left:right] = True
            mask[top + 2 : bottom, left] = True
            mask[top + 2, left : left + 2] = True
            top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    labels, count = label_components(mask)
    expected, number = ndimage.label(mask, np.ones((3, 3)))
    assert count == number
    assert same_parts(labels, expected)
