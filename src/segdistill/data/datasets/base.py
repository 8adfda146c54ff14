"""What the adapters of datasets share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from segdistill.errors import InputError
from segdistill.imaging.dicom_series import series_files

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".dcm")


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts "case 2" before "case 10".

    >>> sorted(["case 10", "case 2"], key=natural_key)
    ['case 2', 'case 10']
    """
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part.lower()) for part in parts if part]


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder (not of its sub-folders) in natural order; hidden files are skipped."""
    files = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    return sorted(files, key=lambda path: natural_key(path.name))


def subfolder(folder: Path, names: Iterable[str]) -> Path | None:
    """The sub-folder with one of these names, whatever its case; the first name wins."""
    if not folder.is_dir():
        return None
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def find_root(path: Path, fits: Callable[[Path], bool], what: str, depth: int = 2) -> Path:
    """The folder at `path`, or at most `depth` levels below it, that `fits`.

    Raises:
        InputError: there is none, or more than one on the same level; the message names what was looked for.
    """
    path = Path(path)
    if not path.is_dir():
        wrong = "is a file, not a folder" if path.exists() else "no such folder"
        raise InputError(f"{path}: {wrong}: give the folder that holds {what}")
    level = [path]
    for _ in range(depth + 1):
        found = [folder for folder in level if fits(folder)]
        if len(found) > 1:
            names = ", ".join(folder.name for folder in found[:3])
            raise InputError(
                f"{path}: {len(found)} folders in it hold {what} ({names}): give one of them, or the name of the "
                "published dataset that they belong to (segdistill list datasets)"
            )
        if found:
            return found[0]
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
    raise InputError(f"{path} is not this dataset: looked for {what} there and in {depth} levels below")


def require_pairs(masks_left: Sequence[Path]) -> None:
    """Raises InputError when masks are left without an image."""
    if masks_left:
        names = ", ".join(str(path) for path in masks_left[:3])
        more = f" and {len(masks_left) - 3} more" if len(masks_left) > 3 else ""
        raise InputError(
            f"mask without image: {names}{more}: restore the image, or rename or remove the mask"
        )


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
    from segdistill.imaging.dicom import read_tags

    files = series_files(folder)
    try:
        return str(read_tags(files[0], [tag]).get(tag, "")) if files else ""
    except Exception:  # pydicom raises whatever a damaged header leads to; reading the series reports it
        return ""
