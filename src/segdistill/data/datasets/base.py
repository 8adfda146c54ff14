"""What the adapters of datasets share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from segdistill.errors import InputError
from segdistill.imaging.dicom_series import series_files
from segdistill.imaging.read import READABLE_SUFFIXES
from segdistill.imaging.read_volume import VOLUME_SUFFIXES, may_be_series

IMAGE_SUFFIXES = tuple(sorted(READABLE_SUFFIXES))


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


def stem_of(file: Path) -> str:
    """The name of a picture, a volume or a series without its suffix, in the composed form of Unicode (NFC).

    >>> [stem_of(Path(name)) for name in ("a.b.png", "c1.nii.gz", "mu\u0308.mhd")]
    ['a.b', 'c1', 'mü']
    """
    end = next((suffix for suffix in VOLUME_SUFFIXES if file.name.lower().endswith(suffix)), file.suffix)
    name = file.name if file.is_dir() else file.name[: len(file.name) - len(end)]
    return unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems and tools leave behind.

    >>> is_hidden(".DS_Store"), is_hidden("__MACOSX"), is_hidden("1.png")
    (True, True, False)
    """
    return name.startswith((".", "__MACOSX", "~$")) or name.lower() in ("thumbs.db", "desktop.ini")


def list_data(folder: Path, more: tuple[str, ...] = ()) -> list[Path]:
    """Pictures and volumes of a folder (not of its sub-folders) in natural order: files, and folders of a DICOM series.

    Args:
        folder: where they lie.
        more: further suffixes, such as ".gif" for masks.
    """
    known = (*IMAGE_SUFFIXES, *VOLUME_SUFFIXES, *more)
    found = [
        path
        for path in folder.iterdir()
        if not is_hidden(path.name)
        and (may_be_series(path) if path.is_dir() else path.name.lower().endswith(known))
    ]
    return sorted(found, key=lambda path: natural_key(path.name))


def list_folders(folder: Path) -> list[Path]:
    """The sub-folders that are neither hidden, nor a DICOM series, nor a link to a folder above, in natural order."""
    above = {folder.resolve(), *folder.resolve().parents}
    found = [
        path
        for path in folder.iterdir()
        if path.is_dir() and not is_hidden(path.name) and not (path.is_symlink() and path.resolve() in above)
    ]
    return sorted(
        (path for path in found if not may_be_series(path)), key=lambda path: natural_key(path.name)
    )


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
