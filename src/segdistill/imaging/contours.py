"""Outlines of masks, and masks drawn over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.picture import Mask, Pixels
from segdistill.imaging.png import write_png

Rgb = tuple[int, int, int]

_CLASSES: tuple[Rgb, ...] = (
    (255, 176, 0),
    (0, 200, 255),
    (255, 64, 160),
    (120, 220, 80),
    (160, 110, 255),
    (255, 110, 60),
    (0, 160, 140),
    (240, 230, 90),
)


def class_colour(index: int) -> Rgb:
    """The colour of a class by its index, from 1; colour-blind readers can distinguish the first ones.

    >>> class_colour(1) == class_colour(9)
    True
    """
    return _CLASSES[(index - 1) % len(_CLASSES)]


def save_indices(mask: Pixels, path: Path, classes: int, sync: bool = True) -> None:
    """Writes an index mask, uint8 (H, W), as a PNG whose palette has a colour for each of so many classes.

    `sync`: see `files.atomic_write`.

    Raises:
        InputError: the file cannot be written.

    >>> import tempfile
    >>> from PIL import Image
    >>> path = Path(tempfile.mkdtemp()) / "mask.png"
    >>> save_indices(np.array([[0, 2]], np.uint8), path, 2)
    >>> np.asarray(Image.open(path)).tolist(), Image.open(path).getpalette()[6:9]
    ([[0, 2]], [0, 200, 255])
    """
    colours = [(0, 0, 0), *(class_colour(k) for k in range(1, classes + 1))]
    write_png(path, mask, np.array(colours, np.uint8), sync)


def outline(mask: NDArray[Any]) -> Mask:
    """Foreground pixels that touch background, or the picture's edge, by one of their four sides.

    Args:
        mask: (H, W), foreground where not zero.

    Returns:
        bool (H, W), a subset of the mask.

    >>> outline(np.ones((3, 3), bool)).astype(int).tolist()
    [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    """
    foreground = np.asarray(mask) != 0
    inner = foreground.copy()
    inner[1:] &= foreground[:-1]
    inner[:-1] &= foreground[1:]
    inner[:, 1:] &= foreground[:, :-1]
    inner[:, :-1] &= foreground[:, 1:]
    for edge in (inner[:1], inner[-1:], inner[:, :1], inner[:, -1:]):
        edge[:] = False
    rim: Mask = foreground & ~inner
    return rim


def class_layers(mask: NDArray[Any]) -> list[tuple[Mask, Rgb]]:
    """The mask of every class of an index mask (H, W) with its colour, for `draw_overlay`.

    >>> [int(layer.sum()) for layer, _ in class_layers(np.array([[0, 1], [3, 3]]))]
    [1, 0, 2]
    """
    return [(mask == k, class_colour(k)) for k in range(1, int(mask.max(initial=0)) + 1)]


def draw_overlay(
    pixels: Pixels, layers: Sequence[tuple[NDArray[Any], Rgb]], fill_opacity: float = 0.0
) -> Pixels:
    """Draws the outline of each mask, and optionally its inside, over a picture; later layers lie on top.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).
        layers: pairs of a mask (H, W) and its colour (red, green, blue) in 0..255.
        fill_opacity: 0 draws the outline alone, 1 paints the inside over.

    Returns:
        uint8 (H, W, 3).

    Raises:
        InputError: a mask has another size than the picture.

    >>> draw_overlay(np.zeros((1, 2), np.uint8), [(np.array([[True, False]]), (255, 0, 0))]).tolist()
    [[[255, 0, 0], [0, 0, 0]]]
    """
    canvas = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()
    for mask, colour in layers:
        if mask.shape != canvas.shape[:2]:
            raise InputError(f"mask {mask.shape} and picture {canvas.shape[:2]} differ in size")
        if fill_opacity > 0:
            canvas = fill(canvas, [(mask, colour)], fill_opacity)
        canvas[outline(mask)] = colour
    return canvas


def fill(pixels: Pixels, layers: Sequence[tuple[NDArray[Any], Rgb]], opacity: float) -> Pixels:
    """Paints the inside of each mask (H, W) over a picture: uint8 (H, W, 3).

    >>> fill(np.zeros((1, 2), np.uint8), [(np.array([[True, False]]), (200, 0, 0))], 0.5).tolist()
    [[[100, 0, 0], [0, 0, 0]]]
    """
    canvas = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()
    for mask, colour in layers:
        inside = np.asarray(mask) != 0
        paint = np.asarray(colour, np.float32) * opacity
        canvas[inside] = np.rint(canvas[inside] * np.float32(1 - opacity) + paint).astype(np.uint8)
    return canvas
