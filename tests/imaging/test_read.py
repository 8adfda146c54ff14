from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segdistill.errors import UnreadableImage
from segdistill.imaging.intensity import Intensity, to_eight_bits
from segdistill.imaging.read import READABLE_SUFFIXES, image_size, read_picture, read_stored, stored_values

GREY = np.arange(12 * 17, dtype=np.uint8).reshape(12, 17)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)


def save(folder: Path, pixels: np.ndarray, suffix: str, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    path = folder / f"picture{suffix}"
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".bmp"])
def test_lossless_grey_comes_back_as_written(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path, GREY, suffix)
    picture = read_picture(path)
    assert np.array_equal(picture.pixels, GREY)
    assert picture.pixels.flags.c_contiguous
    assert picture.size == image_size(path) == (12, 17)
    assert picture.spacing is None
    assert picture.source == path
    assert path.suffix in READABLE_SUFFIXES


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".bmp"])
def test_lossless_colour_comes_back_as_written(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read_picture(save(tmp_path, COLOUR, suffix)).pixels, COLOUR)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = save(tmp_path, GREY, ".png")
    assert np.array_equal(read_picture(path.rename(tmp_path / "a.jpg")).pixels, GREY)


def test_jpeg_and_cmyk_are_close(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    assert (
        np.abs(read_picture(save(tmp_path, smooth, ".jpg", quality=95)).pixels.astype(int) - smooth).max() < 8
    )
    read = read_picture(save(tmp_path, np.stack([smooth] * 3, 2), ".jpeg", "CMYK", quality=95)).pixels
    assert read.shape == (64, 64, 3)
    assert np.abs(read.astype(int) - smooth[..., None]).max() < 8


def test_one_bit_palette_and_alpha(tmp_path: Path) -> None:
    bits = GREY > 100
    assert np.array_equal(read_picture(save(tmp_path, bits, ".png")).pixels, bits * 255)
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_picture(tmp_path / "p.png").pixels, np.asarray(palette.convert("RGB")))
    opaque = np.dstack([COLOUR, np.full_like(GREY, 255)])
    assert np.array_equal(read_picture(save(tmp_path, opaque, ".png")).pixels, COLOUR)
    half = np.dstack([COLOUR, np.where(bits, 255, 0).astype(np.uint8)])
    assert np.array_equal(
        read_picture(save(tmp_path, half, ".png")).pixels, np.where(bits[..., None], COLOUR, 0)
    )
    drawn_in_alpha = np.dstack([np.zeros_like(COLOUR), GREY])
    assert np.array_equal(read_picture(save(tmp_path, drawn_in_alpha, ".png")).pixels, GREY)
    two = np.dstack([GREY, np.full_like(GREY, 255)])
    Image.fromarray(two, "LA").save(tmp_path / "la.png")
    assert np.array_equal(read_picture(tmp_path / "la.png").pixels[..., 0], GREY)


def test_palette_with_transparent_entry_lies_over_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.save(tmp_path / "p.png", transparency=0)
    assert read_picture(tmp_path / "p.png").pixels.tolist() == [[[0, 0, 0], [10, 20, 30]]]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize(("top", "full"), [(255, 255), (1023, 1023), (4000, 4095), (65535, 65535)])
