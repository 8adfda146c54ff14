"""Frames of videos: a folder of pictures per scan, as sets like LA-Net's private MBUD come.

    ROOT/CLASS/SCAN/0001.png      classes by folder (any names, two or more; or benign, malignant, normal)
    ROOT/SCAN/0001.png            classes by table, or none
    ROOT/labels.csv               any tables: columns scan, and some of frame, label, patient, box

The folders may lie inside frames/, rawframes/, images/, videos/ or scans/. A frame is named by a number, be there
what may before it ("050_IM00009 video_105.png" is frame 105). Masks are optional: beside their frame (0001_mask.png)
or in masks/ with the same folders inside. A table's row without a frame is about the whole scan; box is left, top,
right, bottom in pixels, right and bottom exclusive, and four zeros, as in MBUD's lists, mean that none is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import (
    find_root,
    list_images,
    natural_key,
    require_pairs,
    subfolder,
)
from segdistill.data.datasets.folder import IMAGES, MASKS, mask_key, pair
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
        boxes: (scan, frame) -> (left, top, right, bottom); where: the row it comes from, for messages.
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
            f"{where}: {what} '{value}' where another row has '{known[key]}': correct one of them"
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


_WRAPPERS = ("frames", "rawframes", "images", "videos", "scans")
_CLASSES = ("benign", "malignant", "normal")
_NO_SCAN = {*IMAGES, *MASKS, *_WRAPPERS}
_NO_CLASS = {*_NO_SCAN, "train", "training", "val", "valid", "validation", "test"}
_WHAT = "a folder per scan with numbered frames, such as benign/scan-1/0001.png or scan-1/0001.png"


@dataclass(frozen=True)
class _Scan:
    """One scan: its folder, its class by folder, and its name among all scans."""

    folder: Path
    label: str
    key: str

    @property
    def name(self) -> str:
        return self.folder.name.lower()


@register_dataset(
    "frames",
    "Frames of videos: a folder of pictures per scan (layout of sets like MBUD, Fan et al. 2023)",
    how_to_get=(
        "Your own: one folder per scan with numbered frames, inside a folder per class or with a table "
        "(scan, label, patient; scan, frame, box). MBUD itself is private."
    ),
)
def index(path: Path) -> list[Case]:
    """One case per frame, scan by scan in the order of their numbers; all frames of a scan, or of a patient where a
    table names patients, share a group, so that no split tears them apart.

    A frame has its mask, else its box, else no reference: `segdistill data index frames ROOT --unlabelled`.

    Raises:
        InputError: no such layout, a frame without a number or two with one, a mask without frame, or a table that
            adds what the folders do not hold.
    """
    root = find_root(path, lambda folder: bool(_scans(folder)), _WHAT)
    scans = _scans(root)
    for scan in scans:
        if not scan.label and scan.name in _CLASSES:
            raise InputError(
                f"{scan.folder}: pictures lie in the folder of a class: put the frames of each scan into a folder of "
                "their own, such as benign/scan-1"
            )
    tables = read_frame_tables(root)
    _require_known(scans, tables)
    masks = subfolder(root, MASKS)
    cases = [case for scan in scans for case in _read(scan, masks, tables)]
    _require_frames(cases, scans, tables)
    if masks is not None:
        _require_scans(masks, scans)
    return cases


def _folders(folder: Path, without: set[str]) -> list[Path]:
    found = [
        child
        for child in folder.iterdir()
        if child.is_dir() and child.name[0] not in "._" and child.name.lower() not in without
    ]
    return sorted(found, key=lambda child: natural_key(child.name))


def _scans(root: Path) -> list[_Scan]:
    """The scans below a folder; none where it has another layout."""
    place = subfolder(root, _WRAPPERS) or root
    plain: list[_Scan] = []
    classes: dict[str, list[_Scan]] = {}
    for child in _folders(place, _NO_SCAN):
        if list_images(child):
            plain.append(_Scan(child, "", child.name))
            continue
        inside = [scan for scan in _folders(child, _NO_SCAN) if list_images(scan)]
        if inside and child.name.lower() not in _NO_CLASS:
            label = plain_label(child.name)
            classes[label] = [_Scan(scan, label, f"{child.name}/{scan.name}") for scan in inside]
    if len(classes) == 1 and not set(classes) <= set(_CLASSES):
        classes = {}  # a folder above the scans that is no class
    return plain + [scan for found in classes.values() for scan in found]


def _read(scan: _Scan, masks: Path | None, tables: FrameTables) -> list[Case]:
    files = list_images(scan.folder)
    stems = {file.stem for file in files}
    beside = [
        file
        for file in files
        if mask_key(file.stem) != file.stem and (mask_key(file.stem) in stems or "mask" in file.stem.lower())
    ]
    frames = _numbered([file for file in files if file not in set(beside)])
    found = beside + (list_images(place) if (place := _below(masks, scan)) is not None else [])
    pairs = pair(list(frames.values()), found)
    by_table = tables.labels.get(scan.name, "")
    cases = []
    for number, file in sorted(frames.items()):
        shown = tables.frame_labels.get((scan.name, number), by_table)
        if scan.label and shown and shown != scan.label:
            raise InputError(
                f"{file}: lies in '{scan.label}', but {tables.source} has '{shown}': correct one of them"
            )
        label = scan.label or shown
        if not label and (tables.labels or tables.frame_labels):
            raise InputError(f"{file}: {tables.source} names no class for it: add a row, or move it away")
        cases.append(
            Case(
                f"{scan.key}/{file.stem}",
                file,
                pairs[file],
                group=tables.patients.get(scan.name, scan.key),
                label=label,
                box=None if pairs[file] else tables.boxes.get((scan.name, number)),
            )
        )
    return cases


def _numbered(files: list[Path]) -> dict[int, Path]:
    frames: dict[int, Path] = {}
    for file in files:
        number = frame_number(file.name)
        if number is None:
            raise InputError(f"{file}: frame without a number: number it as the others, or move it away")
        if number in frames:
            raise InputError(f"{file} and {frames[number].name} are both frame {number}: rename one of them")
        frames[number] = file
    return frames


def _below(masks: Path | None, scan: _Scan) -> Path | None:
    """The folder of a scan's masks inside masks/: with the class's folder above it, or without."""
    if masks is None:
        return None
    *above, name = scan.key.lower().split("/")
    inside = subfolder(masks, above) if above else masks
    return subfolder(inside or masks, [name])


def _require_known(scans: list[_Scan], tables: FrameTables) -> None:
    by_name: dict[str, _Scan] = {}
    for scan in scans:
        other = by_name.setdefault(scan.name, scan)
        if other is not scan and scan.name in tables.scans:
            raise InputError(
                f"{tables.source}: scan '{scan.folder.name}' is both {other.key} and {scan.key}: rename a folder"
            )
    for name in sorted(tables.scans - set(by_name)):
        raise InputError(f"{tables.source}: there is no folder of scan '{name}': add it, or remove its rows")


def _require_frames(cases: list[Case], scans: list[_Scan], tables: FrameTables) -> None:
    there = {(case.image.parent.name.lower(), frame_number(case.image.name)) for case in cases}
    for (scan, number), where in tables.where.items():
        if (scan, number) not in there:
            raise InputError(f"{where}: scan '{scan}' has no frame {number}: correct the row, or remove it")


def _require_scans(masks: Path, scans: list[_Scan]) -> None:
    """Refuses masks of scans that are not there."""
    used = {place for scan in scans if (place := _below(masks, scan)) is not None}
    for folder in sorted(path for path in masks.rglob("*") if path.is_dir() and path not in used):
        require_pairs(list_images(folder))
    require_pairs(list_images(masks))
