"""Several structures in one mask: names and values, files, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.classes import Reading, classes_text, parse_classes
from segdistill.imaging.masks import read_class_mask
from segdistill.imaging.preprocess import prepare_mask
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from segdistill.imaging.small import find_small
from segdistill.imaging.volume import Noticed
from tests.imaging.volumes import blocks, write_itk

HEAD_AND_BODY = parse_classes({"head": 1, "body": [2, 3]})


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize(
    "given",
    [{"head": 1, "body": [2, 3]}, "head=1;body=2 3", "head=1; body=2,3", {"head": "1", "body": "2 3"}],
)
def test_one_list_of_classes_in_every_form(given: object) -> None:
    assert parse_classes(given) == HEAD_AND_BODY
    assert parse_classes(classes_text(HEAD_AND_BODY)) == HEAD_AND_BODY


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": 1, "b": 1}, "value 1 is of the classes 'a' and 'b'"),
        ("a=1;a=2", "class 'a' is named twice"),
        ({"a/b": 1}, "cannot be the name of a class"),
        ({"": 1}, "cannot be the name of a class"),
        ({"Background": 0}, "background is no class"),
        ({"a": -1}, "'-1' is not a value of a mask"),
        (7, "write {name: value} or a list of names"),
        ([f"c{k}" for k in range(255)], "at most 254"),
    ],
)
def test_bad_lists_of_classes(given: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_classes(given)
    assert "\n" not in str(caught.value)


def test_grey_palette_and_colour_files_give_one_index_mask(tmp_path: Path) -> None:
    values = np.array([[0, 1, 1], [3, 2, 0]], np.uint8)
    wanted = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    reading = Reading(HEAD_AND_BODY)
    assert np.array_equal(read_class_mask([save(tmp_path / "grey.png", values)], reading), wanted)
    palette = Image.fromarray(values, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_class_mask([tmp_path / "palette.png"], reading), wanted)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)[values]
    named = Reading(parse_classes({"head": "#ff0000", "body": ["#00ff00", "#0000ff"]}))
    assert np.array_equal(read_class_mask([save(tmp_path / "rgb.png", colours)], named), wanted)
    assert np.array_equal(read_class_mask([tmp_path / "palette.png"], named), wanted)


def test_values_that_no_class_has(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[0, 1], [9, 2]], np.uint8))
    with pytest.raises(
        InputError, match=r"m\.png: holds the value 9, which is of no class \(head=1, body=2 3\)"
    ):
        read_class_mask([path], Reading(HEAD_AND_BODY))
    ignored = read_class_mask([path], Reading(HEAD_AND_BODY, background=(9,)))
    assert ignored.tolist() == [[0, 1], [0, 2]]
    with pytest.raises(InputError, match="a JPEG moves values"):
        read_class_mask([save(tmp_path / "m.jpg", np.zeros((8, 8), np.uint8))], Reading(HEAD_AND_BODY))


def test_one_file_for_each_class_the_later_class_wins(tmp_path: Path) -> None:
    liver = save(tmp_path / "liver.png", np.array([[255, 255, 0]], np.uint8))
    tumour = save(tmp_path / "tumour.png", np.array([[0, 255, 255]], np.uint8))
    classes = parse_classes(["liver", "tumour"])
    for paths, names in (([liver, tumour], ("liver", "tumour")), ([tumour, liver], ("tumour", "liver"))):
        noticed = Noticed()
        mask = read_class_mask(paths, Reading(classes, of_file=names), noticed=noticed)
        assert mask.tolist() == [[1, 2, 2]]
        assert noticed.overlap == 1
    with pytest.raises(InputError, match="of the class 'spleen', and the classes are liver, tumour"):
        read_class_mask([liver], Reading(classes, of_file=("spleen",)))


def test_volumes_of_labels(tmp_path: Path) -> None:
    image = read_volume(write_itk(tmp_path / "image.nii.gz", blocks()), turn=False)
    labels = np.random.default_rng(0).integers(0, 4, image.geometry.shape).astype(np.uint8)
    path = write_itk(tmp_path / "m.nii.gz", labels)
    stored = read_volume(path, turn=False).voxels
    wanted = np.array([0, 1, 2, 2], np.uint8)[stored]
    assert np.array_equal(read_volume_mask([path], image, Reading(HEAD_AND_BODY)), wanted)
    assert np.array_equal(read_volume_mask([path], image, Reading(foreground=(2, 3))), stored >= 2)
    assert np.array_equal(read_volume_mask([path], image, Reading(background=(0, 1))), stored >= 2)
    assert np.array_equal(read_volume_mask([path], image), stored > 0)
    with pytest.raises(InputError, match=r"m\.nii\.gz: holds the value 3, which is of no class"):
        read_volume_mask([path], image, Reading(parse_classes({"head": 1, "body": 2})))
    parts = [write_itk(tmp_path / f"{k}.nii.gz", (labels == k).astype(np.uint8)) for k in (1, 2)]
    joined = read_volume_mask(parts, image, Reading(parse_classes(["a", "b"]), of_file=("a", "b")))
    assert np.array_equal(joined, np.where(stored == 3, 0, stored))


@given(arrays(np.uint8, (12, 12), elements=st.integers(0, 3)), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_a_resized_pixel_is_the_class_with_most_of_its_area(mask: np.ndarray, side: int) -> None:
    """Whole factors: the areas are counted one by one."""
    step = 12 // side
    counts = np.stack([(mask == k).reshape(side, step, side, step).sum(axis=(1, 3)) for k in range(4)])
    best = 3 - counts[::-1].argmax(axis=0)  # of equal ones the last
    assert np.array_equal(prepare_mask(mask, (side, side)), best)


@given(arrays(np.bool_, (12, 9)))
def test_one_class_is_resized_as_before(mask: np.ndarray) -> None:
    assert np.array_equal(prepare_mask(mask, (5, 4)), prepare_mask(mask.astype(np.uint8), (5, 4)))


def test_a_small_component_keeps_its_class() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[4:20, 4:20], mask[2, 24:28] = 1, 2
    found = find_small(mask, prepare_mask(mask, (4, 4)))
    assert (found.total, found.vanished, found.places, found.classes) == (2, 1, ((0, 3),), (2,))
