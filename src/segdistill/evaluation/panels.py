"""One small picture per case: the image with the contours of the reference and of a prediction."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.imaging.contours import draw_overlay, outline

REFERENCE = (46, 204, 113)  # green
PREDICTION = (255, 122, 26)  # orange
_GREYS = np.round(np.round(np.arange(256) * 63 / 255) * 255 / 63).astype(np.uint8)  # 64 levels


def _resize(picture: NDArray[Any], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize(size, how), dtype=np.uint8)


def draw_case(
    pixels: NDArray[np.uint8],
    reference: NDArray[np.bool_] | None,
    prediction: NDArray[np.bool_] | None,
    longest: int = 320,
) -> NDArray[np.uint8]:
    """Contours of the reference (green) and of the prediction (orange, on top) on an image whose longest
    side is `longest`.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).
        reference: bool (H, W), or None: not drawn.
        prediction: the same.
        longest: longer side of the result, in pixels.

    Returns:
        uint8 (h, w, 3); contours are drawn after scaling, so that they are equally thick on every image.

    >>> draw_case(np.zeros((8, 16), np.uint8), np.ones((8, 16), bool), None, longest=32).shape
    (16, 32, 3)
    """
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    contours = [
        (_resize(np.asarray(mask, dtype=np.uint8), size, Image.Resampling.NEAREST) > 0, colour)
        for mask, colour in ((reference, REFERENCE), (prediction, PREDICTION))
        if mask is not None
    ]
    layers = []
    for mask, colour in contours:
        inner = mask & ~outline(mask)  # a second line inside the first: two pixels thick
        layers += [(mask, colour), (inner, colour)]
    drawn: NDArray[np.uint8] = draw_overlay(_resize(pixels, size, how), layers)
    return drawn


def png_data_uri(pixels: NDArray[np.uint8]) -> str:
    """A PNG of uint8 (H, W, 3) as data URI; grey levels are thinned to 64 so that speckle does not swell
    the page.

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
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
