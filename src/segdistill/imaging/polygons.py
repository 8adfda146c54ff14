"""Polygons to masks and back, in one convention: a point (x, y) is measured from the outer corner of the first pixel.

Whole numbers lie on the corners of pixels, so the pixel in row r and column c reaches from (c, r) to (c + 1, r + 1),
and its centre is (c + 0.5, r + 0.5). A polygon covers the pixels whose centres it holds; a centre on its left or
upper side counts, one on its right or lower side does not. COCO, CVAT, YOLO (times the image's size) and LabelMe
measure so. Tools that put whole numbers on the centres of pixels (OpenCV, Pillow) draw the same polygon up to half a
pixel larger on every side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.picture import Mask

Ring = NDArray[np.float64]
"""The corners (x, y) of a closed line, (N, 2); the last is joined to the first."""
_Side = tuple[int, int, int]  # of a pixel: where its line starts, and the direction
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up
_SIDES = 72
"""Of the polygon that stands for an ellipse: it covers 99.9 % of its area."""


def fill_rings(rings: Iterable[Ring], size: tuple[int, int]) -> Mask:
    """The pixels whose centres lie within an odd number of these rings, so that a ring within another is a hole.

    Args:
        rings: in pixels; what lies outside of the image is clipped.
        size: (height, width).

    Returns:
        bool (height, width).

    >>> square = np.array([(1, 0), (3, 0), (3, 2), (1, 2)], float)
    >>> fill_rings([square], (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    height, width = size
    mask: Mask = np.zeros(size, np.bool_)
    ends = [(ring, np.roll(ring, -1, axis=0)) for ring in rings if len(ring)]
    if not ends:
        return mask
    one, other = (np.concatenate(points) for points in zip(*ends, strict=True))
    # from the upper end to the lower one, so that an edge that is there twice, once each way, cancels to the bit
    swap = (one[:, 1] > other[:, 1])[:, None]
    upper, lower = np.where(swap, other, one), np.where(swap, one, other)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)
    stop = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64)
    number = stop - first
    edge = np.repeat(np.arange(len(number)), number)
    if not len(edge):
        return mask
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number)
    slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
    x = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    top, left, right = int(row.min()), int(column.min()), int(column.max())
    crossings = np.zeros((int(row.max()) + 1 - top, right + 1 - left), np.int32)
    np.add.at(crossings, (row - top, column - left), 1)
    inside = np.cumsum(crossings, axis=1) % 2 == 1
    mask[top : top + len(inside), left:right] = inside[:, : right - left]
    return mask


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Ring:
    """An ellipse as a polygon of 72 corners.

    Args:
        centre: (x, y).
        radii: along x and along y, before it is turned.
        degrees: turned by so much, clockwise as seen in the image.

    >>> int(fill_rings([ellipse((50, 50), (40, 20))], (100, 100)).sum()), round(math.pi * 40 * 20)
    (2512, 2513)
    """
    at = np.arange(_SIDES) * (2 * math.pi / _SIDES)
    return turned(np.column_stack((radii[0] * np.cos(at), radii[1] * np.sin(at))) + centre, centre, degrees)


def turned(ring: Ring, centre: tuple[float, float], degrees: float) -> Ring:
    """A ring turned about a point, clockwise as seen in the image.

    >>> turned(np.array([(1.0, 0.0)]), (0, 0), 90).round(6).tolist()
    [[0.0, 1.0]]
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    found: Ring = (ring - centre) @ np.array([(cos, sin), (-sin, cos)]) + centre
    return found


@dataclass(frozen=True, eq=False)
class Outline:
    """One piece of a mask, whose pixels are joined by their sides.

    Attributes:
        outer: the line around it.
        holes: the lines around what it does not cover.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()

    @property
    def rings(self) -> tuple[Ring, ...]:
        """All of its lines."""
        return (self.outer, *self.holes)

    def keyhole(self) -> Ring:
        """One closed line around the piece: every hole is joined to the line around it by a cut of no width.

        It covers the same pixels: the cut is passed once each way, and follows the sides of the pixels, so that no
        pixel's centre lies on it.

        >>> mask = np.ones((3, 3), bool)
        >>> mask[1, 1] = False
        >>> len(trace(mask)[0].keyhole())
        12
        """
        line = self.outer
        for hole in self.holes:
            apart = ((line[:, None] - hole[None]) ** 2).sum(axis=2)
            at, start = np.unravel_index(int(apart.argmin()), apart.shape)
            around = np.roll(hole, -int(start), axis=0)
            corner = np.array([(around[0, 0], line[at, 1])])
            line = np.concatenate((line[: at + 1], corner, around, around[:1], corner, line[at:]))
        return line


