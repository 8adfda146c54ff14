"""A folder of single-frame DICOM files to one volume, ordered by position, or one line with the reason.

Source: DICOM PS3.3 C.7.6.2 (image plane: position, orientation and pixel spacing of a slice).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging import dicom
from segdistill.imaging.limits import HEAD, dicom_start
from segdistill.imaging.read import DICOM_SUFFIXES, MAX_PIXELS
from segdistill.imaging.volume import (
    TOLERANCE,
    Geometry,
    Misfit,
    Vector,
    Volume,
    check_size,
    label_mask,
    vector,
)

_UNEVEN = 0.05  # share of the usual distance by which the distance of two slices may differ
_ASIDE = 0.1  # pixels by which a slice may lie beside the straight line on which all begin
_AHEAD = 0.25  # slices by which it may lie before or behind its place on that line
_FRAME = "FrameOfReferenceUID"
# bytes of a file in which its class stands, in the meta header or as one of the first elements
_BEGINNING = 512
# SEG, label maps, RTSTRUCT
_DRAWN = re.compile(rb"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:66\.[47]|481\.3)(?![0-9.])")
_STRAIGHT = 0.01  # pixels by which the last slice of a stack that is not tilted lies beside the first


@dataclass(frozen=True, eq=False)
class _Slice:
    file: Path
    values: NDArray[Any]
    position: Vector
    axes: tuple[Vector, Vector]  # along which rows and columns count up
    step_mm: tuple[float, float]
    series: str

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.axes[1], self.axes[0])

    @property
    def depth(self) -> float:
        return float(np.dot(self.normal, self.position))


def series_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder, not of its sub-folders, by name; other files are skipped.

    A SEG or RTSTRUCT among slices is no part of the series, and skipped; where there are no slices it is listed.
    """
    found = list(_dicom_files(folder))
    return [path for path in found if not is_drawn(path)] or found


def _dicom_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if may_be_dicom(path))


