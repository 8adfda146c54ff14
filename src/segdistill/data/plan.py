"""Spacing and patch of a network of volumes, from the fingerprint of its data (after Isensee et al. 2021, nnU-Net)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from segdistill.data.case import Case, only_channel, table_channels
from segdistill.errors import InputError
from segdistill.imaging.grid import Shape, Spacing3, VolumePreprocess
from segdistill.imaging.several import read_channel_volumes

SAMPLE = 24
"""Volumes that are looked at, evenly over the table."""
DIVISOR = 8
"""Sides of a patch are multiples of it: networks of four levels take them."""
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
        levels: percentiles 0.5 and 99.5 of the values, median over the volumes; of several channels those of the first.
        channels: name -> the same of each channel that has a name; {} of one image without.
    """

    spacing: Spacing3 | None
    patch: Shape
    shape: Shape
    volumes: int
    levels: tuple[float, float]
    channels: dict[str, tuple[float, float]] = field(default_factory=dict)


def plan_volumes(cases: Sequence[Case], spacing: Spacing3 | None = None, budget: int = BUDGET) -> VolumePlan:
    """Looks at some volumes of a table.

    Args:
        cases: of the table.
        spacing: of the grid; None: the median of the volumes.
        budget: most voxels of a patch.

    Raises:
        InputError: no volume among the cases, one that cannot be read, or volumes of different channels.
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
    levels = []
    for case in chosen:
        volumes = read_channel_volumes(case.image_channels)
        volume = volumes[0]
        stated = (
            case.spacing_mm if case.spacing_mm is not None and len(case.spacing_mm) == 3 else volume.spacing
        )
        spacings.append(None if stated is None else (stated[0], stated[1], stated[2]))
        shapes.append((volume.voxels.shape[0], volume.voxels.shape[1], volume.voxels.shape[2]))
        step = max(1, len(volume.voxels) // 16)
        levels.append([np.percentile(each.voxels[::step], (0.5, 99.5)) for each in volumes])
    known = [each for each in spacings if each is not None]
    if spacing is None and len(known) == len(spacings):
        depth, height, width = (round(float(value), 3) for value in np.median(known, axis=0))
        spacing = (depth, height, width)
    grid = VolumePreprocess((1, 1, 1), spacing)
    on_grid = [grid.grid_shape(shape, own) for shape, own in zip(shapes, spacings, strict=True)]
    depth, height, width = (round(float(value)) for value in np.median(on_grid, axis=0))
    shape, ranges = (
        (depth, height, width),
        [(float(low), float(high)) for low, high in np.median(levels, axis=0)],
    )
    named = names or ((name,) if (name := only_channel(found)) else ())
    channels = dict(zip(named, ranges, strict=True)) if named else {}
    return VolumePlan(spacing, patch_of(shape, budget), shape, len(chosen), ranges[0], channels)


def patch_of(shape: Shape, budget: int = BUDGET) -> Shape:
    """The patch for volumes of a shape: as large as they are, the longest side shortened until it fits the budget.

    >>> patch_of((36, 50, 35)), patch_of((100, 137, 137))
    ((40, 56, 40), (64, 64, 64))
    """
    sides = [max(DIVISOR, -(-side // DIVISOR) * DIVISOR) for side in shape]
    while math.prod(sides) > budget:
        sides[int(np.argmax(sides))] -= DIVISOR
    return sides[0], sides[1], sides[2]
