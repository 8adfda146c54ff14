"""A folder of predictions that another tool wrote, as a teacher: which file belongs to which case, and its probability.

Read are grey and index pictures, NIfTI, MetaImage and NRRD with labels or probabilities, one file per class in a
folder per case (TotalSegmentator), SUBJECT/SUBJECT_trans.nii.gz (MONAI), and .npz files of nnU-Net with the
segmentation beside them, also in its folders fold_0/validation, fold_1/validation and so on.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case, file_hash
from segdistill.data.datasets.base import is_hidden, natural_key, stem_of
from segdistill.data.opened import first_volume
from segdistill.data.prediction_files import (
    Entry,
    Reading,
    grey_holds_labels,
    is_prediction,
    json_beside,
    read_picture_map,
    read_volume_map,
)
from segdistill.data.table import text_rows
from segdistill.errors import InputError
from segdistill.files import real_path, sha256_text, shown
from segdistill.imaging.read import READABLE_SUFFIXES, image_size
from segdistill.imaging.read_volume import VOLUME_SUFFIXES
from segdistill.imaging.regrid import on_grid
from segdistill.imaging.volume import Volume

_VERSION = 1  # of what `Predictions.map` makes of a file
_ASPECT = 0.01  # by which height : width of a picture and its prediction may differ
_FOLD = re.compile(r"fold_(\d+)")
_CHANNEL = re.compile(r"_0000$")
_SHOWN = 3


@dataclass(frozen=True)
class PredictionSource:
    """Where predictions lie, and what of them is the foreground.

    Attributes:
        folder: holds a file or a folder per case; or nnU-Net's folder that holds fold_0, fold_1, ...
        foreground: names or values that become the one class; None where there is only one.
        table: a CSV file with the columns case and file (below `folder`), where names do not fit.
        hard_probability: what a hard label becomes; the background becomes 1 - it.

    Raises:
        InputError: a probability that is not above 0.5 and at most 1, or a foreground without entries.

    >>> PredictionSource(Path("predictions"), ("spleen",)).hard_probability
    0.98
    """

    folder: Path
    foreground: tuple[int | str, ...] | None = None
    table: Path | None = None
    hard_probability: float = 0.98

    def __post_init__(self) -> None:
        if not 0.5 < self.hard_probability <= 1:
            raise InputError(
                f"hard_probability is {self.hard_probability}: it must be above 0.5 and at most 1, such as 0.98"
            )
        if self.foreground is not None and not self.foreground:
            raise InputError("foreground names nothing: write a class, such as foreground: [1], or remove it")


@dataclass(frozen=True)
class Predictions:
    """The predictions of a table's cases.

    Attributes:
        source: where they lie.
        files: case -> its file, or its files: one per class, or an .npz file and the segmentation beside it.
        missing: the cases without prediction.
        unused: files that belong to no case.
        folds: case -> fold (counted from 1, as everywhere; nnU-Net counts from 0), where the folder is nnU-Net's: its
            network was not trained on the case. {} otherwise.
        note: coverage in one line.

    Made by `open_predictions`.
    """

    source: PredictionSource
    files: dict[str, Path | tuple[Path, ...]]
    missing: list[str]
    unused: list[Path]
    folds: dict[str, int]
    note: str
    _entries: dict[str, Entry]
    _reading: Reading

    def map(self, case: Case) -> NDArray[np.float32]:
        """The probability of the foreground, from 0 to 1.

        Args:
            case: one of `files`.

        Returns:
            of a picture (H, W), upright as `read_picture` gives it, at the prediction's own size, which has the
            picture's field of view; of a volume (D, H, W) on the grid of `open_case`.

        Raises:
            InputError: a file that cannot be read, another field of view, values that are no probabilities, or several
                classes of which `foreground` chooses none.
        """
        if case.id not in self._entries:
            raise InputError(
                f"{self.source.folder}: has no prediction of the case '{case.id}': predict it, or drop it"
            )
        entry = self._entries[case.id]
        if entry.place.name.lower().endswith(".npz") and entry.segmentation is None:
            raise InputError(
                f"{shown(entry.place)}: has no segmentation beside it, with which it is checked: restore the file that "
                "nnU-Net wrote with it"
            )
        return (
            _volume_map(case, entry, self._reading)
            if case.is_volume
            else _picture_map(case, entry, self._reading)
        )


def _picture_map(case: Case, entry: Entry, reading: Reading) -> NDArray[np.float32]:
    found = read_picture_map(entry, reading)
    (height, width), (own_height, own_width) = found.shape, image_size(case.image)
    if abs(height * own_width / (width * own_height) - 1) <= _ASPECT:
        return found
    swapped = abs(width * own_width / (height * own_height) - 1) <= _ASPECT
    raise InputError(
        f"{shown(entry.place)}: is of {height} x {width} pixels, but its image {case.image.name} of {own_height} x "
        f"{own_width}: height and width must have one ratio, to 1 %: "
        + ("turn the prediction, as EXIF turns the image" if swapped else "predict the whole image")
    )


def _volume_map(case: Case, entry: Entry, reading: Reading) -> NDArray[np.float32]:
    image = first_volume(case, turn=False)
    joined: NDArray[np.float32] | None = None
    for part in read_volume_map(entry, reading):
        values = on_grid(part, image)
        joined = values if joined is None else np.maximum(joined, values)
    assert joined is not None
    return np.ascontiguousarray(Volume(joined, None, entry.place, image.geometry).turned().voxels)


def open_predictions(source: PredictionSource, cases: Sequence[Case]) -> Predictions:
    """Finds the prediction of every case, by its id, by its image's name (without _0000), or by a table.

    Links that lead out of the folder are not followed.

    Args:
        source: where they lie.
        cases: of a table.

    Raises:
        InputError: no such folder, no prediction of any case (names are shown), several of one case, a file that fits
            several cases, a table that does not fit, or predictions without foreground in all cases; and what
            `Predictions.map` raises, of the first cases up to one with foreground.
    """
    if not source.folder.is_dir():
        raise InputError(
            f"{source.folder}: no such folder: give the folder with the predictions of a teacher"
        )
    found = _listed(source, cases) if source.table else _matched(source.folder, cases)
    entries = {case.id: found.entries[case.id] for case in cases if case.id in found.entries}
    if not entries:
        raise _covers_nothing(source.folder, cases, found.unused)
    entries = {name: _completed(entry, source) for name, entry in entries.items()}
    pictures = (
        file
        for case in cases
        if not case.is_volume and case.id in entries and entries[case.id].segmentation is None
        for file in entries[case.id].files
        if file.suffix.lower() in READABLE_SUFFIXES
    )
    foreground = source.foreground or ()
    reading = Reading(foreground, source.hard_probability, grey_holds_labels(pictures, foreground))
    predictions = Predictions(
        source=source,
        files={
            name: entry.files if len(entry.files) > 1 else entry.files[0] for name, entry in entries.items()
        },
        missing=[case.id for case in cases if case.id not in entries],
        unused=found.unused,
        folds={name: found.folds[name] for name in entries if name in found.folds},
        note=_note(len(entries), len(cases), found),
        _entries=entries,
        _reading=reading,
    )
    covered = [case for case in cases if case.id in entries]
    if not any((predictions.map(case) >= 0.5).any() for case in covered):
        raise InputError(
            f"{source.folder}: is empty in all {len(covered)} cases: no probability reaches 0.5: check the folder and "
            "foreground"
        )
    return predictions


def hash_of(predictions: Predictions) -> str:
    """Hash of all that decides the maps of these predictions: the content of their files and how they are read.

    Raises:
        InputError: a file cannot be read.
    """
    rows = [
        [
            name,
            [[part, file_hash(file)] for part, file in entry.parts.items()]
            or [file_hash(f) for f in entry.files],
        ]
        for name, entry in sorted(predictions._entries.items())
    ]
    names = sorted({file_hash(entry.names) for entry in predictions._entries.values() if entry.names})
    reading = predictions._reading
    how = [list(reading.foreground), reading.hard, reading.grey_is_labels]
    return sha256_text(json.dumps([_VERSION, how, names, rows]))


def read_trained_on(value: str | Path, cases: Sequence[Case]) -> set[str] | None:
    """The cases that a teacher was trained on.

    Args:
        value: "all", "none", "unknown", or a file with case ids, one a line; those of other tables do no harm.
        cases: of the table.

    Returns:
        their ids; None where it is unknown.

    Raises:
        InputError: the file cannot be read, or names none of the cases.

    >>> read_trained_on("all", [Case("a", Path("a.png"))]), read_trained_on("unknown", [])
    ({'a'}, None)
    """
    ids = {case.id for case in cases}
    if str(value) in ("all", "none", "unknown"):
        return {"all": ids, "none": set[str](), "unknown": None}[str(value)]
    try:
        lines = Path(value).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(
            f"trained_on is {str(value)!r}, which cannot be read ({error.strerror}): it must be all, none, unknown or "
            "a file of case ids, one a line"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{value}: is not UTF-8 text: write case ids, one a line") from error
    named = {line.strip() for line in lines if line.strip()}
    if not named & ids:
        example = f" ({sorted(named)[0]!r}, ...)" if named else ""
        raise InputError(
            f"{value}: names none of the {len(ids)} cases{example}: write case ids, one a line, or trained_on: none"
        )
    return named & ids


@dataclass(frozen=True)
class _Found:
    """What was found in a folder."""

    entries: dict[str, Entry]
    unused: list[Path]
    folds: dict[str, int]
    links: int = 0


def _note(covered: int, total: int, found: _Found) -> str:
    parts = [f"predictions of {covered} of {total} cases"]
    if found.unused:
        names = ", ".join(shown(path.name) for path in found.unused[:_SHOWN])
        more = ", ..." if len(found.unused) > _SHOWN else ""
        files = "1 file" if len(found.unused) == 1 else f"{len(found.unused)} files"
        parts.append(f"{files} of no case: {names}{more}")
    if found.links:
        parts.append(f"links out of the folder, not followed: {found.links}")
    return ", ".join(parts)


def _covers_nothing(folder: Path, cases: Sequence[Case], unused: list[Path]) -> InputError:
    if not unused:
        return InputError(
            f"{folder}: holds no predictions: PNG, NIfTI, MetaImage, NRRD and .npz files are read"
        )
    files = ", ".join(shown(path.relative_to(folder)) for path in unused[:_SHOWN])
    ids = ", ".join(case.id for case in cases[:_SHOWN])
    return InputError(
        f"{folder}: holds no prediction of any of the {len(cases)} cases: its {len(unused)} files are {files}, ...; "
        f"the cases are {ids}, ...: name the files by case or image, or give a table with the columns case and file"
    )


def _completed(entry: Entry, source: PredictionSource) -> Entry:
    """With the JSON that names its labels; of one file per class only those that are foreground."""
    if not entry.parts:
        return replace(entry, names=json_beside(entry.place, source.folder))
    chosen = {
        str(name): entry.parts[str(name)] for name in source.foreground or () if str(name) in entry.parts
    }
    return replace(entry, parts=chosen) if chosen and len(chosen) == len(source.foreground or ()) else entry


# which files there are


def _files(folder: Path) -> tuple[list[Path], int]:
    """The predictions at and below a folder, and how many links lead out of it."""
    top = real_path(folder)
    found, links = [], 0
    for place, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted((name for name in folders if not is_hidden(name)), key=natural_key)
        links += sum(not real_path(Path(place) / name).is_relative_to(top) for name in folders)
        for name in sorted(names, key=natural_key):
            path = Path(place) / name
            if is_hidden(name) or not is_prediction(path):
                continue
            if path.is_symlink() and not real_path(path).is_relative_to(top):
                links += 1
                continue
            found.append(path)
    return found, links


def _singles(files: Sequence[Path]) -> list[Entry]:
    """One entry for each stem: a file, or an .npz file with the segmentation beside it."""
    by_name: dict[tuple[Path, str], list[Path]] = {}
    for path in files:
        by_name.setdefault((path.parent, stem_of(path)), []).append(path)
    entries = []
    for group in by_name.values():
        arrays = [path for path in group if path.suffix.lower() == ".npz"]
        others = [path for path in group if path not in arrays]
        if arrays and len(others) <= 1:
            entries.append(Entry(arrays[0], segmentation=others[0] if others else None))
        else:
            entries += [Entry(path) for path in group]
    return entries


def _entries(root: Path, names: _Names) -> tuple[list[tuple[Entry, str]], int]:
    """Every prediction below a folder, with its name relative to it; folders of a case are one."""
    files, links = _files(root)
    in_folder: dict[Path, list[Path]] = {}
    for path in files:
        in_folder.setdefault(path.parent, []).append(path)
    found: list[tuple[Entry, str]] = []
    for folder, here in in_folder.items():
        relative = folder.relative_to(root).as_posix()
        singles = _singles(here)
        if folder == root or not names.of(relative):
            within = "" if folder == root else f"{relative}/"
            found += [(entry, within + stem_of(entry.place)) for entry in singles]
            continue
        own = [entry for entry in singles if _nfc(entry.place.name).startswith(_nfc(folder.name))]
        if own or (len(singles) == 1 and singles[0].segmentation is not None):
            found += [(entry, relative) for entry in own or singles]
        else:
            parts = {stem_of(entry.place): entry.place for entry in singles}
            found.append((Entry(folder, parts), relative))
    return found, links


# which case they belong to


class _Names:
    """Finds cases by the names of files."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._ids = {_nfc(case.id): case for case in cases}
        self._stems: dict[str, list[Case]] = {}
        for case in cases:
            stem = stem_of(case.image)
            for name in {stem, _CHANNEL.sub("", stem)}:
                self._stems.setdefault(name, []).append(case)

    def of(self, relative: str) -> list[Case]:
        """The cases that a name relative to the folder fits: by id, else by the name of the image."""
        relative = _nfc(relative)
        last = relative.rpartition("/")[2]
        for name in (relative, last):
            if name in self._ids:
                return [self._ids[name]]
        found = self._stems.get(last, [])
        if len(found) > 1:
            ending = f"/{relative}"
            exact = [
                case
                for case in found
                if _nfc(case.image.parent.as_posix() + "/" + stem_of(case.image)).endswith(ending)
            ]
            found = exact if len(exact) == 1 else found
        return found


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _roots(folder: Path) -> Iterator[tuple[Path, int]]:
    """Folders to search, each with its fold (from 1) or 0: nnU-Net's fold_k/validation where there are such."""
    folds = sorted(
        (int(match[1]), place / "validation")
        for place in folder.iterdir()
        if (match := _FOLD.fullmatch(place.name))
        and (place / "validation").is_dir()
        and not place.is_symlink()
    )
    if folds:
        yield from ((place, number + 1) for number, place in folds)
        return
    match = _FOLD.fullmatch(folder.parent.name) if folder.name == "validation" else None
    yield folder, int(match[1]) + 1 if match else 0


