"""Components of a mask that vanish when it is resized: which, where they would lie, and the sizes that keep them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.components import Indices, Runs, find_runs
from segdistill.imaging.picture import Mask, Pixels

SMALLEST = 3  # pixels in the file below which a component is no finding
STEP = 32  # between the sizes that are tried
_HALF = 0.5 - 1e-4  # share of a pixel from which it is foreground, as `prepare_mask` has it

IsKept = Callable[[Indices, Indices], NDArray[np.bool_]]


@dataclass(frozen=True)
class SmallComponents:
    """What resizing does to the 8-connected components of masks.

    A component vanishes when none of the pixels that it covers in part is foreground in the resized mask.

    Attributes:
        total: components of at least SMALLEST pixels.
        vanished: how many of these vanish.
        exempt: smaller ones that vanish.
        losing: square sizes, multiples of STEP above the size in question, at which some of `total` vanish.
        places: (row, column) in the resized mask that each vanished component covers most.
        classes: the index of the class of each of these.

    >>> both = SmallComponents(2, 1, 0, frozenset({64})) + SmallComponents(1, 0, 1, frozenset({96}))
    >>> both.total, both.keeping_size(32)
    (3, 128)
    """

    total: int = 0
    vanished: int = 0
    exempt: int = 0
    losing: frozenset[int] = frozenset()
    places: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    classes: tuple[int, ...] = field(default=(), compare=False)

    def __add__(self, other: SmallComponents) -> SmallComponents:
        """Counts of two masks together, without the places."""
        return SmallComponents(
            self.total + other.total,
            self.vanished + other.vanished,
            self.exempt + other.exempt,
            self.losing | other.losing,
        )

    def keeping_size(self, side: int) -> int:
        """The smallest square size above `side`, a multiple of STEP, at which none of `total` vanishes."""
        size = _next_step(side)
        while size in self.losing:
            size += STEP
        return size


def count_small(masks: Iterable[SmallComponents]) -> SmallComponents:
    """The counts of many masks together.

    >>> count_small([SmallComponents(2), SmallComponents(3, 1)]).total
    5
    """
    return sum(masks, start=SmallComponents())


def find_small(mask: Mask | Pixels, resized: Pixels) -> SmallComponents:
    """Compares a mask (H, W), bool or of the indices of classes, with what `prepare_mask` made of it, (h, w).

    >>> mask = np.zeros((8, 8), bool)
    >>> mask[2, 2:5] = True
    >>> find_small(mask, np.zeros((2, 2), np.uint8)).places
    ((0, 0),)
    """
    if mask.dtype == np.bool_:
        return _find_small(mask, resized, 1)
    indices = np.flatnonzero(np.bincount(mask.reshape(-1)))
    found = [_find_small(mask == index, resized == index, int(index)) for index in indices if index]
    places, classes = (
        tuple(value for each in found for value in getattr(each, name)) for name in ("places", "classes")
    )
    return replace(count_small(found), places=places, classes=classes)


def _find_small(mask: NDArray[Any], resized: NDArray[Any], index: int) -> SmallComponents:
    runs = find_runs(mask)
    shape, size = mask.shape, resized.shape
    area = np.bincount(runs.component, weights=runs.stop - runs.start, minlength=runs.total)
    counted = area >= SMALLEST
    if not runs.total or (shape[0] <= size[0] and shape[1] <= size[1]):
        return SmallComponents(int(counted.sum()))
    gone = ~_survive(runs, shape, size, lambda row, column: resized[row, column] > 0)
    vanished = np.flatnonzero(gone & counted)
    places = tuple(_most_covered(_of(runs, runs.component == n), shape, size) for n in vanished)
    losing = _losing_sizes(mask, runs, counted, min(size))
    exempt = np.count_nonzero(gone & ~counted)
    return SmallComponents(
        int(counted.sum()), len(vanished), int(exempt), losing, places, (index,) * len(places)
    )


def _losing_sizes(mask: Mask, runs: Runs, counted: NDArray[np.bool_], side: int) -> frozenset[int]:
    """Square sizes above `side` at which a counted component vanishes.

    One that holds a solid rectangle of twice the pixels that become one cannot vanish, and is not looked at.
    """
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
    sums[1:, 1:] = np.asarray(mask, np.int32).cumsum(axis=0).cumsum(axis=1)
    height, width = (int(np.ceil(2 * max(1.0, length / side))) + 1 for length in mask.shape)
    solid = np.zeros(runs.total, bool)
    if height <= mask.shape[0] and width <= mask.shape[1]:
        inside = _within(sums, height, width) == height * width
        labels = np.zeros(mask.shape, np.int32)
        labels[np.asarray(mask) != 0] = np.repeat(runs.component, runs.stop - runs.start)
        solid[labels[: inside.shape[0], : inside.shape[1]][inside]] = True
    thin = counted & ~solid
    if not thin.any():
        return frozenset()
    runs = _of(runs, thin[runs.component])
    longest = max(mask.shape)
    return frozenset(
        size
        for size in range(_next_step(side), _next_step(longest), STEP)
        if not _survive(runs, mask.shape, (size, size), _half_of(sums, size))[thin].all()
    )


def _within(sums: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Foreground in every rectangle of this size, by the sums above and left of each pixel."""
    rows = sums[height:] - sums[:-height]
    found: NDArray[np.int32] = rows[:, width:] - rows[:, :-width]
    return found


