from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.masks import read_mask

SHAPE = np.zeros((40, 50), bool)
SHAPE[10:30, 15:35] = True


def save(folder: Path, pixels: np.ndarray, name: str = "m.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    "pixels",
    [
        SHAPE,
        SHAPE.astype(np.uint8),
        SHAPE * np.uint8(255),
        SHAPE * np.uint8(38),
        np.stack([SHAPE * np.uint8(255)] * 3, 2),
        np.stack([SHAPE * np.uint8(255), SHAPE * 0, SHAPE * 0], 2).astype(np.uint8),
        np.dstack([SHAPE * np.uint8(255)] * 3 + [np.full(SHAPE.shape, 255, np.uint8)]),
        np.dstack([np.full(SHAPE.shape, 255, np.uint8)] * 3 + [SHAPE * np.uint8(255)]),
        SHAPE * np.uint16(65535),
    ],
    ids=["1-bit", "0/1", "0/255", "0/38", "RGB", "red", "RGBA", "alpha", "16-bit"],
)
def test_every_way_to_store_a_mask(tmp_path: Path, pixels: np.ndarray) -> None:
    assert np.array_equal(read_mask([save(tmp_path, pixels)], SHAPE.shape), SHAPE)


def test_palette_and_jpeg(tmp_path: Path) -> None:
    palette = Image.fromarray(SHAPE.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_mask([tmp_path / "p.png"]), SHAPE)
    assert np.array_equal(read_mask([save(tmp_path, SHAPE * np.uint8(255), "m.jpg")]), SHAPE)


def test_empty_and_full(tmp_path: Path) -> None:
    assert not read_mask([save(tmp_path, np.zeros((4, 4), np.uint8))]).any()
    for value in (1, 255):
        assert read_mask([save(tmp_path, np.full((4, 4), value, np.uint8))]).all()
    with pytest.raises(InputError, match="every pixel is 128"):
        read_mask([save(tmp_path, np.full((4, 4), 128, np.uint8))])


def test_several_masks_are_joined(tmp_path: Path) -> None:
    left, right = SHAPE.copy(), SHAPE.copy()
    left[:, 25:] = right[:, :25] = False
    paths = [save(tmp_path, left, "1.png"), save(tmp_path, right * np.uint8(255), "2.png")]
    assert np.array_equal(read_mask(paths), SHAPE)


def test_another_size_is_refused_or_resized(tmp_path: Path) -> None:
    path = save(tmp_path, SHAPE * np.uint8(255))
    with pytest.raises(InputError, match="mask is 40 x 50 pixels, but 80 x 100 are expected"):
        read_mask([path], (80, 100))
    doubled = read_mask([path], (80, 100), resize=True)
    assert np.array_equal(doubled, SHAPE.repeat(2, 0).repeat(2, 1))


def test_grey_edges_are_cut_at_half(tmp_path: Path) -> None:
    soft = Image.fromarray(SHAPE * np.uint8(255)).resize((200, 160), Image.Resampling.BILINEAR)
    soft.save(tmp_path / "soft.png")
    assert np.array_equal(read_mask([tmp_path / "soft.png"]), np.asarray(soft) >= 128)


def test_what_is_no_mask(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).normal(110, 40, (40, 50)).clip(0, 255).astype(np.uint8)
    labels = np.arange(2000, dtype=np.uint8).reshape(40, 50) % 3
    for pixels in (photo, photo // 3, np.stack([photo] * 3, 2), labels):
        with pytest.raises(InputError, match="is not a mask") as caught:
            read_mask([save(tmp_path, pixels)])
        assert not isinstance(caught.value, UnreadableImage)
    with pytest.raises(InputError, match="no mask file"):
        read_mask([])
    with pytest.raises(UnreadableImage, match="no such file"):
        read_mask([tmp_path / "absent.png"])


def test_busi_masks_are_read_and_its_pictures_are_none(data_root: Path) -> None:
    folder = data_root / "busi" / "Dataset_BUSI_with_GT" / "benign"
    for path in sorted(folder.glob("*.png"))[:40]:
        if "_mask" in path.name:
            assert np.array_equal(read_mask([path]), np.asarray(Image.open(path)) > 0)
        else:
            with pytest.raises(InputError, match="is not a mask"):
                read_mask([path])
