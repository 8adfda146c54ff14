"""Connected components of a mask by runs of pixels, in NumPy alone.

A row of foreground pixels is a run. Runs of neighbouring rows that touch, corners included, are joined; the
joining is min-label propagation with pointer jumping, which ends after a few rounds over whole arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Runs(NamedTuple):
    """Runs of foreground in raster order.

    Attributes:
        row: row of each run, (N,).
        start: first column, (N,).
        stop: column after the last, (N,).
        component: component of each run, (N,), 0 to total - 1 in raster order of their first pixels.
        total: number of components.
    """

    row: Indices
    start: Indices
    stop: Indices
    component: Indices
    total: int


def find_runs(mask: NDArray[Any]) -> Runs:
    """Runs of a mask (H, W) and the 8-connected component of each.

    >>> runs = find_runs(np.array([[1, 1, 0, 1], [0, 0, 0, 1]]))
    >>> runs.component.tolist(), runs.stop.tolist()
    ([0, 1, 1], [2, 4, 4])
    """
    height, width = mask.shape
    stride = width + 2  # a margin on both sides, so that rows cannot touch around the edge
    padded = np.zeros((height, stride), np.int8)
    padded[:, 1:-1] = np.asarray(mask) != 0
    change = np.diff(padded.ravel(), prepend=np.int8(0), append=np.int8(0))
    start, stop = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    # those of the row above that touch: they end at or after our start, and begin at or before our end
    first = np.searchsorted(stop, start - stride, side="left")
    after = np.searchsorted(start, stop - stride, side="right")
    number = np.maximum(after - first, 0)
    lower = np.repeat(np.arange(len(start)), number)
    offset = np.arange(len(lower)) - np.repeat(np.cumsum(number) - number, number)
    upper = np.repeat(first, number) + offset
    root = _join(len(start), upper, lower)
    roots, component = np.unique(root, return_inverse=True)
    row = start // stride
    return Runs(row, start - row * stride - 1, stop - row * stride - 1, component, len(roots))


def _join(count: int, a: Indices, b: Indices) -> Indices:
    """Smallest member of each node's component, for `count` nodes and the edges a-b."""
    parent = np.arange(count)
    while True:
        of_a, of_b = parent[a], parent[b]
        apart = of_a != of_b
        if not apart.any():
            return parent
        a, b, of_a, of_b = a[apart], b[apart], of_a[apart], of_b[apart]
        np.minimum.at(parent, np.maximum(of_a, of_b), np.minimum(of_a, of_b))
        while True:
            grand = parent[parent]
            if np.array_equal(grand, parent):
                break
            parent = grand


def label_components(mask: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Labels 8-connected components in raster order: (H, W) -> (int32 (H, W), 0 for background and 1..n; n).

    >>> label_components(np.array([[1, 0, 1], [0, 0, 1]]))[0].tolist()
    [[1, 0, 2], [0, 0, 2]]
    """
    runs = find_runs(mask)
    labels = np.zeros(mask.shape, np.int32)
    labels[np.asarray(mask) != 0] = np.repeat(runs.component + 1, runs.stop - runs.start)
    return labels, runs.total
