from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.classes import mask_values
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


RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def in_colours(background: tuple[int, ...], lesion: tuple[int, ...]) -> np.ndarray:
    return np.where(SHAPE[..., None], np.array(lesion, np.uint8), np.array(background, np.uint8))


def in_palette(folder: Path, index: np.ndarray, colours: list[tuple[int, ...]], **options: object) -> Path:
    image = Image.fromarray(index.astype(np.uint8), "P")
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(folder / "p.png", **options)
    return folder / "p.png"


@pytest.mark.parametrize(
    ("background", "lesion"),
    [
        (RED, GREEN),
        (WHITE, RED),
        (BLACK, GREEN),
        (GREEN, WHITE),
        ((200, 10, 10), (255, 10, 10)),
        (BLACK, (0, 0, 90)),
        ((*WHITE, 0), (*BLACK, 255)),
        ((*BLACK, 0), (*RED, 255)),
        ((*RED, 0), (*RED, 255)),
        ((*WHITE, 0), (*WHITE, 90)),
        ((*RED, 90), (*GREEN, 90)),
    ],
)
def test_two_colours(tmp_path: Path, background: tuple[int, ...], lesion: tuple[int, ...]) -> None:
    assert np.array_equal(read_mask([save(tmp_path, in_colours(background, lesion))]), SHAPE)


@pytest.mark.parametrize("colours", [[RED, GREEN], [WHITE, RED], [BLACK, RED], [RED, WHITE], [BLACK, BLACK]])
@pytest.mark.parametrize("swapped", [False, True])
def test_palettes(tmp_path: Path, colours: list[tuple[int, ...]], swapped: bool) -> None:
    if colours[0] == colours[1] and swapped:
        pytest.skip("such a palette tells nothing of what is background")
    index = ~SHAPE if swapped else SHAPE
    path = in_palette(tmp_path, index, colours[::-1] if swapped else colours)
    assert np.array_equal(read_mask([path]), SHAPE)


def test_a_palette_of_greys_is_a_grey_picture(tmp_path: Path) -> None:
    assert np.array_equal(read_mask([in_palette(tmp_path, SHAPE, [WHITE, BLACK])]), ~SHAPE)
    soft = np.asarray(Image.fromarray(SHAPE * np.uint8(255)).resize((200, 160), Image.Resampling.BILINEAR))
    assert np.array_equal(
        read_mask([in_palette(tmp_path, soft, [(k, k, k) for k in range(256)])]), soft >= 128
    )


def test_a_transparent_entry_of_a_palette_is_background(tmp_path: Path) -> None:
    path = in_palette(tmp_path, ~SHAPE, [BLACK, GREEN], transparency=1)
    assert np.array_equal(read_mask([path]), SHAPE)


def test_one_colour_alone(tmp_path: Path) -> None:
    shape = (*SHAPE.shape, 3)
    assert not read_mask([save(tmp_path, np.zeros((*SHAPE.shape, 4), np.uint8))]).any()
    assert not read_mask([in_palette(tmp_path, SHAPE * 0, [RED, GREEN])]).any()
    assert read_mask([save(tmp_path, np.full(shape, 255, np.uint8))]).all()
    for pixels in (np.full(shape, RED, np.uint8), np.full(SHAPE.shape, 38, np.uint8)):
        with pytest.raises(InputError, match=r"every pixel is (#ff0000|38)"):
            read_mask([save(tmp_path, pixels)])


LABELS = SHAPE.astype(np.uint8)
LABELS[12:20, 18:26] = 2
TINY = np.zeros_like(LABELS)
TINY[5:7, 5:7], TINY[20, 9], TINY[30:33, 40] = 1, 2, 3


@pytest.mark.parametrize(
    ("labels", "values", "few"),
    [
        (LABELS, (0, 1, 2), "0, 1, 2"),
        (LABELS, (0, 1, 255), "0, 1, 255"),
        (LABELS, (0, 127, 255), "0, 127, 255"),
        (LABELS, (0, 255, 254), None),
        (TINY, (0, 127, 200, 255), "0, 127, 200, 255"),
        (TINY, (0, 1, 2, 255), "0, 1, 2, 255"),
        (LABELS, (0, 256, 65535), "0, 256, 65535"),
        (LABELS, (0, 0.5, 1.0), None),
        (LABELS, (0.0, 1.0, 2.0), "0, 1, 2"),
    ],
)
def test_several_values_are_refused_and_named(
    tmp_path: Path, labels: np.ndarray, values: tuple[float, ...], few: str | None
) -> None:
    kind = np.float32 if isinstance(values[-1], float) else np.uint16 if max(values) > 255 else np.uint8
    path = save(tmp_path, np.array(values, kind)[labels], "m.tif")
    if values == (0, 255, 254):  # both are white
        assert np.array_equal(read_mask([path]), labels > 0)
        return
    with pytest.raises(InputError) as caught:
        read_mask([path])
    message = str(caught.value)
    assert message.startswith(f"{path}: is not a mask: it holds {len(values)}")
    assert few is None or f"({few})" in message
    assert "foreground: [" in message
    assert "\n" not in message