def _matched(folder: Path, cases: Sequence[Case]) -> _Found:
    names = _Names(cases)
    entries: dict[str, Entry] = {}
    unused: list[Path] = []
    folds: dict[str, int] = {}
    links = 0
    for root, fold in _roots(folder):
        found, out = _entries(root, names)
        links += out
        for entry, relative in found:
            fitting = names.of(relative)
            if not fitting:
                unused += entry.files
                continue
            case = fitting[0]
            if len(fitting) > 1:
                raise InputError(
                    f"{shown(entry.place)}: fits the cases '{case.id}' and '{fitting[1].id}', whose images have one "
                    "name: name predictions by case id, or give a table with the columns case and file"
                )
            if case.id in entries:
                raise _twice(case.id, entries[case.id].place, entry.place, folder)
            entries[case.id] = entry
            if fold:
                folds[case.id] = fold
    return _Found(entries, unused, folds, links)


def _twice(case: str, first: Path, second: Path, folder: Path) -> InputError:
    names = [shown(path.relative_to(folder)) for path in (first, second)]
    return InputError(
        f"{folder}: holds two predictions of the case '{case}', {names[0]} and {names[1]}: remove one, or give a table "
        "with the columns case and file"
    )


def _listed(source: PredictionSource, cases: Sequence[Case]) -> _Found:
    """The predictions that a table names."""
    assert source.table is not None
    try:
        rows = text_rows(source.table)
    except FileNotFoundError as error:
        raise InputError(
            f"{source.table}: no such table: write one with the columns case and file"
        ) from error
    header = [name.lower() for name in rows[0][1]] if rows else []
    if not {"case", "file"} <= set(header):
        raise InputError(
            f"{source.table}: needs the columns case and file; it has {', '.join(header) or 'none'}"
        )
    ids = {case.id for case in cases}
    entries: dict[str, Entry] = {}
    unused: list[Path] = []
    for number, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        name, entry = row.get("case", ""), _entry_at(source, row.get("file", ""), number)
        if name in entries:
            raise _twice(name, entries[name].place, entry.place, source.folder)
        if name in ids:
            entries[name] = entry
        else:
            unused += entry.files
    return _Found(entries, unused, {})


def _entry_at(source: PredictionSource, text: str, number: int) -> Entry:
    path = source.folder / text
    where = f"{source.table}: row {number}"
    if not text or not real_path(path).is_relative_to(real_path(source.folder)):
        raise InputError(f"{where}: {text!r} is no file below {source.folder}: write paths relative to it")
    if path.is_dir():
        parts = {
            stem_of(file): file for file in sorted(path.iterdir()) if file.is_file() and is_prediction(file)
        }
        if parts:
            return Entry(path, parts)
    if not path.is_file() or not is_prediction(path):
        raise InputError(f"{where}: there is no prediction {text!r} in {source.folder}: correct the table")
    if path.suffix.lower() != ".npz":
        return Entry(path)
    ends = (*VOLUME_SUFFIXES, *sorted(READABLE_SUFFIXES))
    beside = (path.with_name(path.name[: -len(".npz")] + end) for end in ends)
    return Entry(path, segmentation=next((file for file in beside if file.is_file()), None))
