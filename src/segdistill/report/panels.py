"""One small picture per case: the image with the contours of the reference and of a prediction.

A whole picture of thin structures, such as vessels, would be all contour at this size: a part of it is drawn larger,
and the whole picture once beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.imaging.contours import Rgb, class_layers, draw_overlay, fill, outline
from segdistill.imaging.picture import Mask

REFERENCE = (46, 204, 113)  # green
PREDICTION = (255, 122, 26)  # orange
WINDOW = (255, 255, 255)
_OPACITY = 0.4
Window = tuple[int, int, int, int]
"""top, left, bottom, right in pixels, ends exclusive."""
_THIN = 0.04  # of the picture's longer side: coronary vessels have 0.013 to 0.041, breast lesions mostly above 0.04
_SHARE = 0.4  # of each side that a window shows
_GREYS = np.round(np.round(np.arange(256) * 63 / 255) * 255 / 63).astype(np.uint8)  # 64 levels


def _resize(picture: NDArray[Any], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize(size, how), dtype=np.uint8)


def thickness(mask: NDArray[Any]) -> float:
    """Mean width of what a mask (H, W) marks, in pixels: twice its area by the length of its outline; 0 when empty.

    >>> line = np.zeros((20, 20), bool)
    >>> line[8:12, :] = True
    >>> round(thickness(line), 1)
    3.6
    """
    length = int(outline(mask).sum())
    return 2 * int(np.count_nonzero(mask)) / length if length else 0.0


def are_thin(masks: Iterable[NDArray[Any]]) -> bool:
    """Whether the structures are thin: narrower than 4 % of the picture in most of the masks that are not empty.

    >>> are_thin([np.ones((20, 20), bool)])
    False
    """
    shares = [thickness(mask) / max(mask.shape) for mask in masks if mask.any()]
    return bool(shares) and float(np.median(shares)) < _THIN


def choose_window(reference: NDArray[Any], prediction: NDArray[Any]) -> Window:
    """The part of a picture, 40 % of each side, in which most pixels are wrong; where none is, that of most foreground.

    >>> wrong = np.zeros((10, 10), bool)
    >>> wrong[9, 9] = True
    >>> choose_window(wrong, wrong & False)
    (6, 6, 10, 10)
    """
    wrong = reference != prediction
    counted = (wrong if wrong.any() else reference != 0).astype(np.int64)
    height, width = (max(1, round(side * _SHARE)) for side in counted.shape)
    sums = np.pad(counted.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    best = np.argwhere(inside == inside.max())  # of several alike the middle one
    top, left = (int(value) for value in best[len(best) // 2])
    return top, left, top + height, left + width


def draw_case(
    pixels: NDArray[np.uint8],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    longest: int = 320,
    window: Window | None = None,
    line: int = 2,
    box: Window | None = None,
) -> NDArray[np.uint8]:
    """An image with the contours of the reference (green) and of the prediction (orange, on top).

    Of several classes each has its colour: the reference is filled, the prediction outlined.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).
        reference: (H, W), bool or of the indices of classes.
        prediction: of the same kind.
        longest: longer side of the result, in pixels.
        window: only this part is drawn.
        line: thickness of the contours, in pixels of the result; they lie inside of the masks.
        box: a frame around this part.

    Returns:
        uint8 (h, w, 3); contours are drawn after scaling, so that they are equally thick on every image.

    >>> draw_case(np.zeros((8, 16), np.uint8), np.ones((8, 16), bool), np.zeros((8, 16), bool), 32).shape
    (16, 32, 3)
    """
    if window is not None:
        part = (slice(window[0], window[2]), slice(window[1], window[3]))
        pixels, reference, prediction = pixels[part], reference[part], prediction[part]
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    if reference.dtype == np.bool_:
        layers = [
            layer
            for mask, colour in ((reference, REFERENCE), (prediction, PREDICTION))
            for layer in _lines(
                _resize(mask.astype(np.uint8), size, Image.Resampling.NEAREST) > 0, colour, line
            )
        ]
        base = _resize(np.ascontiguousarray(pixels), size, how)
    else:
        filled, outlined = (
            class_layers(_resize(mask, size, Image.Resampling.NEAREST)) for mask in (reference, prediction)
        )
        base = fill(_resize(np.ascontiguousarray(pixels), size, how), filled, _OPACITY)
        layers = [layer for mask, colour in outlined for layer in _lines(mask, colour, line)]
    drawn: NDArray[np.uint8] = draw_overlay(base, layers)
    if box is not None:
        top, left, bottom, right = (round(edge * scale) for edge in box)
        bottom, right = min(bottom, size[1]) - 1, min(right, size[0]) - 1
        drawn[[top, bottom], left : right + 1] = WINDOW
        drawn[top : bottom + 1, [left, right]] = WINDOW
    return drawn


def _lines(mask: Mask, colour: Rgb, count: int) -> list[tuple[Mask, Rgb]]:
    """So many outlines, each inside the one before."""
    layers = []
    for _ in range(count):
        layers.append((mask, colour))
        mask = mask & ~outline(mask)
    return layers


def png_data_uri(pixels: NDArray[np.uint8]) -> str:
    """A PNG of uint8 (H, W, 3) as data URI, with 64 grey levels: speckle would make the page large.

    >>> png_data_uri(np.zeros((2, 2, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    rows = pixels.reshape(-1, 3)
    grey = (rows[:, 0] == rows[:, 1]) & (rows[:, 1] == rows[:, 2])
    thinned = rows.copy()
    thinned[grey] = _GREYS[rows[grey]]
    codes = thinned.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    colours, indices = np.unique(codes, return_inverse=True)
    if len(colours) <= 256:
        picture = Image.fromarray(indices.reshape(pixels.shape[:2]).astype(np.uint8)).convert("P")
        picture.putpalette([int(c) >> shift & 255 for c in colours for shift in (16, 8, 0)])
    else:
        picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
    """The bytes of a PNG file as data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
