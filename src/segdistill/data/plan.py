"""Spacing and patch of a network of volumes, from the fingerprint of its data (after Isensee et al. 2021, nnU-Net)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case, only_channel, table_channels
from segdistill.data.opened import open_volume
from segdistill.errors import InputError
from segdistill.imaging.grid import Shape, Spacing3, VolumePreprocess
from segdistill.imaging.intensity import PERCENTILES
from segdistill.imaging.several import read_channel_volumes

SAMPLE = 24
"""Volumes that are looked at, evenly over the table."""
DIVISOR = 8
"""Sides of a patch are multiples of it: networks of four levels take them."""
VALUES = 10_000
"""Voxels of the structures of a volume whose values are looked at, as many as nnU-Net takes."""
BUDGET = 64**3
"""Voxels of a patch: a training step of `unet` on two of them takes about 2 GB."""


@dataclass(frozen=True)
class VolumePlan:
    """What a network of volumes should see.

    Attributes:
        spacing: (slice, row, column) in mm of the grid, the median of the volumes; None: some state none, and voxels
            stay as they are.
        patch: (depth, height, width) in voxels of the grid.
        shape: median shape of the volumes on the grid.
        volumes: how many were looked at.
        levels: percentiles 0.5 and 99.5 of the values; of several channels those of the first.
        channels: name -> the same of each channel that has a name; {} of one image without.
        labelled: in how many volumes the values are those of the structures in their masks, as nnU-Net takes them;
            0: of all voxels of some slices, the median over the volumes.
    """

    spacing: Spacing3 | None
    patch: Shape
    shape: Shape
    volumes: int
    levels: tuple[float, float]
    channels: dict[str, tuple[float, float]] = field(default_factory=dict)
    labelled: int = 0


def plan_volumes(
    cases: Sequence[Case], spacing: Spacing3 | None = None, budget: int = BUDGET, masks: bool = False
) -> VolumePlan:
    """Looks at some volumes of a table.

    Args:
        cases: of the table.
        spacing: of the grid; None: the median of the volumes.
        budget: most voxels of a patch.
        masks: read them, too, so that the values are those of the structures.

    Raises:
        InputError: no volume among the cases, one or a mask that cannot be read, or volumes of different channels.
    """
    found = [case for case in cases if case.is_volume]
    if not found:
        raise InputError("dimensions: 3 is for volumes, and the table holds pictures: set data.dimensions=2")
    chosen = [
        found[k] for k in sorted({round(k) for k in np.linspace(0, len(found) - 1, min(SAMPLE, len(found)))})
    ]
    spacings: list[Spacing3 | None] = []
    shapes: list[Shape] = []
    names = table_channels(found)
    levels, inside = [], []
    for case in chosen:
        if masks and case.masks:
            volumes, mask = open_volume(case)
            if mask.any():
                inside.append([_sample(each.voxels, mask) for each in volumes])
        else:
            volumes = read_channel_volumes(case.image_channels)
        volume = volumes[0]
        stated = (
            case.spacing_mm if case.spacing_mm is not None and len(case.spacing_mm) == 3 else volume.spacing
        )
        spacings.append(None if stated is None else (stated[0], stated[1], stated[2]))
        shapes.append((volume.voxels.shape[0], volume.voxels.shape[1], volume.voxels.shape[2]))
        step = max(1, len(volume.voxels) // 16)
        levels.append([np.percentile(each.voxels[::step], PERCENTILES) for each in volumes])
    known = [each for each in spacings if each is not None]
    if spacing is None and len(known) == len(spacings):
        depth, height, width = (round(float(value), 3) for value in np.median(known, axis=0))
        spacing = (depth, height, width)
    grid = VolumePreprocess((1, 1, 1), spacing)
    on_grid = [grid.grid_shape(shape, own) for shape, own in zip(shapes, spacings, strict=True)]
    depth, height, width = (round(float(value)) for value in np.median(on_grid, axis=0))
    shape = (depth, height, width)
    if inside:
        limits = np.percentile(np.concatenate(inside, axis=1), PERCENTILES, axis=1).T
    else:
        limits = np.median(levels, axis=0)
    ranges = [(float(low), float(high)) for low, high in limits]
    named = names or ((name,) if (name := only_channel(found)) else ())
    channels = dict(zip(named, ranges, strict=True)) if named else {}
    return VolumePlan(spacing, patch_of(shape, budget), shape, len(chosen), ranges[0], channels, len(inside))


def _sample(voxels: NDArray[Any], mask: NDArray[Any]) -> NDArray[np.float64]:
    """Values of the foreground, from its first slice to its last; of each volume as many, so that all count alike."""
    values = np.concatenate([one[there != 0] for one, there in zip(voxels, mask, strict=True)])
    chosen: NDArray[np.float64] = values[np.linspace(0, values.size - 1, VALUES).astype(int)].astype(
        np.float64
    )
    return chosen


def patch_of(shape: Shape, budget: int = BUDGET) -> Shape:
    """The patch for volumes of a shape: as large as they are, the longest side shortened until it fits the budget.

    >>> patch_of((36, 50, 35)), patch_of((100, 137, 137))
    ((40, 56, 40), (64, 64, 64))
    """
    sides = [max(DIVISOR, -(-side // DIVISOR) * DIVISOR) for side in shape]
    while math.prod(sides) > budget:
        sides[int(np.argmax(sides))] -= DIVISOR
    return sides[0], sides[1], sides[2]
