"""Brings a map onto the grid of its volume: axes swapped and flipped, and resampled where only the voxels differ."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.volume import Geometry, Volume

_SHARE = 0.01  # of the field of view that two grids may differ by
_TURN = 0.01  # of each axis' unit vector


def on_grid(found: Volume, image: Volume) -> NDArray[np.float32]:
    """A map (D, H, W) on the grid of its image, as stored.

    A map on the same grid is returned as it is; one whose axes run in another order or direction is turned; one with
    voxels of another size in the same field of view (to 1 %, or one voxel of the coarser grid) is interpolated
    linearly.

    Args:
        found: float32 values and how they lie.
        image: the volume as stored (`read_volume(path, turn=False)`).

    Raises:
        InputError: another field of view; names what differs.

    >>> from pathlib import Path
    >>> image = Volume(np.zeros((1, 1, 4)), None, Path("i.nii"), Geometry((1, 1, 4), (1.0, 1.0, 1.0)))
    >>> geometry = Geometry((1, 1, 2), (1.0, 1.0, 2.0))
    >>> on_grid(Volume(np.float32([[[0, 1]]]), None, Path("m.nii"), geometry), image).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    """
    targets = [image.geometry, *([image.second] if image.second else [])]
    sources = [found.geometry, *([found.second] if found.second else [])]
    for target, source in product(targets, sources):
        geometry, order, flips = source.towards(target)
        values: NDArray[np.float32] = np.asarray(found.voxels, np.float32).transpose(order)
        values = values[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        if not target.differs(geometry):
            return values
        starts = _same_view(geometry, target)
        if starts is not None:
            return _interpolated(values, geometry, target, starts)
    geometry = found.geometry.towards(image.geometry)[0]
    raise InputError(
        f"{found.source}: does not lie on its image {image.source}: image and prediction have "
        f"{image.geometry.differs(geometry)}: resample the prediction onto the image"
    )


def _same_view(source: Geometry, target: Geometry) -> NDArray[np.float64] | None:
    """Where the target's first voxel lies in voxels of the source, where both cover the same; else None."""
    if np.abs(np.subtract(source.axes, target.axes)).max() > _TURN:
        return None
    ratio = np.divide(target.step_mm, source.step_mm)
    sides, wanted = np.asarray(source.shape), np.asarray(target.shape) * ratio
    coarse = np.maximum(ratio, 1)
    if (np.abs(wanted - sides) > np.maximum(coarse, _SHARE * sides) + 1e-6).any():
        return None
    if not (source.placed and target.placed):
        centred: NDArray[np.float64] = (ratio - 1) / 2
        return centred
    starts = source.in_voxels(np.subtract(target.origin, source.origin))
    edge = starts - ratio / 2 + 0.5  # 0 where both views begin together
    far = edge + wanted - sides
    allowed = np.maximum(coarse, _SHARE * sides) + 1e-6
    return starts if (np.abs(edge) <= allowed).all() and (np.abs(far) <= allowed).all() else None


def _interpolated(
    values: NDArray[np.float32], source: Geometry, target: Geometry, starts: NDArray[np.float64]
) -> NDArray[np.float32]:
    for axis in range(3):
        step = target.step_mm[axis] / source.step_mm[axis]
        places = np.clip(starts[axis] + step * np.arange(target.shape[axis]), 0, source.shape[axis] - 1)
        below = places.astype(np.intp)
        above = np.minimum(below + 1, source.shape[axis] - 1)
        share = (places - below).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        values = values.take(below, axis) * (1 - share) + values.take(above, axis) * share
    return values
