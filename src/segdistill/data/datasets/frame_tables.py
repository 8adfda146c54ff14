"""What tables beside a folder of frames say: class and patient of a scan, class and box of a frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdistill.data.datasets.pairs import plain_label, table_rows
from segdistill.errors import InputError

Box = tuple[int, int, int, int]
_COLUMNS = {
    "scan": ("scan", "video", "series", "clip"),
    "frame": ("frame", "image", "file", "filename"),
    "label": ("label", "class", "type", "pathology", "diagnosis"),
    "patient": ("patient", "group", "subject"),
    "box": ("box", "bbox"),
}


@dataclass
class FrameTables:
    """Tables read: a scan by its name in small letters; a frame by its scan and number.

    Attributes:
        source: names of the files.
        scans: all that any row names.
        labels: scan -> class; frame_labels: (scan, frame) -> class.
        patients: scan -> patient.
        boxes: (scan, frame) -> (left, top, right, bottom); where: the row that says so, for messages.
    """

    source: str = ""
    scans: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    frame_labels: dict[tuple[str, int], str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    boxes: dict[tuple[str, int], Box] = field(default_factory=dict)
    where: dict[tuple[str, int], str] = field(default_factory=dict)


def frame_number(name: str) -> int | None:
    """The last number in a frame's name without suffix; None without any.

    >>> [frame_number(name) for name in ("050_scan 9_105.png", "frame-0007", "12.0", "cover.png")]
    [105, 7, 12, None]
    """
    if re.fullmatch(r"\d+\.0*", name):  # a number as spreadsheets write it
        return int(float(name))
    found = re.findall(r"\d+", re.sub(r"\.[A-Za-z]+\d?$", "", name.replace("\\", "/").split("/")[-1]))
    return int(found[-1]) if found else None


def read_frame_tables(root: Path) -> FrameTables:
    """All .csv and .xlsx files of a folder but cases.csv, joined. A row without a frame is about the whole scan.

    Raises:
        InputError: no column of scans, a bad value, or two rows that contradict each other (names file and row).
    """
    tables = FrameTables()
    files = [
        file
        for file in sorted(root.iterdir())
        if file.suffix.lower() in (".csv", ".xlsx")
        and file.name != "cases.csv"
        and not file.name.startswith(("~", "."))
    ]
    for file in files:
        rows = table_rows(file)
        columns = _columns(rows[0] if rows else [], file)
        for number, row in enumerate(rows[1:], start=2):
            cells = {name: row[at].strip() for name, at in columns.items() if at < len(row)}
            if any(cells.values()):
                _read_row(tables, cells, f"{file}, row {number}")
    tables.source = " and ".join(file.name for file in files)
    return tables


def _columns(header: Sequence[str], file: Path) -> dict[str, int]:
    plain = [cell.strip().lower() for cell in header]
    found = {
        name: next(plain.index(word) for word in words if word in plain)
        for name, words in _COLUMNS.items()
        if any(word in plain for word in words)
    }
    if "scan" not in found:
        raise InputError(
            f"{file}: no column 'scan': its columns are to be scan, and any of frame, label, patient, box; "
            "or move the table away"
        )
    return found


def _read_row(tables: FrameTables, cells: dict[str, str], where: str) -> None:
    scan = cells.get("scan", "").replace("\\", "/").strip("/").split("/")[-1].lower()
    if not scan:
        raise InputError(f"{where}: the column 'scan' is empty: name the folder of the scan")
    tables.scans.add(scan)
    patient, label, frame = (
        cells.get("patient", ""),
        plain_label(cells.get("label", "")),
        cells.get("frame", ""),
    )
    if patient:
        _put(tables.patients, scan, patient, "patient", where)
    number = frame_number(frame)
    if frame and number is None:
        raise InputError(f"{where}: frame '{frame}' has no number: give the frame's number or file name")
    if number is None:
        if label:
            _put(tables.labels, scan, label, "label", where)
        if cells.get("box"):
            raise InputError(f"{where}: a box without a frame: fill in the column 'frame'")
        return
    tables.where[scan, number] = where
    if label:
        _put(tables.frame_labels, (scan, number), label, "label", where)
    if box := _box(cells.get("box", ""), where):
        _put(tables.boxes, (scan, number), box, "box", where)


def _put(known: dict[Any, Any], key: object, value: object, what: str, where: str) -> None:
    if known.setdefault(key, value) != value:
        raise InputError(
            f"{where}: {what} '{value}' where another row says '{known[key]}': correct one of them"
        )


def _box(text: str, where: str) -> Box | None:
    """Four numbers with spaces, colons, commas or semicolons between; four zeros mean that none is known."""
    if not text:
        return None
    parts = re.split(r"[\s:,;]+", text.strip("()[] "))
    try:
        left, top, right, bottom = (float(part) for part in parts)
    except ValueError as error:
        raise InputError(f"{where}: box '{text}' is not four numbers: write left top right bottom") from error
    if not all(value.is_integer() for value in (left, top, right, bottom)):
        raise InputError(f"{where}: box '{text}' is not whole pixels: write left top right bottom in pixels")
    if (left, top, right, bottom) == (0, 0, 0, 0):
        return None
    if not (0 <= left < right and 0 <= top < bottom):
        raise InputError(f"{where}: box '{text}' is empty, inverted or negative: write left top right bottom")
    return int(left), int(top), int(right), int(bottom)