def test_sixteen_bits_are_scaled_by_their_depth(tmp_path: Path, suffix: str, top: int, full: int) -> None:
    deep = np.linspace(0, top, 12 * 17).reshape(12, 17).astype(np.uint16)
    read = read_picture(save(tmp_path, deep, suffix)).pixels
    assert read.dtype == np.uint8
    assert np.abs(read - deep * (255.0 / full)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("top", [1.0, 1.004, 3.7, 300.0, 1e6])
@pytest.mark.parametrize("low", [0.0, -0.5])
def test_real_numbers_keep_their_levels(tmp_path: Path, top: float, low: float) -> None:
    ramp = np.linspace(low, top, 4096, dtype=np.float32).reshape(64, 64)
    ramp[0, :5] = 1e9 if top > 1 else ramp[0, :5]  # a few hot pixels
    pixels = read_picture(save(tmp_path, ramp, ".tif")).pixels
    assert len(np.unique(pixels)) > 250
    assert (np.diff(pixels.ravel()[10:].astype(int)) >= 0).all()


def test_an_intensity_scales_what_has_more_than_eight_bits_alone(tmp_path: Path) -> None:
    window = Intensity("window", 100, 300)
    for suffix, dtype in ((".png", np.uint16), (".tif", np.float32)):
        values = np.array([[0, 100, 200, 300, 400]], dtype)
        path = save(tmp_path, values, suffix)
        assert read_picture(path, intensity=window).pixels.tolist() == [[0, 0, 128, 255, 255]]
        assert np.array_equal(stored_values(path), values)
    for plain in (save(tmp_path, GREY, ".bmp"), save(tmp_path, COLOUR, ".ppm"), tmp_path / "absent.png"):
        assert stored_values(plain) is None
    assert np.array_equal(read_picture(save(tmp_path, GREY, ".bmp"), intensity=window).pixels, GREY)


def test_real_numbers(tmp_path: Path) -> None:
    assert to_eight_bits(np.array([0, 100.4, 255.0])).tolist() == [0, 100, 255]
    assert to_eight_bits(np.array([-5, 0, 5])).tolist() == [0, 128, 255]
    with pytest.raises(UnreadableImage, match="NaN or infinite"):
        read_picture(save(tmp_path, np.array([[0, np.nan]], np.float32), ".tif"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int, dtype: type) -> None:
    if dtype == np.uint16 and suffix == ".jpg":
        pytest.skip("JPEG has 8 bits")
    stored = np.zeros((16, 32), dtype)
    stored[:8, :8] = np.iinfo(dtype).max - 5
    upright = {  # TIFF 6.0, page 36: which side of the picture the first row and column are
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, stored, suffix, exif=exif)
    picture = read_picture(path)
    assert picture.size == image_size(path) == upright.shape
    assert picture.turned == (orientation != 1)
    expected = upright.astype(int) >> (0 if dtype == np.uint8 else 8)
    assert np.abs(picture.pixels.astype(int) - expected).max() < 8
    values = read_stored(path).values
    assert values.dtype == dtype
    assert np.abs(values.astype(int) - upright).max() < 8


def test_a_damaged_exif_block_does_not_hide_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path, GREY, ".png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(read_picture(path).pixels, GREY)


def refuse(path: Path, reason: str, **options: int) -> None:
    for reader in (read_picture, image_size):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            reader(path, **options)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_no_picture(tmp_path: Path) -> None:
    refuse(tmp_path / "absent.png", "no such file")
    refuse(tmp_path, "is a folder")
    (tmp_path / "zero.png").touch()
    refuse(tmp_path / "zero.png", "is empty")
    (tmp_path / "text.png").write_text("hello")
    refuse(tmp_path / "text.png", "is not a PNG")
    os.mkfifo(tmp_path / "pipe.png")
    refuse(tmp_path / "pipe.png", "not a regular file")
    Image.fromarray(GREY).save(tmp_path / "a.gif")
    refuse(tmp_path / "a.gif", "format .gif is not read: save it as .png")
    refuse(tmp_path / "a.png\0b", "cannot be read")


def write_tiff(path: Path, bits: int, kind: int) -> Path:
    """Eight by eight pixels of a kind that Pillow does not write; `kind` is the tag SampleFormat."""
    short, long, size = 3, 4, 8 * bits
    tags = [
        (256, long, 8),
        (257, long, 8),
        (258, short, bits),
        (259, short, 1),
        (262, short, 1),
        (273, long, 8),
    ]
    tags += [(277, short, 1), (278, long, 8), (279, long, size), (339, short, kind)]
    entries = b"".join(struct.pack("<HHII", tag, of, 1, value) for tag, of, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size)
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize(
    ("bits", "kind", "words"),
    [(64, 3, "64-bit real"), (64, 1, "64-bit whole"), (16, 3, "16-bit real"), (64, 6, "complex")],
)
def test_kinds_of_tiff_that_are_not_read(tmp_path: Path, bits: int, kind: int, words: str) -> None:
    with pytest.raises(
        UnreadableImage, match=f"is a TIFF of 1 x .*{words}.*: save it with 8 or 16 bits"
    ) as caught:
        read_picture(write_tiff(tmp_path / "a.tif", bits, kind))
    assert "restore" not in str(caught.value)
    (tmp_path / "b.tif").write_bytes(b"II*\0" + bytes(3))
    with pytest.raises(UnreadableImage, match="damaged TIFF header"):
        read_picture(tmp_path / "b.tif")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_without_permission(tmp_path: Path) -> None:
    path = save(tmp_path, GREY, ".png")
    path.chmod(0)
    refuse(path, "Permission denied")


@pytest.mark.parametrize(("suffix", "frames"), [(".tif", 3), (".png", 2)])
def test_several_frames(tmp_path: Path, suffix: str, frames: int) -> None:
    others = [Image.fromarray(GREY[::-1]), Image.fromarray(GREY[:, ::-1])][: frames - 1]
    refuse(save(tmp_path, GREY, suffix, save_all=True, append_images=others), f"holds {frames} frames")


@pytest.mark.parametrize(
    ("bits", "number", "samples", "words"),
    [
        (64, 3, 1, "1 x 64-bit real"),
        (64, 1, 1, "1 x 64-bit whole"),
        (32, 3, 3, "3 x 32-bit real"),
    ],
)
def test_a_kind_of_tiff_that_is_not_read_is_named(
    tmp_path: Path, bits: int, number: int, samples: int, words: str
) -> None:
    size = bits // 8 * samples * 64
    values = {256: 8, 257: 8, 258: bits, 259: 1, 262: 1, 273: 8, 277: samples, 278: 8, 279: size, 339: number}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    start = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size)
    (tmp_path / "a.tif").write_bytes(start + struct.pack("<H", len(values)) + entries + bytes(4))
    refuse(tmp_path / "a.tif", f"is a TIFF of {words} numbers per pixel, which is not read: save it")


def test_a_damaged_header_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(200))
    refuse(tmp_path / "a.tif", "has a damaged TIFF header: restore the file")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    refuse(tmp_path / "a.png", "(has a damaged PNG header|cannot be read)")


