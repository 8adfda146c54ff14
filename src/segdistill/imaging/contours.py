"""Outlines of masks, and masks drawn over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.picture import Mask, Pixels

Rgb = tuple[int, int, int]


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
            inside = np.asarray(mask) != 0
            paint = np.asarray(colour, np.float32) * fill_opacity
            canvas[inside] = np.rint(canvas[inside] * np.float32(1 - fill_opacity) + paint).astype(np.uint8)
        canvas[outline(mask)] = colour
    return canvas
