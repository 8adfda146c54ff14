"""NIfTI volumes, .nii and .nii.gz: the header is judged first, and no more is inflated than it promises.

Source: NIfTI-1 and NIfTI-2 headers as nibabel parses them.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging.limits import inflate
from segdistill.imaging.volume import Geometry, Vector, Volume, check_finite, check_voxels

_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


def read_nifti(path: Path, max_voxels: int, trust_unit_spacing: bool = False) -> Volume:
    """Reads a volume of three dimensions; an uncompressed one is mapped from the file.

    A spacing of exactly (1, 1, 1) without a unit counts as unknown.

    Raises:
        InputError: four dimensions, over the budget, damaged or cut off, or a voxel type that is not real.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        start = inflate(file, 540, exact=False) if packed else file.read(540)
    header, size = _header(start)
    dimensions = tuple(int(side) for side in header.get_data_shape())
    while len(dimensions) > 3 and dimensions[-1] == 1:
        dimensions = dimensions[:-1]
    columns, rows, slices = check_voxels(dimensions, max_voxels)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"holds voxels of type {dtype}, which is not read")
    if str(header["magic"].item().decode("latin-1"))[:2] not in ("n+",):
        raise InputError("is half of a .hdr/.img pair: save it as one .nii file")
    offset = max(int(header["vox_offset"]), size)
    if offset > 1 << 24:
        raise InputError(f"claims {offset} bytes of header")
    count = columns * rows * slices * dtype.itemsize
    voxels = _voxels(path, packed, dtype, offset, count).reshape(slices, rows, columns)
    slope, intercept = header.get_slope_inter()
    if slope not in (None, 1.0) or intercept not in (None, 0.0):
        voxels = voxels.astype(np.float32) * np.float32(slope or 1) + np.float32(intercept or 0)
    check_finite(voxels)
    geometry, unit = _geometry(header, (slices, rows, columns))
    known = trust_unit_spacing or unit or geometry.step_mm != (1.0, 1.0, 1.0)
    return Volume(voxels, geometry.step_mm if known else None, path, geometry)


def _voxels(path: Path, packed: bool, dtype: np.dtype[Any], offset: int, count: int) -> NDArray[Any]:
    if packed:
        with open(path, "rb") as file:
            return np.frombuffer(inflate(file, offset + count), dtype, offset=offset)
    available = path.stat().st_size - offset
    if available < count:
        raise InputError(f"is cut off: {max(available, 0)} of {count} bytes are there")
    return np.memmap(path, dtype, "r", offset, (count // dtype.itemsize,))


def _header(start: bytes) -> tuple[Any, int]:
    import nibabel

    kind: Any
    try:
        kind = (
            nibabel.Nifti2Header
            if int.from_bytes(start[:4], "little") in (540, 469893120)
            else nibabel.Nifti1Header
        )
        size = 540 if kind is nibabel.Nifti2Header else 348
        header = kind.from_fileobj(io.BytesIO(start[:size]), check=False)
        if int(header["sizeof_hdr"]) != size or not 1 <= int(header["dim"][0]) <= 7:
            raise ValueError("sizes")
        header.get_data_dtype(), header.get_data_shape()
    except Exception as error:  # nibabel raises whatever a damaged field leads to
        raise InputError("has a damaged NIfTI header") from error
    return header, size


def _geometry(header: Any, shape: tuple[int, int, int]) -> tuple[Geometry, bool]:
    """The geometry in millimetres, and whether the header names their unit."""
    try:
        space = str(header.get_xyzt_units()[0])
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(header.get_best_affine(), float)
    except Exception as error:
        raise InputError("has a damaged NIfTI header") from error
    affine = affine * _MM.get(space, 1.0)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (steps > 0).all()):
        raise InputError("has a damaged NIfTI header: an axis without length")
    axes = (affine[:3, :3] / steps).T
    geometry = Geometry(
        shape,
        (_plain(steps[2]), _plain(steps[1]), _plain(steps[0])),
        (_vector(axes[2]), _vector(axes[1]), _vector(axes[0])),
        _vector(affine[:3, 3]),
    )
    return geometry, space != "unknown"


def _plain(value: Any) -> float:
    return round(float(value), 6)  # the header holds single precision


def _vector(values: Any) -> Vector:
    first, second, third = (float(value) for value in values)
    return first, second, third


def save_nifti(labels: NDArray[np.uint8], geometry: Geometry, path: Path, unit_known: bool = True) -> None:
    """Writes a .nii.gz file, whole or not at all; the same labels give the same bytes.

    Args:
        labels: uint8 (D, H, W).
        geometry: how they lie in space.
        path: ends in .nii.gz.
        unit_known: whether the geometry is in millimetres; else the header states no unit.

    Raises:
        InputError: the file cannot be written.

    >>> import tempfile
    >>> from segdistill.imaging.read_volume import read_volume
    >>> path = Path(tempfile.mkdtemp()) / "mask.nii.gz"
    >>> save_nifti(np.ones((2, 3, 4), np.uint8), Geometry((2, 3, 4), (3.0, 0.5, 0.4)), path)
    >>> read_volume(path).spacing
    (3.0, 0.5, 0.4)
    """
    import nibabel

    make: Any = nibabel.Nifti1Image
    image = make(labels.transpose(2, 1, 0), affine_of(geometry))
    image.header.set_xyzt_units("mm" if unit_known else "unknown")
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner")
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """From indices (column, row, slice) to NIfTI's space, whose first two axes point to the right and to the front.

    >>> affine_of(Geometry((2, 3, 4), (3.0, 0.5, 0.4), origin=(1.0, 2.0, 3.0)))[0].tolist()
    [-0.4, 0.0, 0.0, -1.0]
    """
    columns = [
        np.asarray(axis) * step
        for axis, step in zip(geometry.axes[::-1], geometry.step_mm[::-1], strict=True)
    ]
    affine = np.eye(4)
    affine[:3] = np.column_stack([*columns, geometry.origin])
    affine[:2] *= -1
    return affine + 0.0  # no minus zeros