def test_instances_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for side, count, highest in ((7, 40, 255), (3, 200, 255), (1, 100, 255), (5, 300, 65535)):
        cells = np.zeros((400, 400), np.uint16)
        for value in rng.choice(np.arange(1, highest + 1), count, replace=False):
            y, x = rng.integers(0, 400 - side, 2)
            cells[y : y + side, x : x + side] = value
        cells[0, 0] = highest
        with pytest.raises(InputError, match="background: "):
            read_mask([save(tmp_path, cells if highest > 255 else cells.astype(np.uint8))])


def test_classes_in_colour_are_refused(tmp_path: Path) -> None:
    several = in_colours(BLACK, RED)
    several[12:20, 18:26] = GREEN
    for path in (save(tmp_path, several), save(tmp_path, several, "m.jpg")):
        with pytest.raises(InputError, match=r"is not a mask: it holds \d+ colours \(#"):
            read_mask([path])
    index = in_palette(tmp_path, LABELS, [BLACK, RED, GREEN])
    with pytest.raises(InputError, match=r"holds 3 palette values \(0, 1, 2\)"):
        read_mask([index])


@pytest.mark.parametrize("quality", [30, 60, 75, 90, 95])
@pytest.mark.parametrize("saved_again", [False, True])
def test_lossy_masks_are_cut_at_half(tmp_path: Path, quality: int, saved_again: bool) -> None:
    y, x = np.mgrid[:160, :200]
    disc = (y - 80) ** 2 + (x - 90) ** 2 < 43**2
    Image.fromarray(disc * np.uint8(255)).save(tmp_path / "m.jpg", quality=quality)
    image = Image.open(tmp_path / "m.jpg")
    if saved_again:
        image.save(tmp_path / "m.png")
    assert np.array_equal(
        read_mask([tmp_path / ("m.png" if saved_again else "m.jpg")]), np.asarray(image) >= 128
    )


def test_classes_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    large = np.zeros((160, 200), np.uint8)
    large[20:60, 30:90], large[100:120, 100:130] = 127, 255
    with pytest.raises(InputError, match="is not a mask"):
        read_mask([save(tmp_path, large, "m.jpg")])


def test_a_background_that_rules_disagree_on_is_asked_for(tmp_path: Path) -> None:
    assert np.array_equal(read_mask([save(tmp_path, np.where(SHAPE, 2, 1).astype(np.uint8))]), SHAPE)
    for pixels in (np.where(SHAPE, 1, 2).astype(np.uint8), in_colours(RED, BLACK)):
        path = save(tmp_path, pixels)
        with pytest.raises(InputError, match=r"which of .* is the background cannot be seen.*foreground: "):
            read_mask([path])
    assert np.array_equal(read_mask([path], background=["#ff0000"]), SHAPE)


def test_named_values(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([0, 1, 255], np.uint8)[LABELS])
    assert np.array_equal(read_mask([path], foreground=[1]), LABELS == 1)
    assert np.array_equal(read_mask([path], foreground=[1, 255]), LABELS > 0)
    assert np.array_equal(read_mask([path], background=[0, 255]), LABELS == 1)
    assert not read_mask([path], foreground=[7]).any()
    with pytest.raises(InputError, match="holds the value 255, which is named neither"):
        read_mask([path], foreground=[1], background=[0])
    inverted = save(tmp_path, np.where(SHAPE, 0, 255).astype(np.uint8))
    assert np.array_equal(read_mask([inverted], foreground=[0]), SHAPE)
    bits = save(tmp_path, SHAPE)
    for value in (1, 255):
        assert np.array_equal(read_mask([bits], foreground=[value]), SHAPE)
    palette = in_palette(tmp_path, LABELS, [BLACK, RED, GREEN])
    for word in (2, "#00ff00"):
        assert np.array_equal(read_mask([palette], foreground=[word]), LABELS == 2)
    colours = save(tmp_path, in_colours(WHITE, RED))
    assert np.array_equal(read_mask([colours], background=[255]), SHAPE)
    deep = save(tmp_path, np.array([0, 700, 65535], np.uint16)[LABELS])
    assert np.array_equal(read_mask([deep], foreground=[700]), LABELS == 1)
    soft = save(tmp_path, SHAPE * np.uint8(255), "m.jpg")
    assert np.array_equal(read_mask([soft], foreground=[255]), SHAPE)


def test_what_can_name_a_value() -> None:
    assert mask_values("[1, 255]") == mask_values("1;255") == mask_values([1, 255.0]) == (1, 255)
    assert mask_values("#FF0000 transparent") == ("#ff0000", "transparent")
    assert mask_values("") == mask_values(None) == ()
    for wrong in ("red", "-1", "1.5", [True], "#ff"):
        with pytest.raises(InputError, match="is not a value of a mask"):
            mask_values(wrong)


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
