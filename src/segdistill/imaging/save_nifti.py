"""A volume of labels as NIfTI, on the very grid of the image that it belongs to."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.files import atomic_write
from segdistill.imaging.volume import Geometry


def save_nifti(labels: NDArray[np.uint8], geometry: Geometry, path: Path, unit_known: bool = True) -> None:
    """Writes a .nii.gz file, whole or not at all; the same labels give the same bytes.

    Args:
        labels: uint8 (D, H, W).
        geometry: how they lie in space.
        path: ends in .nii.gz.
        unit_known: whether the geometry is in millimetres; else the header says that the unit is unknown.

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