def may_be_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file by its ending or its beginning, and no directory of other files.

    >>> may_be_dicom(Path("nowhere.dcm"))
    False
    """
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    return path.suffix.lower() in DICOM_SUFFIXES or _is_dicom(path)


def is_drawn(path: Path) -> bool:
    """Whether a DICOM file holds structures over a series (SEG, RTSTRUCT), by its class, which it begins with.

    >>> is_drawn(Path("nowhere.dcm"))
    False
    """
    try:
        with open(path, "rb") as file:
            return _DRAWN.search(file.read(_BEGINNING)) is not None
    except OSError:
        return False


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return dicom_start(file.read(HEAD)) is not None
    except OSError:
        return False


def is_series(folder: Path) -> bool:
    """Whether a folder holds slices of a volume: several DICOM files, of which two of one series state their position.

    Headers are read until two are of one series, so mostly two; `read_series` reports what is wrong with a series.
    """
    seen = set()
    for file in _dicom_files(folder):
        if is_drawn(file):
            continue
        try:
            tags = dicom.read_tags(file, ["SeriesInstanceUID", "ImagePositionPatient"])
        except Exception:  # pydicom raises whatever a damaged file leads to
            continue
        if "ImagePositionPatient" in tags:
            series = str(tags.get("SeriesInstanceUID"))
            if series in seen:
                return True
            seen.add(series)
    return False


def read_series(folder: Path, max_bytes: int) -> Volume:
    """One series as a volume: slices ordered along their normal, values rescaled (HU for CT).

    Slices that follow each other along another direction than their normal, as with a gantry tilt, make a sheared
    volume. A single slice without thickness has no known spacing.

    Raises:
        InputError: no series or several, mixed sizes, spacings or orientations, two slices in one place, a slice
            that is missing, a slice without position, slices that do not begin on a straight line, or a file that
            cannot be read.
    """
    slices = _slices(folder, max_bytes)
    first = slices[0]
    step, along = _even(slices) if len(slices) > 1 else (_thickness(first.file), first.normal)
    geometry = Geometry(
        (len(slices), *_shape(first)),
        (step or 1.0, *first.step_mm),
        (vector(along), *first.axes),
        first.position,
    )
    positions = np.array([item.position for item in slices])
    _require_line(slices, geometry, positions)
    voxels = np.empty(geometry.shape, np.result_type(*{item.values.dtype for item in slices}))
    for k in reversed(range(len(slices))):
        voxels[k] = slices.pop().values  # a slice is given up as soon as it is copied
    return Volume(voxels, geometry.spacing if step else None, folder, geometry, positions=positions)


def read_series_mask(folder: Path, image: Volume, max_bytes: int) -> tuple[NDArray[np.bool_], Misfit | None]:
    """The foreground of a DICOM series of labels on the grid of its image, which must not be turned yet.

    Slices that have no mask file are empty; each mask must lie on a slice of the image, to `TOLERANCE`.

    Returns:
        the mask (D, H, W), and by how much it lies beside its image; None where it does not.

    Raises:
        InputError: as `read_series`, or a mask that lies elsewhere.
    """
    slices = _slices(folder, max_bytes)
    places, mask = SlicePlaces(image), np.zeros(image.geometry.shape, np.bool_)
    for item in slices:
        k = places.slice_of(
            item.position, (*item.axes[1], *item.axes[0]), item.step_mm, _shape(item), f"{item.file.name} "
        )
        labels = Volume(item.values[None], None, item.file, image.geometry)
        mask[k] = label_mask(labels)[0] if item.values.max() <= 255 else item.values > 0
    return mask, Misfit.rounding(folder, places.worst)


class SlicePlaces:
    """Where the slices of an image lie, for masks whose planes state their positions.

    Args:
        image: as stored (`turn=False`).
        data: header of the mask; its frame of reference must be that of a series that states one.

    Attributes:
        worst: by how many voxels a plane lies beside its slice at most.

    Raises:
        InputError: another frame of reference.
    """

    def __init__(self, image: Volume, data: Any = None) -> None:
        self.image, self.grid, self.worst = image, image.geometry, 0.0
        along = np.outer(np.arange(self.grid.shape[0]), np.multiply(self.grid.axes[0], self.grid.step_mm[0]))
        self.first = np.asarray(self.grid.origin) + along if image.positions is None else image.positions
        if data is not None and image.source.is_dir():
            own = dicom.read_tags(series_files(image.source)[0], ["FrameOfReferenceUID"]).get(_FRAME)
            stated = data.get(_FRAME)
            if own and stated and own != stated:
                raise InputError(
                    f"states another frame of reference than {image.source}: take the series that it was drawn on"
                )

    def slice_of(
        self, position: Any, orientation: Any, step_mm: Any, size: tuple[int, int], what: str = ""
    ) -> int:
        """The slice on which a plane lies, to `TOLERANCE`.

        Args:
            position: of its first pixel, in mm.
            orientation: six numbers: along which its columns, then its rows count up.
            step_mm: from row to row and from column to column.
            size: (height, width).
            what: begins the message.

        Raises:
            InputError: it lies elsewhere.
        """
        place = vector(position)
        columns, rows = (_unit([float(v) for v in part]) for part in (orientation[:3], orientation[3:]))
        plane = Geometry(
            (self.grid.shape[0], *size),
            (self.grid.step_mm[0], float(step_mm[0]), float(step_mm[1])),
            (self.grid.axes[0], rows, columns),
            self.grid.origin,
        )
        if difference := self.grid.differs(plane):
            raise InputError(
                f"does not lie on its image {self.image.source}: image and mask have {difference}: "
                "resample the mask onto the image"
            )
        beside = np.abs(self.grid.in_voxels(np.subtract(place, self.first)))
        k = int(beside[:, 0].argmin())
        if not beside[k].max() <= TOLERANCE:  # also NaN
            off, down, right = beside[k].round(6)
            raise InputError(
                f"{what}lies {off:.3g} slices, {down:.3g} rows and {right:.3g} columns beside those of "
                f"{self.image.source}, more than the {TOLERANCE:g} voxels that are allowed: resample the mask onto the "
                "image"
            )
        self.worst = max(self.worst, self.grid.offset(plane), float(beside[k].max()))
        return k


def _slices(folder: Path, max_bytes: int) -> list[_Slice]:
    """All slices, checked and in order."""
    files = series_files(folder)
    if not files:
        raise InputError("holds no DICOM files")
    slices: list[_Slice] = []
    itemsize = 0
    for file in files:
        slices.append(_read(file))
        _require_alike(slices[0], slices[-1])
        itemsize = max(itemsize, slices[-1].values.itemsize)
        check_size((len(slices), *_shape(slices[0])), itemsize, max_bytes)
    slices.sort(key=lambda item: item.depth)
    for one, other in pairwise(slices):
        if other.depth - one.depth < 1e-3:
            raise InputError(
                f"{one.file.name} and {other.file.name} are slices in the same place: keep one of them"
            )
    return slices


def _read(file: Path) -> _Slice:
    try:
        with open(file, "rb") as stream:
            header, values = dicom.read_stored(stream, MAX_PIXELS)
        position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
        steps = header.get("PixelSpacing")
        if position is None or orientation is None or steps is None:
            raise UnreadableImage(
                "has no position (ImagePositionPatient, ImageOrientationPatient, PixelSpacing)"
            )
        columns = _unit([float(value) for value in orientation[:3]])
        rows = _unit([float(value) for value in orientation[3:]])
        if abs(np.dot(columns, rows)) > _ASIDE:
            raise UnreadableImage("has a damaged ImageOrientationPatient")
        step = (float(steps[0]), float(steps[1]))
        if not all(np.isfinite(step)) or min(step) <= 0:
            raise UnreadableImage("has a damaged PixelSpacing")
        place = vector([float(v) for v in position])
        if not np.isfinite(place).all():
            raise UnreadableImage("has a damaged ImagePositionPatient")
        return _Slice(file, values, place, (rows, columns), step, str(header.get("SeriesInstanceUID")))
    except InputError as error:
        raise UnreadableImage(f"{file.name}: {error}") from error
    except OSError as error:
        raise UnreadableImage(f"{file.name}: cannot be read ({error.strerror})") from error
    except MemoryError:
        raise
    except Exception as error:  # pydicom parses a damaged tag on first access
        raise UnreadableImage(f"{file.name}: has a damaged DICOM header") from error


def _require_alike(first: _Slice, other: _Slice) -> None:
    pair = f"{first.file.name} and {other.file.name}"
    if first.series != other.series:
        raise InputError(f"holds several series ({pair} differ): give each series a folder of its own")
    if first.values.shape != other.values.shape:
        sizes = " and ".join(f"{item.values.shape[0]} x {item.values.shape[1]}" for item in (first, other))
        raise InputError(
            f"holds slices of mixed sizes ({pair} have {sizes} pixels): remove those that do not belong"
        )
    if not np.allclose(first.step_mm, other.step_mm, rtol=1e-3) or not np.allclose(
        first.axes, other.axes, atol=1e-2
    ):
        raise InputError(
            f"holds slices of mixed spacing or orientation ({pair}): remove those that do not belong"
        )


def _even(slices: list[_Slice]) -> tuple[float, NDArray[np.float64]]:
    """From each slice to the next: how far, and along which unit vector; InputError where one is missing."""
    steps = np.diff([item.depth for item in slices])
    usual = float(np.median(steps))
    if len(steps) == 2:
        usual = float(steps.min())
    for step, one, other in zip(steps, slices, slices[1:], strict=False):
        if abs(step - usual) > _UNEVEN * usual:
            missing = round(step / usual) - 1
            what = f"{missing} slice(s) are missing" if missing >= 1 else "slices are unevenly spaced"
            raise InputError(
                f"{what} between {one.file.name} and {other.file.name} ({step:.2f} mm apart, usually {usual:.2f}): "
                "restore them"
            )
    first, last = slices[0], slices[-1]
    way = np.subtract(last.position, first.position)
    aside = [float(np.dot(way, axis)) / step for axis, step in zip(first.axes, first.step_mm, strict=True)]
    if max(map(abs, aside)) <= _STRAIGHT:
        return float(steps.mean()), first.normal
    length = float(np.linalg.norm(way))
    return length / len(steps), way / length


def _require_line(slices: list[_Slice], geometry: Geometry, positions: NDArray[np.float64]) -> None:
    """InputError when the slices do not begin on a straight line: one affine transform cannot place them all."""
    along = np.outer(np.arange(len(slices)), np.multiply(geometry.axes[0], geometry.step_mm[0]))
    beside = np.abs(geometry.in_voxels(positions - geometry.origin - along))
    share = beside / (_AHEAD, _ASIDE, _ASIDE)
    worst = int(share.max(axis=1).argmax())
    if share[worst].max() > 1:
        apart = float(np.linalg.norm(positions[worst] - geometry.origin - along[worst]))
        raise InputError(
            f"{slices[worst].file.name} lies {apart:.2f} mm beside the straight line on which the slices begin: "
            "remove it, or resample the series"
        )


def _thickness(file: Path) -> float:
    value = dicom.read_tags(file, ["SliceThickness"]).get("SliceThickness")
    return float(value) if value else 0.0


def _shape(item: _Slice) -> tuple[int, int]:
    return int(item.values.shape[0]), int(item.values.shape[1])


def _unit(values: list[float]) -> Vector:
    length = float(np.linalg.norm(values))
    if len(values) != 3 or not 0.9 < length < 1.1:
        raise UnreadableImage("has a damaged ImageOrientationPatient")
    return values[0] / length, values[1] / length, values[2] / length
