"""The box around a lesion: tight, axis-aligned, in whole pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.components import find_runs
from segdistill.imaging.picture import Mask

Box = tuple[int, int, int, int]
"""(left, top, right, bottom), right and bottom exclusive: the corners as `Case.box` has them."""


def tight_box(mask: NDArray[Any], largest: bool = True) -> Box | None:
    """The smallest box around the largest 8-connected component, or around all foreground; None where there is none.

    Of equally large components the first in raster order counts.

    Args:
        mask: (H, W), foreground where not zero.
        largest: False takes all foreground.

    >>> mask = np.array([[1, 0, 0, 0], [0, 0, 1, 1]])
    >>> tight_box(mask), tight_box(mask, largest=False), tight_box(np.zeros((2, 2)))
    ((2, 1, 4, 2), (0, 0, 4, 2), None)
    """
    runs = find_runs(np.asarray(mask))
    if not runs.total:
        return None
    mine = np.ones(len(runs.row), bool)
    if largest:
        sizes = np.bincount(runs.component, weights=runs.stop - runs.start, minlength=runs.total)
        mine = runs.component == int(sizes.argmax())
    row, start, stop = runs.row[mine], runs.start[mine], runs.stop[mine]
    return int(start.min()), int(row.min()), int(stop.max()), int(row.max()) + 1


def fill_box(box: Box | None, size: tuple[int, int]) -> Mask:
    """A box as a mask (H, W); empty for None.

    >>> fill_box((1, 0, 3, 1), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    mask: Mask = np.zeros(size, dtype=np.bool_)
    if box is not None:
        left, top, right, bottom = box
        mask[top:bottom, left:right] = True
    return mask