def test_pixel_budget_is_checked_before_decoding(tmp_path: Path) -> None:
    refuse(save(tmp_path, GREY, ".png"), "more than the 100", max_pixels=100)
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "bomb.png").write_bytes(bomb + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImage):
        read_picture(tmp_path / "bomb.png")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".ppm", ".bmp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path, noise, suffix)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UnreadableImage, match="picture") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".png", ".jpg", ".tif", ".pgm", ".bmp"]), st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_one_error(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    path = save(tmp_path, GREY, suffix)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(UnreadableImage):
        assert read_picture(path, max_pixels=10**6).pixels.dtype == np.uint8


def test_busi_as_published(data_root: Path) -> None:
    folder = data_root / "busi" / "Dataset_BUSI_with_GT"
    for path in sorted(folder.glob("malignant/*.png"))[:12]:
        with Image.open(path) as image:
            assert np.array_equal(read_picture(path).pixels, np.asarray(image.convert("L")))
            assert image_size(path) == (image.height, image.width)


def test_checksums_of_a_png_are_compared(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.png", []
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    begin = whole.index(b"IDAT") + 4
    for place in range(begin, len(whole) - 12, 7):  # pixels and their checksum
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with contextlib.suppress(UnreadableImage):
            kept.append(read_picture(path))
    assert not kept
    path.write_bytes(whole[:-12])
    with pytest.raises(UnreadableImage, match="is cut off"):
        read_picture(path)
    path.write_bytes(whole + b"behind the end")
    assert read_picture(path).pixels.shape == (20, 30)
