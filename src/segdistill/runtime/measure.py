"""Area and diameters of a mask, in pixels and, where the size of a pixel is known, in millimetres."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.components import find_runs
from segdistill.imaging.picture import Spacing

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """Size of a mask.

    Attributes:
        area_px: all foreground pixels.
        long_px: largest distance between two points of the largest component (maximum Feret diameter).
        short_px: width of that component perpendicular to the long axis.
        area_mm2, long_mm, short_mm: the same in mm² and mm; None where the spacing is not known.
    """

    area_px: int
    long_px: float
    short_px: float
    area_mm2: float | None = None
    long_mm: float | None = None
    short_mm: float | None = None


def measure(mask: NDArray[Any], spacing: Spacing | None = None) -> Measurement:
    """Measures a mask.

    Components are 8-connected; of equally large ones the first in raster order counts. Pixels are squares, so
    a single pixel is sqrt(2) long. In mm the axes are computed separately: unequal spacing changes them.

    Args:
        mask: (H, W), foreground where not zero.
        spacing: size of a pixel; where it does not hold for the whole mask, there are no values in mm.

    >>> size = measure(np.ones((3, 4), bool), Spacing(0.5, 0.5, "PixelSpacing"))
    >>> size.area_px, size.long_px, size.short_px, size.area_mm2, size.long_mm
    (12, 5.0, 4.8, 3.0, 2.5)
    """
    area = int(np.count_nonzero(mask))
    if spacing is not None and not spacing.holds_for(mask):
        spacing = None
    if not area:
        return Measurement(0, 0.0, 0.0, *((0.0,) * 3 if spacing else ()))
    hull = convex_hull(_corners(mask))
    long_px, short_px = feret(hull)
    if spacing is None:
        return Measurement(area, long_px, short_px)
    long_mm, short_mm = feret(hull * (spacing.column_mm, spacing.row_mm))
    return Measurement(area, long_px, short_px, spacing.area_mm2(area), long_mm, short_mm)


def _corners(mask: NDArray[Any]) -> NDArray[np.int64]:
    """(x, y) of the outermost pixel corners of the largest component, by y then x: enough for its hull."""
    runs = find_runs(mask)
    sizes = np.bincount(runs.component, weights=runs.stop - runs.start, minlength=runs.total)
    mine = runs.component == int(sizes.argmax())
    row, start, stop = runs.row[mine], runs.start[mine], runs.stop[mine]
    top = int(row.min())
    left = np.full(int(row.max()) - top + 2, np.iinfo(np.int64).max)
    right = np.full(len(left), -1)
    for edge in (0, 1):  # the corners above and below each run
        np.minimum.at(left, row - top + edge, start)
        np.maximum.at(right, row - top + edge, stop)
    y = np.arange(len(left)) + top
    return np.stack([np.stack([left, y], 1), np.stack([right, y], 1)], 1).reshape(-1, 2)


def convex_hull(points: NDArray[Any]) -> Points:
    """Corners of the convex hull of points (N, 2) that are sorted by their second coordinate, then the first.

    Source: A. M. Andrew, "Another efficient algorithm for convex hulls in two dimensions", 1979.

    >>> convex_hull(np.array([[0, 0], [1, 0], [2, 0], [0, 1], [2, 1]])).tolist()
    [[0.0, 0.0], [0.0, 1.0], [2.0, 1.0], [2.0, 0.0]]
    """
    chain = [(x, y) for x, y in points.tolist()]
    if len(chain) < 3:
        return np.asarray(chain, float)
    return np.asarray(_half(chain) + _half(chain[::-1]), float)


def _half(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2:]
            if (bx - ax) * (y - ay) < (by - ay) * (x - ax):
                break
            hull.pop()
        hull.append((x, y))
    return hull[:-1]


def feret(hull: Points) -> tuple[float, float]:
    """(long, short) of a convex polygon (N, 2): its diameter, and its width perpendicular to it.

    Where several diameters are equally long, the one with the largest width counts.

    >>> feret(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]]))[0] == math.sqrt(5)
    True
    """
    x, y = hull[:, 0], hull[:, 1]
    dx, dy = x[:, None] - x, y[:, None] - y
    squared = dx * dx + dy * dy
    longest = float(squared.max())
    if longest == 0:
        return 0.0, 0.0
    first, second = np.nonzero(np.triu(squared >= longest * (1 - 1e-12)))
    across = x[:, None] * dy[first, second] - y[:, None] * dx[first, second]
    long = math.sqrt(longest)
    return long, float((across.max(0) - across.min(0)).max()) / long