def trace(mask: NDArray[Any]) -> list[Outline]:
    """The lines around the pieces of a mask, along the sides of its pixels.

    `fill_rings` gives the mask back to the bit.

    Args:
        mask: (H, W), foreground where not zero.

    Returns:
        one for each piece, in the order of their first pixels; pixels that touch at a corner only are two pieces.

    >>> [outline.outer.astype(int).tolist() for outline in trace(np.array([[0, 1, 1]]))]
    [[[1, 0], [3, 0], [3, 1], [1, 1]]]
    """
    foreground = np.pad(np.asarray(mask) != 0, 1)
    rings, ring_at = _rings(foreground)
    outlines: list[tuple[Ring, list[Ring]]] = []
    owner: dict[int, int] = {}  # ring -> its piece
    tops: list[tuple[int, int, int]] = []
    for k, ring in enumerate(rings):
        if _area(ring) > 0:
            owner[k] = len(outlines)
            outlines.append((ring, []))
        else:
            x, y = min(ring.astype(int).tolist(), key=lambda corner: (corner[1], corner[0]))
            tops.append((y, x, k))
    starts = _starts_of_runs(foreground[1:-1, 1:-1])
    for y, x, k in sorted(tops):
        # the pixel above a hole is of its piece; left of that pixel's run goes a line of the piece: its outer one, or
        # that of a hole which begins higher up
        owner[k] = owner[ring_at[int(starts[y - 1, x]), y, 3]]
    for _, _, k in tops:
        outlines[owner[k]][1].append(rings[k])
    return [Outline(outer, tuple(holes)) for outer, holes in outlines]


def _starts_of_runs(mask: Mask) -> NDArray[np.int64]:
    """For each foreground pixel the column in which its run of foreground begins."""
    columns = np.arange(mask.shape[1])
    first = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    return np.maximum.accumulate(np.where(first, columns, 0), axis=1)


def _area(ring: Ring) -> float:
    """Twice the area; positive where the line goes clockwise as seen in the image."""
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))


def _rings(padded: Mask) -> tuple[list[Ring], dict[_Side, int]]:
    """All closed lines between foreground and background, with foreground on their right; side -> its line."""
    inner = padded[1:-1, 1:-1]
    borders = (  # of each direction: which pixels have background on that side, and where the line starts
        (inner & ~padded[:-2, 1:-1], 0, 0),
        (inner & ~padded[1:-1, 2:], 1, 0),
        (inner & ~padded[2:, 1:-1], 1, 1),
        (inner & ~padded[1:-1, :-2], 0, 1),
    )
    at: dict[_Side, int] = {}
    for direction, (edges, right, down) in enumerate(borders):
        rows, columns = np.nonzero(edges)
        for x, y in zip((columns + right).tolist(), (rows + down).tolist(), strict=True):
            at[x, y, direction] = -1
    rings: list[Ring] = []
    for start, line in at.items():
        if line < 0:
            rings.append(_walk(start, at, len(rings)))
    return rings, at


def _walk(start: _Side, at: dict[_Side, int], line: int) -> Ring:
    """One closed line along sides that no other has; where two lines meet it turns right, around its own pixel."""
    x, y, direction = start
    corners: list[tuple[int, int]] = []
    while at.get((x, y, direction), line) < 0:
        at[x, y, direction] = line
        x, y = x + _STEPS[direction][0], y + _STEPS[direction][1]
        for turn in (1, 0, 3):
            if at.get((x, y, (direction + turn) % 4), line) < 0:
                break
        else:
            turn = (start[2] - direction) % 4
        if turn:
            corners.append((x, y))
        direction = (direction + turn) % 4
    return np.array([corners[-1], *corners[:-1]], np.float64)


def without_holes(mask: NDArray[Any]) -> list[Sequence[Outline]]:
    """Parts of a mask of which none has a hole: those with one are cut along a row through it, as often as needed.

    Returns:
        for each part its pieces; together they cover the mask, and no pixel twice.

    >>> mask = np.ones((3, 3), bool)
    >>> mask[1, 1] = False
    >>> [len(part) for part in without_holes(mask)]
    [1, 1]
    """
    found: list[Sequence[Outline]] = []
    waiting = [np.asarray(mask) != 0]
    while waiting:
        part = waiting.pop()
        outlines = trace(part)
        hole = next((hole for outline in outlines for hole in outline.holes), None)
        if hole is None:
            found.append(outlines)
            continue
        cut = int(hole[:, 1].min() + hole[:, 1].max()) // 2
        above, below = part.copy(), part.copy()
        above[cut:], below[:cut] = False, False
        waiting += [below, above]
    return found
