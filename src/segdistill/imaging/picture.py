"""A decoded picture and the size of its pixels in millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Spacing:
    """Size of a pixel in mm, and where it comes from.

    Attributes:
        row_mm: distance between the centres of two rows.
        column_mm: distance between the centres of two columns.
        source: where it comes from, as shown to users: "PixelSpacing", "ultrasound region", ... A value that
            was corrected by an assumption is "estimated".
        region: (top, left, bottom, right) in pixels, ends exclusive, outside of which the spacing does not
            hold; None: it holds everywhere.

    Raises:
        InputError: a spacing is not a positive number.

    >>> Spacing(0.2, 0.1, "PixelSpacing").area_mm2(50)
    1.0
    """

    row_mm: float
    column_mm: float
    source: str
    region: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) and v > 0 for v in (self.row_mm, self.column_mm)):
            raise InputError(f"pixel spacing must be positive, got {self.row_mm} x {self.column_mm} mm")

    def area_mm2(self, pixels: int) -> float:
        """Area of that many pixels, in mm².

        >>> Spacing(0.5, 0.5, "x").area_mm2(4)
        1.0
        """
        return pixels * self.row_mm * self.column_mm

    def holds_for(self, mask: NDArray[Any]) -> bool:
        """Whether every foreground pixel of `mask` (H, W) lies where this spacing is valid.

        >>> Spacing(1, 1, "x", region=(0, 0, 2, 2)).holds_for(np.eye(3, dtype=bool))
        False
        """
        if self.region is None:
            return True
        top, left, bottom, right = self.region
        inside = np.count_nonzero(mask[top:bottom, left:right])
        return bool(inside == np.count_nonzero(mask))


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: uint8, (H, W) when grey, (H, W, 3) when in colour (RGB), (H, W, C) of several channels.
        spacing: size of a pixel, None when the file does not state it.
        source: the file.
        turned: the file asks for an orientation (EXIF), which has been applied.
        channels: how many channels of an image there are; 1: one image, be it grey or in colour.

    >>> Picture(np.zeros((2, 3), np.uint8), None, Path("a.png")).size
    (2, 3)
    """

    pixels: Pixels
    spacing: Spacing | None
    source: Path
    turned: bool = False
    channels: int = 1

    @property
    def shown(self) -> Pixels:
        """What people are shown: uint8 (H, W) or (H, W, 3); of several channels the first.

        >>> Picture(np.zeros((2, 3, 4), np.uint8), None, Path("a.png"), channels=4).shown.shape
        (2, 3)
        """
        return self.pixels[..., 0] if self.channels > 1 else self.pixels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])
