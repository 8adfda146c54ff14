"""What `predict` is given: pictures, volumes, DICOM series, and folders that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segdistill.errors import InputError
from segdistill.imaging.read import READABLE_SUFFIXES
from segdistill.imaging.read_volume import VOLUME_SUFFIXES


def find_inputs(inputs: list[Path], out: Path) -> list[Path]:
    """What to segment: files as they are named, and what folders hold, sorted; each once.

    A folder of DICOM slices that lie in one patient is a volume. Any other folder is searched with what is below it,
    for pictures, volumes and such series, without hidden files and without what lies in `out`.

    Raises:
        InputError: a folder has none of them.

    >>> find_inputs([Path("a.png"), Path("./a.png")], Path("out"))
    [PosixPath('a.png')]
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        inside = list(_inside(given, out.resolve())) if given.is_dir() else [given]
        if not inside:
            known = ", ".join(sorted({*READABLE_SUFFIXES, *VOLUME_SUFFIXES}))
            raise InputError(f"no image found in {given}: looked for {known} and DICOM series")
        for path in inside:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _inside(folder: Path, results: Path) -> Iterator[Path]:

    known = (*READABLE_SUFFIXES, *VOLUME_SUFFIXES)
    series: set[Path] = set()
    nested = folder.resolve() in results.parents  # only then may the folder hold results of an earlier call
    for path in sorted([folder, *folder.rglob("*")]):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if nested and results in (path.resolve(), *path.resolve().parents):
            continue
        if path.is_dir():
            if _may_be_series(path):
                series.add(path)
                yield path
        elif path.is_file() and path.parent not in series and path.name.lower().endswith(known):
            yield path


def _may_be_series(folder: Path) -> bool:
    """Looks at names first: pydicom takes a while to load."""
    named = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".dcm", ".dicom", "") or path.suffix[1:].isdecimal()
    ]
    if sum(path.is_file() for path in named) < 2:
        return False
    from segdistill.imaging.dicom_series import is_series

    return is_series(folder)
