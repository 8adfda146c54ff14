"""A folder of single-frame DICOM files to one volume, ordered by position, or one line with the reason.

Source: DICOM PS3.3 C.7.6.2 (image plane: position, orientation and pixel spacing of a slice).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging import dicom
from segdistill.imaging.read import MAX_PIXELS
from segdistill.imaging.volume import Geometry, Vector, Volume, check_voxels, label_mask

_UNEVEN = 0.05  # share of the usual distance by which the distance of two slices may differ


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
    """The DICOM files of a folder, not of its sub-folders, by name; other files are skipped."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
            continue
        with open(path, "rb") as file:
            if file.read(132)[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom"):
                found.append(path)
    return found


def is_series(folder: Path) -> bool:
    """Whether a folder holds slices of a volume: several DICOM files, of which two of one series state their position.

    No more than two headers are read; `read_series` reports what is wrong with a series.
    """
    files = series_files(folder)[:2]
    if len(files) < 2:
        return False
    tags = ["SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient"]
    try:
        first, second = (pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags) for file in files)
        placed = all("ImagePositionPatient" in one for one in (first, second))
        return placed and first.get("SeriesInstanceUID") == second.get("SeriesInstanceUID")
    except Exception:  # pydicom raises whatever a damaged file leads to
        return False


def read_series(folder: Path, max_voxels: int) -> Volume:
    """One series as a volume: slices ordered along their normal, values rescaled (HU for CT).

    Raises:
        InputError: no series or several, mixed sizes, spacings or orientations, two slices in one place, a slice
            that is missing, a slice without position, or a file that cannot be read.
    """
    slices = _slices(folder, max_voxels)
    first = slices[0]
    step = _even(slices) if len(slices) > 1 else 0.0
    if not step:
        step = _thickness(first.file) or 1.0
    geometry = Geometry(
        (len(slices), *_shape(first)),
        (step, *first.step_mm),
        (_vector(first.normal), *first.axes),
        first.position,
    )
    voxels = np.stack([item.values for item in slices])
    return Volume(voxels, geometry.step_mm, folder, geometry)


def read_series_mask(folder: Path, image: Volume, max_voxels: int) -> NDArray[np.bool_]:
    """The foreground of a DICOM series of labels on the grid of its image, which must not be turned yet.

    Slices that have no mask file are empty; each mask must lie on a slice of the image.

    Raises:
        InputError: as `read_series`, or a mask that lies elsewhere.
    """
    slices = _slices(folder, max_voxels)
    geometry, first = image.geometry, slices[0]
    plane = Geometry(
        (geometry.shape[0], *_shape(first)),
        (geometry.step_mm[0], *first.step_mm),
        (_vector(first.normal), *first.axes),
    )
    if difference := geometry.differs(plane):
        raise InputError(f"lies otherwise than its image {image.source}: image and mask have {difference}")
    start = float(np.dot(first.normal, geometry.origin))
    mask = np.zeros(geometry.shape, np.bool_)
    for item in slices:
        place = (item.depth - start) / geometry.step_mm[0]
        row = round(place)
        if abs(place - row) > 0.25 or not 0 <= row < len(mask):
            raise InputError(
                f"{item.file.name} lies {abs(place - row):.2f} slices beside those of {image.source}"
            )
        labels = Volume(item.values[None], None, item.file, geometry)
        mask[row] = label_mask(labels)[0] if item.values.max() <= 255 else item.values > 0
    return mask


def _slices(folder: Path, max_voxels: int) -> list[_Slice]:
    """All slices, checked and in order."""
    files = series_files(folder)
    if not files:
        raise InputError("holds no DICOM files")
    slices: list[_Slice] = []
    for file in files:
        slices.append(_read(file))
        _require_alike(slices[0], slices[-1])
        check_voxels((len(slices), *_shape(slices[0])), max_voxels)
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
        step = (float(steps[0]), float(steps[1]))
        if not all(np.isfinite(step)) or min(step) <= 0:
            raise UnreadableImage("has a damaged PixelSpacing")
        return _Slice(
            file,
            values,
            _vector([float(v) for v in position]),
            (rows, columns),
            step,
            str(header.get("SeriesInstanceUID")),
        )
    except UnreadableImage as error:
        raise UnreadableImage(f"{file.name}: {error}") from error
    except (ValueError, TypeError) as error:  # pydicom parses a damaged tag on first access
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


def _even(slices: list[_Slice]) -> float:
    """The distance between slices; InputError where one is missing."""
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
    return float(steps.mean())


def _thickness(file: Path) -> float:
    value = pydicom.dcmread(file, stop_before_pixels=True).get("SliceThickness")
    return float(value) if value else 0.0


def _shape(item: _Slice) -> tuple[int, int]:
    return int(item.values.shape[0]), int(item.values.shape[1])


def _unit(values: list[float]) -> Vector:
    length = float(np.linalg.norm(values))
    if len(values) != 3 or not 0.9 < length < 1.1:
        raise UnreadableImage("has a damaged ImageOrientationPatient")
    return values[0] / length, values[1] / length, values[2] / length


def _vector(values: Any) -> Vector:
    first, second, third = (float(value) for value in values)
    return first, second, third
