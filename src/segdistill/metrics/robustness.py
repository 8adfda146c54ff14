"""Disturbed images, on which a network's loss of accuracy is measured: gamma, speckle and blur of given strengths."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.picture import Picture, Pixels
from segdistill.metrics.cases import Predict
from segdistill.registry import near_names

STRENGTHS: dict[str, tuple[float, ...]] = {
    "gamma": (0.5, 0.7, 1.4, 2.0),
    "speckle": (0.1, 0.2, 0.4),
    "blur": (1.0, 2.0, 4.0),
}
"""gamma: the exponent (below 1 brightens); speckle: standard deviation of the multiplicative noise; blur: that of the
Gaussian, in pixels of the image."""


def gamma(pixels: Pixels, strength: float) -> Pixels:
    """Grey levels v become 255 (v / 255)^strength.

    >>> gamma(np.array([[0, 64, 255]], np.uint8), 0.5).tolist()
    [[0, 128, 255]]
    """
    table = np.rint(255 * (np.arange(256) / 255) ** strength).astype(np.uint8)
    changed: Pixels = table[pixels]
    return changed


def speckle(pixels: Pixels, strength: float) -> Pixels:
    """Every pixel is multiplied by 1 + strength times a standard normal number, the same for all its colours.

    The pixels are the seed of the noise, so that every network gets the same picture.

    >>> speckle(np.zeros((2, 2), np.uint8), 0.4).tolist()
    [[0, 0], [0, 0]]
    """
    rng = np.random.default_rng([zlib.crc32(np.ascontiguousarray(pixels).tobytes()), round(1000 * strength)])
    noise = 1 + strength * rng.standard_normal(pixels.shape[:2])
    return _levels(pixels * (noise if pixels.ndim == 2 else noise[..., None]))


def blur(pixels: Pixels, strength: float) -> Pixels:
    """Gaussian blur of standard deviation `strength` pixels, the edge pixels continued outwards.

    >>> blur(np.full((3, 3), 7, np.uint8), 2.0).tolist()
    [[7, 7, 7], [7, 7, 7], [7, 7, 7]]
    """
    if strength <= 0:
        return pixels.copy()
    reach = max(1, round(4 * strength))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / strength) ** 2)
    kernel /= kernel.sum()
    values: NDArray[Any] = pixels.astype(np.float64)
    for axis in (0, 1):
        edges = [(reach, reach) if k == axis else (0, 0) for k in range(values.ndim)]
        padded = np.pad(values, edges, mode="edge")
        size = values.shape[axis]
        values = sum(
            weight * np.take(padded, np.arange(k, k + size), axis) for k, weight in enumerate(kernel)
        )
    return _levels(values)


def _levels(values: NDArray[Any]) -> Pixels:
    levels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


PERTURBATIONS: dict[str, Callable[[Pixels, float], Pixels]] = {
    "gamma": gamma,
    "speckle": speckle,
    "blur": blur,
}


def disturbed(predict: Predict, kind: str, strength: float) -> Predict:
    """The same predictor, which gets disturbed pictures.

    Raises:
        InputError: an unknown disturbance.

    >>> from pathlib import Path
    >>> dark = disturbed(lambda picture: picture.pixels > 99, "gamma", 2.0)
    >>> dark(Picture(np.full((1, 1), 128, np.uint8), None, Path("a.png"))).tolist()
    [[False]]
    """
    if kind not in PERTURBATIONS:
        raise InputError(f"unknown disturbance '{kind}': {near_names(kind, PERTURBATIONS)}")
    change = PERTURBATIONS[kind]

    def predict_disturbed(picture: Picture) -> Any:
        return predict(replace(picture, pixels=change(picture.pixels, strength)))

    return predict_disturbed
