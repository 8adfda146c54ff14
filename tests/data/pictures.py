"""Small pictures on disk for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path)
    return path


def noise(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def square(height: int = 48, width: int = 40, top: int = 10, side: int = 12) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, top : top + side] = 255
    return mask


def make_folder(root: Path, count: int = 4) -> Path:
    for number in range(count):
        save(root / "images" / f"{number}.png", noise(number))
        save(root / "masks" / f"{number}.png", square())
    return root
