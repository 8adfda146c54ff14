"""A volume: slices, the size of a voxel, and how it lies in the patient; and its mask on the same grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.classes import Reading

Vector = tuple[float, float, float]

MAX_BYTES = 2**31
"""Largest volume that is decoded by default: 2 GiB, where a voxel counts its bytes in memory, at least four."""

TOLERANCE = 1e-3
"""How far, in voxels, any voxel of a mask may lie from its image's.

Headers round to single precision. Measured on 2,000 oblique CTs of 512 x 512 x 300 voxels with an origin 300 mm away: a
matrix (sform) moves no corner by more than 7e-5 of a voxel. A quaternion (qform) holds three of its four numbers; the
fourth is known to 3e-4 only where it is near 0 (half a turn), and nibabel takes it for 0 up to 6e-4: corners move by up
to 0.4 of a voxel. So a grid that is stated by a quaternion alone may be turned by what its own rounding explains
(`Geometry.rounding`).
"""

_TOLD = 1e-6  # voxels; smaller differences come from single precision
_LARGEST = 1e9  # mm
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Geometry:
    """How the voxels (D, H, W) lie in space.

    Attributes:
        shape: (D, H, W).
        step_mm: from a voxel to the next along slices, rows and columns, in mm.
        axes: unit vectors along which slices, rows and columns count up, in patient coordinates (to the left,
            to the back, to the head). They need not be at right angles: a gantry tilt shears a volume.
        origin: centre of the first voxel, in mm.
        placed: whether the file states the origin; one of exactly 0 0 0 counts as lost.
        rounding: voxels by which rounding in the header may have turned its corners, of a quaternion alone.

    Raises:
        InputError: numbers that are NaN, infinite or absurd, a step of 0, or axes in one plane.

    >>> Geometry((2, 3, 4), (3.0, 0.5, 0.5)).turned()[1]
    ()
    """

    shape: tuple[int, int, int]
    step_mm: Vector
    axes: tuple[Vector, Vector, Vector] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    origin: Vector = (0.0, 0.0, 0.0)
    placed: bool = True
    rounding: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        numbers = np.abs(np.concatenate([self.step_mm, *self.axes, self.origin]))
        if not (numbers.max() < _LARGEST and min(self.step_mm) > 1 / _LARGEST):  # False for NaN
            raise InputError(
                "has a damaged header: a spacing or position that cannot be, or an axis without length: write the file "
                "again with the tool that made it"
            )
        if abs(np.linalg.det(self.axes)) < 1e-2:
            raise InputError("has a damaged header: its axes lie in one plane")
        object.__setattr__(self, "placed", self.placed and any(self.origin))

    @property
    def spacing(self) -> Vector:
        """(slice, row, column) in mm, of which the first is the distance between the planes of two slices.

        >>> tilted = Geometry((2, 1, 1), (2.0, 1.0, 1.0), ((0.0, 0.6, 0.8), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
        >>> round(tilted.spacing[0], 6)
        1.6
        """
        height = abs(float(np.linalg.det(self.axes)))
        first = self.step_mm[0] if height > 1 - 1e-5 else self.step_mm[0] * height  # headers round
        return first, self.step_mm[1], self.step_mm[2]

    @property
    def tilt(self) -> float:
        """Angle in degrees between the direction in which slices follow each other and their normal."""
        normal = np.cross(self.axes[1], self.axes[2])
        along = abs(float(np.dot(normal, self.axes[0]))) / float(np.linalg.norm(normal))
        return math.degrees(math.acos(min(along, 1.0)))

    @property
    def plane(self) -> str:
        """The anatomical plane that the slices are nearest to: axial, coronal or sagittal.

        >>> Geometry((2, 3, 4), (3.0, 0.5, 0.5)).plane
        'axial'
        """
        return _PLANES[int(np.abs(np.cross(self.axes[1], self.axes[2])).argmax())]

    @property
    def letters(self) -> str:
        """Where slices, rows and columns run to, such as SPL: to the head (S), the back (P) and the left (L)."""
        names = (("R", "L"), ("A", "P"), ("I", "S"))
        main = np.abs(np.asarray(self.axes)).argmax(axis=1)
        return "".join(names[k][int(axis[k] > 0)] for axis, k in zip(self.axes, main, strict=True))

    def in_voxels(self, millimetres: Any) -> NDArray[np.float64]:
        """Vectors (..., 3) of patient coordinates as (slices, rows, columns) of this grid."""
        with np.errstate(over="ignore"):
            steps = np.asarray(millimetres, float) @ np.linalg.inv(self.axes) / self.step_mm
        found: NDArray[np.float64] = np.asarray(steps, np.float64)
        return found

    def differs(self, other: Geometry) -> str:
        """What differs between two grids, in words; "" when their voxels coincide.

        No voxel may lie further than `TOLERANCE` beside its own, but for the rounding of a quaternion. An origin that
        one of both has lost is not compared.

        >>> one = Geometry((2, 3, 4), (3.0, 0.5, 0.5))
        >>> one.differs(Geometry((2, 3, 5), (3.0, 0.5, 0.5)))
        '2 x 3 x 4 against 2 x 3 x 5 voxels'
        >>> one.differs(Geometry((2, 3, 4), (3.0, 0.5, 0.501)))
        'a spacing of 3 x 0.5 x 0.5 against 3 x 0.5 x 0.501 mm (by up to 0.006 voxels)'
        """
        if self.shape != other.shape:
            return f"{_times(self.shape)} against {_times(other.shape)} voxels"
        words, far = self._difference(other), self.offset(other)
        if not words and far <= self._limit(other):
            return ""
        return f"{words or 'a spacing, orientation or origin'} (by up to {far:.2g} voxels)"

    def _limit(self, other: Geometry) -> float:
        return max(TOLERANCE, self.rounding + other.rounding)

    def _difference(self, other: Geometry) -> str:
        """Which of spacing, orientation and origin moves a voxel too far by itself; "" where none does."""
        steps = np.maximum(np.subtract(self.shape, 1), 1)  # to the last voxel
        if (np.abs(np.divide(other.step_mm, self.step_mm) - 1) * steps).max() > TOLERANCE:
            return f"a spacing of {_times(self.step_mm)} against {_times(other.step_mm)} mm"
        turn = np.subtract(other.axes, self.axes) * np.asarray(self.step_mm)[:, None]
        if np.abs(self.in_voxels(turn) * steps[:, None]).max() > self._limit(other):
            if self.letters != other.letters:
                return f"an orientation of {self.letters} against {other.letters}"
            chord = float(np.linalg.norm(np.subtract(other.axes, self.axes), axis=1).max())
            return f"an orientation that differs by {math.degrees(2 * math.asin(min(chord / 2, 1.0))):.3g} degrees"
        if self.placed and other.placed and self._shift(other) > TOLERANCE:
            apart = float(np.linalg.norm(np.subtract(other.origin, self.origin)))
            return f"an origin of {_places(self, other)} mm, {apart:.6g} mm apart"
        return ""

    def _shift(self, other: Geometry) -> float:
        """How far, in voxels, the first voxels of two grids lie apart."""
        return float(np.abs(self.in_voxels(np.subtract(other.origin, self.origin))).max())

    def offset(self, other: Geometry) -> float:
        """How far, in voxels, the corners of two grids of one size lie apart at most; the origin counts unless lost."""
        corners = np.array(list(product(*((0, side - 1) for side in self.shape))), float)

        def places(geometry: Geometry) -> NDArray[np.float64]:
            found: NDArray[np.float64] = (corners * geometry.step_mm) @ np.asarray(geometry.axes)
            return found + geometry.origin if self.placed and other.placed else found

        return float(np.abs(self.in_voxels(places(other) - places(self))).max())

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
        flips = [bool(np.asarray(self.axes)[row][k] < 0) for row, k in zip(order, (2, 1, 0), strict=True)]
        if not swap and not any(flips):
            return self, ()
        return self._arranged(order, flips), (swap, tuple(flips))

    def towards(self, other: Geometry) -> tuple[Geometry, list[int], list[bool]]:
        """The geometry with its axes swapped and flipped so that they run like those of another, without resampling.

        Returns:
            the new geometry; for each new axis the number of the old one; and whether it is flipped.

        >>> one = Geometry((2, 3, 4), (3.0, 1.0, 0.5))
        >>> other = Geometry((4, 3, 2), (0.5, 1.0, 3.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
        >>> other.towards(one)[0].shape, other.towards(one)[1:]
        ((2, 3, 4), ([2, 1, 0], [False, False, False]))
        """
        along = np.asarray(other.axes) @ np.asarray(self.axes).T
        order = [int(row.argmax()) for row in np.abs(along)]
        if sorted(order) != [0, 1, 2]:
            order = [0, 1, 2]  # too oblique: as it is
        flips = [bool(along[k, axis] < 0) for k, axis in enumerate(order)]
        return self._arranged(order, flips), order, flips

    def _arranged(self, order: list[int], flips: list[bool]) -> Geometry:
        """The same voxels with their axes in another order, and then some flipped."""
        axes, steps = np.asarray(self.axes)[order], np.asarray(self.step_mm)[order]
        shape = np.asarray(self.shape)[order]
        origin = np.asarray(self.origin, float)
        for k, flip in enumerate(flips):
            if flip:
                origin = origin + axes[k] * steps[k] * (shape[k] - 1)
                axes[k] = -axes[k]
        return Geometry(
            (int(shape[0]), int(shape[1]), int(shape[2])),
            vector(steps),
            (vector(axes[0]), vector(axes[1]), vector(axes[2])),
            vector(origin),
            self.placed,
            self.rounding,
        )


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume of one channel.

    Attributes:
        voxels: (D, H, W) in the file's own numbers; may be mapped from the file, read slice by slice.
        spacing: (slice, row, column) in mm, None when unknown; their product is the size of a voxel.
        source: the file, or the folder of a series.
        geometry: size, spacing and place from the header.
        second: the same grid by the other transform of a NIfTI file that states two; None when there is none.
        header: the NIfTI header, as the file holds it; None of other formats, and of a volume that was turned.
        positions: of the first voxel of every slice of a DICOM series, (D, 3); None otherwise.

    >>> volume = Volume(np.zeros((2, 3, 4)), None, Path("a.mhd"), Geometry((2, 3, 4), (1.0, 1.0, 1.0)))
    >>> volume.size, volume.spacing is None
    ((3, 4), True)
    """

    voxels: NDArray[Any]
    spacing: Vector | None
    source: Path
    geometry: Geometry
    second: Geometry | None = None
    header: Any = None
    positions: NDArray[np.float64] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a slice."""
        return int(self.voxels.shape[1]), int(self.voxels.shape[2])

    @property
    def is_series(self) -> bool:
        """Whether it is a DICOM series, to whose slices an object can refer."""
        return self.positions is not None and self.source.is_dir()

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
        return Volume(voxels, spacing, self.source, geometry)


@dataclass(frozen=True)
class Misfit:
    """A mask that is accepted, though it lies a little beside its image, or does not state where it lies.

    Attributes:
        mask: the file.
        what: "rounding" (as `Geometry.differs` allows), "origin" (one of both has lost it) or "transform" (one
            of the two transforms of a NIfTI file lies elsewhere).
        voxels: how far apart, in voxels.
        words: what differs.
    """

    mask: Path
    what: str
    voxels: float
    words: str

    @classmethod
    def rounding(cls, mask: Path, voxels: float) -> Misfit | None:
        """A mask that lies this far beside its image; None below the precision of headers."""
        return cls(mask, "rounding", voxels, f"{voxels:.2g} voxels apart") if voxels > _TOLD else None


@dataclass
class Noticed:
    """What is noticed of files that are accepted; reading adds to it.

    Attributes:
        misfits: of masks, or of channels, that lie a little beside their image.
        overlap: pixels or voxels that an earlier class had, where classes have files or segments of their own, or
            several index files.
        labels: of a volume's mask that become one foreground, where no value is named.
        unknown: name of a segment that is of no class, and becomes background -> its file.
    """

    misfits: list[Misfit] = field(default_factory=list)
    overlap: int = 0
    labels: set[int] = field(default_factory=set)
    unknown: dict[str, Path] = field(default_factory=dict)

    def add(self, other: Noticed) -> None:
        """Adds what was noticed of other files.

        >>> noticed = Noticed()
        >>> noticed.add(Noticed(overlap=3))
        >>> noticed.overlap
        3
        """
        self.misfits += other.misfits
        self.overlap += other.overlap
        self.labels |= other.labels
        self.unknown |= other.unknown


def require_same_geometry(image: Volume, mask: Volume) -> Misfit | None:
    """Compares a mask's grid with its image's: size, spacing, orientation and origin; see `Geometry.differs`.

    Where a NIfTI image states two transforms, the mask may lie on either of both.

    Returns:
        what differs although the mask is accepted; None where nothing does.

    Raises:
        InputError: the mask does not lie on its image's grid; names what differs.
    """
    grids = [image.geometry, *([image.second] if image.second else [])]
    grid = next((grid for grid in grids if not grid.differs(mask.geometry)), None)
    if grid is None:
        raise InputError(
            f"{mask.source}: does not lie on its image {image.source}: image and mask have "
            f"{image.geometry.differs(mask.geometry)}: resample the mask onto the image"
        )
    if grid.placed != mask.geometry.placed and (shift := grid._shift(mask.geometry)) > TOLERANCE:
        return Misfit(mask.source, "origin", shift, f"an origin of {_places(grid, mask.geometry)} mm")
    if mask.second and (words := _all_differ(grids, mask.second)):
        return Misfit(mask.source, "transform", grid.offset(mask.second), f"{words} by its qform")
    return Misfit.rounding(mask.source, grid.offset(mask.geometry))


def _all_differ(grids: list[Geometry], other: Geometry) -> str:
    """What differs from the first grid where none of them fits; "" where one does."""
    found = [grid.differs(other) for grid in grids]
    return found[0] if all(found) else ""


def label_mask(volume: Volume, classes: int = 0) -> NDArray[np.bool_]:
    """The foreground of a volume of labels: every label above 0; InputError when it is none.

    Labels within 1e-3 of a whole number count as whole: resampling and scaling leave such.

    Args:
        volume: whole numbers from 0.
        classes: how many classes are declared, background included; 0: any number.

    >>> geometry = Geometry((1, 1, 3), (1.0, 1.0, 1.0))
    >>> label_mask(Volume(np.array([[[0, 1, 1.9999]]]), None, Path("m.nii"), geometry)).tolist()
    [[[False, True, True]]]
    """
    voxels = volume.voxels
    if np.issubdtype(voxels.dtype, np.floating):
        _check_whole(voxels, volume.source)
    low, high = (float(np.rint(value)) for value in (voxels.min(), voxels.max()))
    if low < 0:
        raise InputError(f"{volume.source}: is not a mask: it holds negative values, down to {low:g}")
    if classes and high >= classes and not (classes == 2 and high == 255 and _two_valued(voxels)):
        raise InputError(
            f"{volume.source}: holds the label {high:g}, but {classes} classes are declared (0 to {classes - 1}): "
            "declare more classes or correct the mask"
        )
    if not classes and high > 255:
        raise InputError(f"{volume.source}: is not a mask: it holds values up to {high:g}; labels go to 255")
    found: NDArray[np.bool_] = np.asarray(voxels > (0.5 if voxels.dtype.kind == "f" else 0))
    return found


def class_mask(volume: Volume, reading: Reading) -> NDArray[np.uint8]:
    """The index of the class of every voxel of a volume of labels; labels count as whole within 1e-3.

    Args:
        volume: whole numbers.
        reading: the classes and their values.

    Raises:
        InputError: fractions, negative values, or a value that no class has.

    >>> from segdistill.imaging.classes import parse_classes
    >>> volume = Volume(np.array([[[0, 1, 2.9999]]]), None, Path("m.nii"), Geometry((1, 1, 3), (1.0, 1.0, 1.0)))
    >>> class_mask(volume, Reading(parse_classes({"head": 1, "body": [2, 3]}))).tolist()
    [[[0, 1, 2]]]
    """
    voxels = volume.voxels
    if np.issubdtype(voxels.dtype, np.floating):
        _check_whole(voxels, volume.source)
    low, high = (float(np.rint(value)) for value in (voxels.min(), voxels.max()))
    if low < 0 or high > 65535:
        raise InputError(
            f"{volume.source}: is not a mask: it holds values from {low:g} to {high:g}; labels go from 0 to 65535"
        )
    is_present = np.zeros(int(high) + 1, bool)
    for values in voxels:  # a slice at a time: a copy of a large volume need not fit into memory
        is_present[np.unique(np.rint(values).astype(np.int64))] = True
    present = [int(value) for value in np.flatnonzero(is_present)]
    lookup = np.zeros(int(high) + 1, np.uint8)
    lookup[present] = reading.index_of(present, volume.source)
    found = np.empty(voxels.shape, np.uint8)
    for k, values in enumerate(voxels):
        found[k] = lookup[np.rint(values).astype(np.int64)]
    return found


_WHOLE = 1e-3 + 2e-5  # single precision rounds labels up to 255 by as much


def _check_whole(voxels: NDArray[Any], source: Path) -> None:
    for values in voxels:  # a slice at a time: a copy of a large volume need not fit into memory
        beside = np.abs(values - np.rint(values))
        if values.size and beside.max() > _WHOLE:
            example = float(values.flat[int(beside.argmax())])
            raise InputError(
                f"{source}: is not a mask: it holds fractions, such as {example:.6g}; a mask holds whole numbers: "
                "resample it without interpolation, or cut probabilities at a threshold"
            )


def check_size(shape: tuple[int, ...], itemsize: int, max_bytes: int) -> tuple[int, int, int]:
    """The shape of a volume, or InputError when it is none or would take more memory than is allowed.

    Args:
        shape: as the header claims it.
        itemsize: bytes of a voxel in memory; at least four count, since masks and copies lie beside the voxels.
        max_bytes: largest volume.

    >>> check_size((3, 4, 5), 2, 240)
    (3, 4, 5)
    """
    if len(shape) != 3:
        fix = "save each one apart" if len(shape) > 3 else "save it as a picture, or as a volume of one slice"
        raise InputError(f"has {len(shape)} dimensions, {_times(shape)}: a volume has three; {fix}")
    if min(shape) < 1:
        raise InputError(f"claims {_times(shape)} voxels, so it is empty: restore it, or remove its case")
    size = shape[0] * shape[1] * shape[2] * max(itemsize, 4)
    if size > max_bytes:
        raise InputError(
            f"claims {_times(shape)} voxels of {itemsize} bytes, more than the {max_bytes} bytes that are allowed: "
            "crop it, or save it with fewer bytes per voxel"
        )
    return int(shape[0]), int(shape[1]), int(shape[2])


def check_numbers(voxels: NDArray[Any]) -> None:
    """InputError when a voxel is NaN, infinite or beyond single precision."""
    if not np.issubdtype(voxels.dtype, np.floating):
        return
    largest = float(np.finfo(np.float32).max)
    if not all(-largest <= float(values.min()) and float(values.max()) <= largest for values in voxels):
        wrong = sum(int(np.count_nonzero(~(np.abs(values) <= largest))) for values in voxels)
        raise InputError(
            f"has {wrong} voxels that are NaN or infinite: set them to the value of the background, or restore the file"
        )


def _two_valued(voxels: NDArray[Any]) -> bool:
    return all(bool(np.isin(np.rint(values), (0, 255)).all()) for values in voxels)


def vector(values: Any) -> Vector:
    """Three numbers as a tuple of floats."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{min(value, 1e18):.6g}" for value in values)


def _places(one: Geometry, other: Geometry) -> str:
    """Both origins; no minus zeros."""
    return " against ".join(" ".join(f"{v + 0.0:.6g}" for v in grid.origin) for grid in (one, other))
