"""Folders of DICOM slices below a patient's folder, as archives hand them out."""

from __future__ import annotations

from pathlib import Path

from segdistill.data.datasets.base import natural_key
from segdistill.imaging.dicom_series import series_files


def series_folders(folder: Path) -> list[Path]:
    """The folders at or below `folder` that hold DICOM files themselves, in natural order."""
    below = [child for child in folder.rglob("*") if child.is_dir() and not child.name.startswith(".")]
    found = [place for place in (folder, *below) if series_files(place)]
    return sorted(found, key=lambda place: natural_key(str(place.relative_to(folder))))


def first_header(folder: Path, tag: str) -> str:
    """A tag of a series' first file as text; "" where it has none.

    >>> import tempfile
    >>> first_header(Path(tempfile.mkdtemp()), "Modality")
    ''
    """
    import pydicom

    files = series_files(folder)
    try:
        return (
            str(pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=[tag]).get(tag, ""))
            if files
            else ""
        )
    except Exception:  # pydicom raises whatever a damaged header leads to; reading the series will say so
        return ""
