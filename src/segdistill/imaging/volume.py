"""A volume: slices, the size of a voxel, and how it lies in the patient; and its mask on the same grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError

Vector = tuple[float, float, float]

MAX_VOXELS = 2**29
"""Largest volume that is decoded by default: 537 million voxels (2048 slices of 512 x 512)."""

_AXIS_TOLERANCE = 1e-2  # of unit vectors: about half a degree
_STEP_TOLERANCE = 1e-3  # relative: headers round


@dataclass(frozen=True)
class Geometry:
    """How the voxels (D, H, W) lie in space.

    Attributes:
        shape: (D, H, W).
        step_mm: distance between slices, rows and columns, from the header.
        axes: unit vectors along which slices, rows and columns count up, in patient coordinates (to the left,
            to the back, to the head).
        origin: centre of the first voxel, in mm.

    >>> Geometry((2, 3, 4), (3.0, 0.5, 0.5)).turned()[1]
    ()
    """

    shape: tuple[int, int, int]
    step_mm: Vector
    axes: tuple[Vector, Vector, Vector] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    origin: Vector = (0.0, 0.0, 0.0)

    def differs(self, other: Geometry) -> str:
        """What differs between two geometries, in words; "" when voxels of both coincide but for a shift.

        >>> one = Geometry((2, 3, 4), (3.0, 0.5, 0.5))
        >>> one.differs(Geometry((2, 3, 5), (3.0, 0.5, 0.5)))
        '2 x 3 x 4 against 2 x 3 x 5 voxels'
        """
        if self.shape != other.shape:
            return f"{_times(self.shape)} against {_times(other.shape)} voxels"
        if not np.allclose(self.step_mm, other.step_mm, rtol=_STEP_TOLERANCE, atol=1e-4):
            return f"a spacing of {_times(self.step_mm)} against {_times(other.step_mm)} mm"
        if not np.allclose(self.axes, other.axes, rtol=0, atol=_AXIS_TOLERANCE):
            return f"an orientation of {_names(self)} against {_names(other)}"
        return ""

    def turned(self) -> tuple[Geometry, tuple[Any, ...]]:
        """The geometry as radiologists look at it, and how to get there: swaps rows and columns, flips axes.

        Axial volumes get rows to the back, columns to the left and slices to the head, as DICOM shows them,
        without resampling. A volume whose slices are not axial stays as it is stored.

        Returns:
            the new geometry, and (swap, flips) or () when nothing changes.
        """
        main = np.abs(np.asarray(self.axes)).argmax(axis=1)
        if main[0] != 2 or sorted(main.tolist()) != [0, 1, 2]:
            return self, ()
        swap = bool(main[1] == 0)
        order = [0, 2, 1] if swap else [0, 1, 2]
        axes, steps = np.asarray(self.axes)[order], np.asarray(self.step_mm)[order]
        shape = np.asarray(self.shape)[order]
        flips = [bool(axis[k] < 0) for axis, k in zip(axes, (2, 1, 0), strict=True)]
        if not swap and not any(flips):
            return self, ()
        origin = np.asarray(self.origin, float)
        for k, flip in enumerate(flips):
            if flip:
                origin = origin + axes[k] * steps[k] * (shape[k] - 1)
                axes[k] = -axes[k]
        turned = Geometry(
            (int(shape[0]), int(shape[1]), int(shape[2])),
            _vector(steps),
            (_vector(axes[0]), _vector(axes[1]), _vector(axes[2])),
            _vector(origin),
        )
        return turned, (swap, tuple(flips))


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume of one channel.

    Attributes:
        voxels: (D, H, W) in the file's own numbers; may be mapped from the file, read slice by slice.
        spacing: (slice, row, column) in mm, None when unknown.
        source: the file, or the folder of a series.
        geometry: size, spacing and orientation from the header.

    >>> volume = Volume(np.zeros((2, 3, 4)), None, Path("a.mhd"), Geometry((2, 3, 4), (1.0, 1.0, 1.0)))
    >>> volume.size, volume.spacing is None
    ((3, 4), True)
    """

    voxels: NDArray[Any]
    spacing: Vector | None
    source: Path
    geometry: Geometry

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a slice."""
        return int(self.voxels.shape[1]), int(self.voxels.shape[2])

    def turned(self) -> Volume:
        """The volume as radiologists look at it: see `Geometry.turned`.

        >>> axes = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
        >>> geometry = Geometry((1, 2, 1), (1.0, 1.0, 1.0), axes)
        >>> Volume(np.array([[[1], [2]]]), None, Path("a.nii"), geometry).turned().voxels.ravel().tolist()
        [2, 1]
        """
        geometry, how = self.geometry.turned()
        if not how:
            return self
        swap, flips = how
        voxels = self.voxels.swapaxes(1, 2) if swap else self.voxels
        voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
        spacing = self.spacing and (
            (self.spacing[0], self.spacing[2], self.spacing[1]) if swap else self.spacing
        )
        return replace(self, voxels=voxels, spacing=spacing, geometry=geometry)


def require_same_geometry(image: Volume, mask: Volume) -> None:
    """Raises InputError when a mask does not lie on its image's grid; names what differs.

    Size, spacing and orientation are compared; the origin is not, because many tools lose it.
    """
    difference = image.geometry.differs(mask.geometry)
    if difference:
        raise InputError(
            f"{mask.source}: lies otherwise than its image {image.source}: image and mask have {difference}: "
            "resample the mask onto the image"
        )


def label_mask(volume: Volume, classes: int = 0) -> NDArray[np.bool_]:
    """The foreground of a volume of labels: every label above 0; InputError when it is none.

    Args:
        volume: whole numbers from 0.
        classes: how many classes are declared, background included; 0: any number.

    >>> geometry = Geometry((1, 1, 3), (1.0, 1.0, 1.0))
    >>> label_mask(Volume(np.array([[[0, 1, 2]]]), None, Path("m.nii"), geometry)).tolist()
    [[[False, True, True]]]
    """
    voxels = volume.voxels
    if np.issubdtype(voxels.dtype, np.floating) and not np.array_equal(voxels, np.rint(voxels)):
        raise InputError(f"{volume.source}: is not a mask: it holds fractions; a mask holds whole numbers")
    low, high = float(voxels.min()), float(voxels.max())
    if low < 0:
        raise InputError(f"{volume.source}: is not a mask: it holds negative values, down to {low:g}")
    if classes and high >= classes and not (classes == 2 and high == 255 and _two_valued(voxels)):
        raise InputError(
            f"{volume.source}: holds the label {high:g}, but {classes} classes are declared (0 to {classes - 1}): "
            "declare more classes or correct the mask"
        )
    if not classes and high > 255:
        raise InputError(f"{volume.source}: is not a mask: it holds values up to {high:g}; labels go to 255")
    found: NDArray[np.bool_] = np.asarray(voxels > 0)
    return found


def check_voxels(shape: tuple[int, ...], max_voxels: int) -> tuple[int, int, int]:
    """The shape of a volume, or InputError when it is none or over the budget.

    >>> check_voxels((3, 4, 5), 100)
    (3, 4, 5)
    """
    if len(shape) != 3:
        raise InputError(
            f"has {len(shape)} dimensions, {_times(shape)}: a volume has three; save each one apart"
        )
    if min(shape) < 1:
        raise InputError(f"claims {_times(shape)} voxels")
    if shape[0] * shape[1] * shape[2] > max_voxels:
        raise InputError(f"claims {_times(shape)} voxels, more than the {max_voxels} that are allowed")
    return int(shape[0]), int(shape[1]), int(shape[2])


def check_finite(voxels: NDArray[Any]) -> None:
    """InputError when a voxel is NaN or infinite."""
    if np.issubdtype(voxels.dtype, np.floating) and not np.isfinite(voxels).all():
        raise InputError("has voxels that are NaN or infinite")


def _two_valued(voxels: NDArray[Any]) -> bool:
    return bool(((voxels == 0) | (voxels == 255)).all())


def _vector(values: Any) -> Vector:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _names(geometry: Geometry) -> str:
    """Where slices, rows and columns run to, such as SPL; oblique directions are called oblique."""
    letters = (("R", "L"), ("A", "P"), ("I", "S"))
    axes = np.asarray(geometry.axes)
    main = np.abs(axes).argmax(axis=1)
    text = "".join(letters[k][int(axis[k] > 0)] for axis, k in zip(axes, main, strict=True))
    tilt = float(np.degrees(np.arccos(np.clip(np.abs(axes[0]).max(), -1, 1))))
    return f"{text} tilted by {tilt:.1f} degrees" if tilt > 0.5 else text
