"""A folder to a case table: the cases, how their files are read, and every file that was not used, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdistill.data.case import Case, name_values
from segdistill.data.check import Finding
from segdistill.data.datasets import DATASETS, create_dataset, detect_dataset
from segdistill.data.datasets.base import IMAGE_SUFFIXES, is_hidden
from segdistill.data.datasets.case_table import NAME as TABLE
from segdistill.data.datasets.folder import are_known_labels, has_layout
from segdistill.data.datasets.segmentations import holds_segmentations
from segdistill.data.levels import levels_note, with_levels
from segdistill.data.shapes import DrawnCases
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.files import require_text, shown, walk_once
from segdistill.imaging.classes import Classes, Value, parse_classes
from segdistill.imaging.limits import unread_format
from segdistill.imaging.read_volume import VOLUME_SUFFIXES, is_volume, read_segments, volume_files
from segdistill.imaging.segments import stated_classes

_SHOWN = 3
_OUTSIDE = "picture or volume outside of the layout"
_IN_SERIES = "in the folder of a DICOM series"


@dataclass(frozen=True)
class Indexed:
    """What was found in a folder.

    Attributes:
        cases: as a table has them.
        unused: reason -> the files that are in no case.
        findings: what to look at: unused files, folders that were taken for labels, the levels of deep pictures.
    """

    cases: list[Case]
    unused: dict[str, list[Path]]
    findings: list[Finding]


def index_folder(
    name: str,
    path: str | Path,
    foreground: Sequence[Value] = (),
    background: Sequence[Value] = (),
    classes: Classes = (),
    drawn: Path | None = None,
    **options: Any,
) -> Indexed:
    """Indexes a dataset, and accounts for every file below its folder.

    Args:
        name: of the dataset, see `create_dataset`; "auto" finds it by its files (`detect_format`).
        path: its folder.
        foreground: the values of its mask files that are foreground.
        background: the values that are background.
        classes: the classes that its masks hold, with their values; by default those that the data set states.
        drawn: where the masks of formats without mask files are drawn, unless an option names a folder.
        options: of the dataset.

    Raises:
        InputError: as `create_dataset`, or a file whose name is not UTF-8.
    """
    findings: list[Finding] = []
    if name == "auto":
        # options are of layouts, not of a table
        name = detect_dataset(path) if options else detect_format(path)
        again = "; write folder instead of auto to read the files alone" if name == "table" else ""
        findings.append(Finding("note", (), f"{path}: taken as {name}: {DATASETS[name].summary}{again}"))
    if drawn is not None and "masks" in DATASETS.find(name).options:
        options = {"masks": str(drawn)} | options
    found = create_dataset(name, path, **options)
    if isinstance(found, DrawnCases):
        findings += [Finding("note", (), note) for note in found.notes]
    cases = name_values(found, foreground, background, classes)
    for case in cases:
        for file in case.files:
            require_text(file)
    cases = with_levels(_with_stated_classes(cases))
    unused = unused_files(Path(path), cases)
    findings += [Finding("note", (), note) for note in (unused_note(unused), levels_note(cases)) if note]
    if name == "folder" and options.get("labels", "auto") == "auto":
        findings = [*_doubtful_labels(cases), *findings]
    return Indexed(cases, unused, findings)


def detect_format(path: str | Path) -> str:
    r"""The dataset or format that a folder holds, for `create_dataset`.

    A sign in the folder itself counts first (`detect_dataset`), then its own case table, then signs in the folders
    below, then the layouts of own images, then masks that name their structures.

    Raises:
        InputError: no such folder, or the signs of several.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "cases.csv").write_text("id,image\na,a.png\n")
    >>> (folder / "a.png").touch()
    >>> detect_format(folder)
    'table'
    """
    name = detect_dataset(path, depth=0)
    if name != "folder":
        return name
    if _is_tabled(Path(path)):
        return "table"
    name = detect_dataset(path)
    if name == "folder" and not has_layout(Path(path)) and holds_segmentations(Path(path)):
        return "segmentations"
    return name


def _is_tabled(path: Path) -> bool:
    """Whether a case table in the folder names all of its pictures and volumes: an older one would hide new files."""
    if not (path / TABLE).is_file():
        return False
    try:
        cases = read_cases(path / TABLE)
    except InputError:  # of another program
        return False
    if not all(file.exists() for case in cases for file in case.files):
        return False
    return not {_OUTSIDE, _IN_SERIES} & set(unused_files(path, cases))


def _with_stated_classes(cases: list[Case]) -> list[Case]:
    """The cases with the classes that their mask files name, where all of them do and nobody has named others."""
    drawn = [case for case in cases if case.masks]
    if not drawn or not all(case.names_structures for case in drawn):
        return cases
    if any(case.reading.is_named or case.classes for case in drawn):
        return cases
    classes = stated_classes([read_segments(file) for case in drawn for file in case.masks])
    return [replace(case, classes=parse_classes(classes)) for case in cases] if classes else cases


def _doubtful_labels(cases: Sequence[Case]) -> list[Finding]:
    labels = sorted({case.label for case in cases if case.label})
    if are_known_labels(labels):
        return []
    few = ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    message = (
        f"the folders {few} are taken for labels: if they are patients, index again with --groups folders"
    )
    return [Finding("warning", (), f"{message}; if they are labels, --labels folders says so")]


def unused_files(path: Path, cases: Iterable[Case]) -> dict[str, list[Path]]:
    """Reason -> the files below a folder that no case uses, sorted.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "notes.txt").touch()
    >>> [(reason, [file.name for file in files]) for reason, files in unused_files(folder, []).items()]
    [('no picture or volume', ['notes.txt'])]
    """
    used, series = set(), set()
    for file in (file for case in cases for file in case.files):
        used.add(os.path.realpath(file))
        if is_volume(file):
            series.add(os.path.realpath(file))
            used.update(os.path.realpath(part) for part in _parts(file))
    found: dict[str, list[Path]] = {}
    for file in _files(path):
        if os.path.realpath(file) not in used:
            found.setdefault(_reason(file, os.path.realpath(file.parent) in series), []).append(file)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _parts(volume: Path) -> list[Path]:
    try:
        return volume_files(volume)
    except InputError:  # reading it says why
        return []


def _files(path: Path) -> Iterator[Path]:
    for folder, _, names in walk_once(path):
        yield from (Path(folder, name) for name in names)


def _reason(file: Path, in_series: bool) -> str:
    name = file.name.lower()
    if any(is_hidden(part) for part in file.parts[1:]):
        return "hidden or left by a system"
    if in_series:
        return _IN_SERIES
    if name.endswith((*IMAGE_SUFFIXES, *VOLUME_SUFFIXES)):
        return _OUTSIDE
    return unread_format(file) or "no picture or volume"


def unused_note(unused: dict[str, list[Path]]) -> str:
    """One line on the files that were not used, with their number by reason; "" where all were.

    >>> unused_note({"no picture or volume": [Path("a.txt"), Path("b.txt")]})
    'not used: 2 files: no picture or volume 2 (a.txt, b.txt)'
    """
    total = sum(map(len, unused.values()))
    if not total:
        return ""
    parts = []
    for reason, files in unused.items():
        few = ", ".join(shown(file) for file in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")
        parts.append(f"{reason} {len(files)} ({few})")
    return f"not used: {total} file{'s' * (total != 1)}: {'; '.join(parts)}"
