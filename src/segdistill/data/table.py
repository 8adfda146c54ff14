"""cases.csv: the case table as a file that people can read and edit."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from segdistill.data.case import SPLITS, Case, require_unique
from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.registry import near_names, nearest

COLUMNS = ("id", "group", "image", "masks", "label", "site", "box", "spacing_mm", "split")
_EXTRA = ("resize_mask", "classes")  # written only when a case needs them


def write_cases(cases: Sequence[Case], path: str | Path) -> None:
    """Writes the table; files below its folder by relative path, others by absolute path; masks joined by
    ';'.

    Raises:
        InputError: ids that repeat, a path with ';', or a folder that cannot be written.

    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "cases.csv"
    >>> write_cases([Case("a", table.parent / "a.png", label="benign")], table)
    >>> print(table.read_text().splitlines()[1])
    a,,a.png,,benign,,,,
    """
    path = Path(path)
    require_unique(cases)
    columns = [*COLUMNS, *(name for name in _EXTRA if any(getattr(case, name) for case in cases))]
    rows = [_to_row(case, path) for case in cases]
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_cases(path: str | Path) -> list[Case]:
    r"""Reads and checks a table; relative files are looked for beside the table. Further columns are ignored.

    Raises:
        InputError: no such file, a missing or misspelled column, or a bad value (names row and column).

    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "cases.csv"
    >>> _ = table.write_text("id,image,split\na,a.png,train\n")
    >>> [(case.id, case.image.name, case.split) for case in read_cases(table)]
    [('a', 'a.png', 'train')]
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder: give the case table inside it, or index it: segdistill data index"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such case table: make one with segdistill data index") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a case table, which is UTF-8 text: give a cases.csv, as segdistill data index makes it"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    reader = csv.DictReader(text.splitlines())
    try:
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        _check_header(header, path)
        cases = [_from_row(row, path, number) for number, row in enumerate(reader, start=2)]
    except csv.Error as error:
        raise InputError(f"{path}: not a comma-separated table: {error}") from error
    if not cases:
        raise InputError(f"{path}: the table has no rows: add cases or index a dataset")
    try:
        require_unique(cases)
    except InputError as error:
        raise InputError(f"{path}: column 'id': {error}") from error
    return cases


def _check_header(header: Sequence[str], path: Path) -> None:
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise InputError(f"{path}: its columns are separated by {name}: save it with commas")
    for column in ("id", "image"):
        if column not in header:
            raise InputError(f"{path}: column '{column}' is missing: the columns are {', '.join(COLUMNS)}")
    known = {*COLUMNS, *_EXTRA}
    for name in header:
        meant = [] if name in known else nearest(name.lower(), known)
        if meant and meant[0] not in header:
            raise InputError(f"{path}: unknown column '{name}': {near_names(name.lower(), known)}")


def _from_row(row: dict[str, str | None], path: Path, number: int) -> Case:
    def bad(column: str, why: str) -> InputError:
        return InputError(f"{path}: row {number}, column '{column}': {why}")

    def text(column: str) -> str:
        return (row.get(column) or "").strip()

    def numbers(column: str, count: int, example: str) -> list[float] | None:
        parts = text(column).split()
        if not parts:
            return None
        try:
            values = [float(part) for part in parts]
        except ValueError:
            values = []
        if len(values) != count:
            raise bad(column, f"'{text(column)}' is not {count} numbers: write them as '{example}'")
        return values

    if None in row:
        raise bad("split", "more values than columns: quote values that contain a comma")
    for column in ("id", "image"):
        if not text(column):
            raise bad(column, "is empty: every case needs one")
    if text("split") not in ("", *SPLITS):
        raise bad("split", f"'{text('split')}' is not one of train, val, test or empty")
    box = numbers("box", 4, "left top right bottom")
    if box is not None:
        named, advice = f"'{text('box')}' of case '{text('id')}'", "write left top right bottom in pixels"
        if not all(value.is_integer() for value in box):  # shares of the image, such as 0.2, are refused here
            raise bad("box", f"{named} is not whole pixels: {advice}")
        if not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
            raise bad("box", f"{named} is empty, inverted or negative: {advice}")
    three = len(text("spacing_mm").split()) == 3
    spacing = numbers("spacing_mm", 3, "3.0 0.5 0.5") if three else numbers("spacing_mm", 2, "0.1 0.1")
    if spacing is not None and not all(0 < value < float("inf") for value in spacing):
        raise bad(
            "spacing_mm",
            f"'{text('spacing_mm')}' must be {'three' if three else 'two'} positive numbers of millimetres",
        )
    if text("resize_mask").lower() not in ("", "yes", "no"):
        raise bad("resize_mask", f"'{text('resize_mask')}' is not yes, no or empty")
    if text("classes") and not (text("classes").isdecimal() and int(text("classes")) != 1):
        raise bad(
            "classes", f"'{text('classes')}' is not the number of classes, background included, or empty"
        )
    folder = Path(os.path.abspath(path.parent))
    return Case(
        id=text("id"),
        image=folder / text("image"),
        masks=tuple(folder / part.strip() for part in text("masks").split(";") if part.strip()),
        group=text("group"),
        label=text("label"),
        site=text("site"),
        box=(int(box[0]), int(box[1]), int(box[2]), int(box[3])) if box else None,
        spacing_mm=_spacing(spacing),
        split=text("split"),
        resize_mask=text("resize_mask").lower() == "yes",
        classes=int(text("classes") or 0),
    )


def _to_row(case: Case, table: Path) -> dict[str, str]:
    folder = Path(os.path.abspath(table.parent))
    files = [_relative(file, folder) for file in (case.image, *case.masks)]
    for file in files:
        if ";" in file or "\n" in file:
            raise InputError(f"{file}: a ';' in a file name cannot be kept in the table: rename the file")
    return {
        "id": case.id,
        "group": case.group,
        "image": files[0],
        "masks": ";".join(files[1:]),
        "label": case.label,
        "site": case.site,
        "box": _join(case.box),
        "spacing_mm": _join(case.spacing_mm),
        "split": case.split,
        "resize_mask": "yes" if case.resize_mask else "",
        "classes": str(case.classes) if case.classes else "",
    }


def _spacing(values: Sequence[float] | None) -> tuple[float, float] | tuple[float, float, float] | None:
    if values is None:
        return None
    return (values[0], values[1], values[2]) if len(values) == 3 else (values[0], values[1])


def _join(values: Iterable[float] | None) -> str:
    return " ".join(f"{value!r}" for value in values) if values is not None else ""


def _relative(file: Path, folder: Path) -> str:
    absolute = Path(os.path.abspath(file))
    return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()