def _half_of(sums: NDArray[np.int32], size: int) -> IsKept:
    """Whether pixels of the mask resized to size x size are foreground, as `prepare_mask` decides it."""
    top, bottom = _windows(sums.shape[0] - 1, size)
    left, right = _windows(sums.shape[1] - 1, size)

    def is_kept(row: Indices, column: Indices) -> NDArray[np.bool_]:
        above, below, first, after = top[row], bottom[row], left[column], right[column]
        within = sums[below, after] - sums[above, after] - sums[below, first] + sums[above, first]
        kept: NDArray[np.bool_] = within >= _HALF * (below - above) * (after - first)
        return kept

    return is_kept


def _windows(length: int, size: int) -> tuple[Indices, Indices]:
    """The first source pixel of each of `size` pixels, and that after its last, as Pillow's box filter takes them."""
    scale = length / size
    middle, half = (np.arange(size) + 0.5) * scale, 0.5 * max(scale, 1.0)
    first = np.maximum(middle - half + 0.5, 0).astype(np.int64)
    return first, np.minimum((middle + half + 0.5).astype(np.int64), length)


def _survive(runs: Runs, shape: tuple[int, ...], size: tuple[int, ...], is_kept: IsKept) -> NDArray[np.bool_]:
    """Whether each component covers, in part, a pixel of the resized mask that is foreground."""
    first, after = runs.row * size[0] // shape[0], -(-(runs.row + 1) * size[0] // shape[0])
    of_row, row = _spread(first, after)
    first, after = runs.start * size[1] // shape[1], -(-runs.stop * size[1] // shape[1])
    of_pixel, column = _spread(first[of_row], after[of_row])
    component = runs.component[of_row[of_pixel]]
    kept: NDArray[np.bool_] = np.bincount(component[is_kept(row[of_pixel], column)], minlength=runs.total) > 0
    return kept


def _spread(first: Indices, after: Indices) -> tuple[Indices, Indices]:
    """All whole numbers of many ranges, and which range each is from."""
    number = after - first
    owner = np.repeat(np.arange(len(first)), number)
    value = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number) + first[owner]
    return owner, value


def _most_covered(runs: Runs, shape: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, int]:
    """The pixel of the resized mask that these runs cover most; of several the first in raster order."""
    top, rows = _shares(runs.row, runs.row + 1, shape[0], size[0])
    left, columns = _shares(runs.start, runs.stop, shape[1], size[1])
    covered = rows.T @ columns
    row, column = np.unravel_index(int(covered.argmax()), covered.shape)
    return top + int(row), left + int(column)


def _shares(first: Indices, after: Indices, length: int, size: int) -> tuple[int, Indices]:
    """How much of each range lies in each resized pixel, in whole numbers: (first such pixel, (N, pixels))."""
    low, high = int(first.min()) * size // length, -(-int(after.max()) * size // length)
    edge = np.arange(low, high) * length
    overlap = np.minimum(after[:, None] * size, edge + length) - np.maximum(first[:, None] * size, edge)
    return low, np.maximum(overlap, 0)


def _of(runs: Runs, chosen: NDArray[np.bool_]) -> Runs:
    return Runs(runs.row[chosen], runs.start[chosen], runs.stop[chosen], runs.component[chosen], runs.total)


def _next_step(side: int) -> int:
    """The next multiple of STEP above a side."""
    return (side // STEP + 1) * STEP
