"""Reads one volume of any format; an error is one line with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.volume import MAX_VOXELS, Volume, label_mask, require_same_geometry

__all__ = ["MAX_VOXELS", "VOLUME_SUFFIXES", "is_volume", "read_volume", "read_volume_mask", "volume_files"]

VOLUME_SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
"""Endings (lower case) of files that hold a volume; a folder is taken for a DICOM series."""


def is_volume(path: str | Path) -> bool:
    """Whether a path names a volume: a file with one of VOLUME_SUFFIXES, or a folder.

    >>> is_volume("Case13.mhd"), is_volume("7.png")
    (True, False)
    """
    return str(path).lower().endswith(VOLUME_SUFFIXES) or Path(path).is_dir()


def volume_files(path: Path) -> list[Path]:
    """All files that a volume's content lies in: a header's voxels, a series' slices; the file itself otherwise.

    Raises:
        UnreadableImage: no such volume.
    """
    with _reasons(path):
        if path.is_dir():
            from segdistill.imaging.dicom_series import series_files

            return series_files(path)
        if path.suffix.lower() in (".mhd", ".mha"):
            from segdistill.imaging.metaimage import data_file

            return list(dict.fromkeys((path, data_file(path))))
        return [path]


def read_volume(
    path: str | Path, max_voxels: int = MAX_VOXELS, turn: bool = True, trust_unit_spacing: bool = False
) -> Volume:
    """Decodes a MetaImage, NIfTI or NRRD file, or a folder with one DICOM series.

    Args:
        path: the file or folder.
        max_voxels: larger volumes are refused, from their header where they have one.
        turn: axial volumes are turned as DICOM shows them (`Geometry.turned`); False: as stored.
        trust_unit_spacing: a header of exactly (1, 1, 1) means one millimetre; else it counts as unknown.

    Raises:
        UnreadableImage: missing, damaged, cut off, over the budget, four dimensions, or an incomplete series.

    >>> read_volume("nowhere.nii")
    Traceback (most recent call last):
    segdistill.errors.UnreadableImage: nowhere.nii: no such file
    """
    path = Path(path)
    with _reasons(path):
        if path.is_dir():
            from segdistill.imaging.dicom_series import read_series

            volume = read_series(path, max_voxels)
        else:
            volume = _reader(path)(path, max_voxels, trust_unit_spacing)
    return volume.turned() if turn else volume


def read_volume_mask(
    paths: list[Path] | tuple[Path, ...], image: Volume, classes: int = 0
) -> NDArray[np.bool_]:
    """The mask files of a volume, joined: every label above 0 is foreground.

    Args:
        paths: one or several files or folders.
        image: the volume as stored (`turn=False`) on whose grid they must lie.
        classes: how many classes are declared, background included; 0: any number.

    Returns:
        bool (D, H, W), as stored.

    Raises:
        InputError: a file that cannot be read, lies on another grid, or is no mask.
    """
    joined = np.zeros(image.geometry.shape, np.bool_)
    for path in paths:
        if path.is_dir():
            from segdistill.imaging.dicom_series import read_series_mask

            with _reasons(path):
                joined |= read_series_mask(path, image, MAX_VOXELS)
            continue
        mask = read_volume(path, turn=False)
        require_same_geometry(image, mask)
        joined |= label_mask(mask, classes)
    return joined


def _reader(path: Path) -> Callable[[Path, int, bool], Volume]:
    name = path.name.lower()
    if name.endswith((".mhd", ".mha")):
        from segdistill.imaging.metaimage import read_metaimage

        return read_metaimage
    if name.endswith((".nii", ".nii.gz")):
        from segdistill.imaging.nifti import read_nifti

        return read_nifti
    if name.endswith(".nrrd"):
        from segdistill.imaging.nrrd import read_nrrd

        return read_nrrd
    raise InputError(f"is not a volume: {', '.join(VOLUME_SUFFIXES)} and folders of DICOM files are")


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong inside into one line that names the path."""
    try:
        if not path.exists():
            raise UnreadableImage("no such file")
        if path.is_file() and path.stat().st_size == 0:
            raise UnreadableImage("is empty (0 bytes): restore the file")
        yield
    except InputError as error:
        text = str(error)
        raise UnreadableImage(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableImage(f"{path}: cannot be read ({reason}): restore the file") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise UnreadableImage(f"{path}: cannot be read ({type(error).__name__}): restore the file") from error
