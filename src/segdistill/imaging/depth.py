"""From any number of bits per pixel to eight, by rules that do not depend on chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.picture import Pixels

_DEPTHS = (8, 10, 12, 14, 16)


def to_eight_bits(values: NDArray[Any]) -> Pixels:
    """Scales pixel values of any type to uint8, keeping their shape.

    - unsigned values up to 65535: divided by the full scale of the smallest of 8, 10, 12, 14 or 16 bits that
      holds the largest value, so that two pictures of one device keep their relative brightness;
    - real numbers within 0..1: times 255; within 0..255: rounded;
    - anything else (negative, or larger): from the smallest to the largest value of the picture.

    Raises:
        ValueError: a value is not finite.

    >>> to_eight_bits(np.array([0, 4095], np.uint16)).tolist()
    [0, 255]
    >>> to_eight_bits(np.array([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    real = np.issubdtype(values.dtype, np.floating)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # min and max hand a NaN on
        raise ValueError("has pixels that are not finite numbers")
    if low < 0 or high > 65535 or (real and high > 255):
        return stretch(values, low, high)
    whole = float(2 ** next(bits for bits in _DEPTHS if high < 2**bits) - 1)
    full = (1.0 if high <= 1 else 255.0) if real else whole
    return _round(values * (255.0 / full))


def stretch(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Scales `low`..`high` linearly to 0..255 and clips what lies outside; all zero when they are equal.

    >>> stretch(np.array([-100, 0, 100]), -100, 100).tolist()
    [0, 128, 255]
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return _round((values.astype(np.float64) - low) / (high - low) * 255.0)


def _round(values: NDArray[Any]) -> Pixels:
    rounded: Pixels = np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return rounded
