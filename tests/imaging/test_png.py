"""Pillow and the reader of pictures get back what was written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.png import encode_png, write_png
from segdistill.imaging.read import read_picture


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 7), (37, 53), (37, 53, 3), (4, 1, 3)])
def test_greys_and_colours_come_back(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for each in (pixels, pixels[::-1, ::-1], np.zeros_like(pixels)):  # one that does not lie in a row, too
        image = Image.open(io.BytesIO(encode_png(each)))
        assert image.mode == ("L" if len(shape) == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(image), each)
        write_png(tmp_path / "a.png", each, sync=False)
        np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, each)  # compares checksums


@pytest.mark.parametrize("colours", [2, 3, 256])
def test_indices_come_back_with_their_palette(colours: int) -> None:
    random = np.random.default_rng(1)
    palette = random.integers(0, 256, (colours, 3), np.uint8)
    indices = random.integers(0, colours, (9, 11)).astype(np.uint8)
    image = Image.open(io.BytesIO(encode_png(indices, palette)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), indices)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[indices])


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        write_png(tmp_path / "file" / "a.png", np.zeros((2, 2), np.uint8))
