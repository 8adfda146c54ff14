"""cases.csv: the case table as a file that people can read and edit."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from segdistill.data.case import SPLITS, Case, require_unique, table_channels, unnamed, with_channels
from segdistill.errors import InputError
from segdistill.files import atomic_write, cell_text, csv_cell, require_text
from segdistill.imaging.classes import Classes, Value, class_names, classes_text, mask_values, parse_classes
from segdistill.imaging.several import Channel
from segdistill.registry import near_names, nearest

COLUMNS = ("id", "group", "image", "masks", "label", "site", "box", "spacing_mm", "split")
_EXTRA = (
    "resize_mask",
    "classes",
    "foreground",
    "background",
    "levels",
)  # written only when a case needs them


def write_cases(cases: Sequence[Case], path: str | Path) -> None:
    """Writes the table; files below its folder by relative path, others by absolute path; masks, and the channels of
    an image, joined by ';'.

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
        writer.writerows({name: csv_cell(cell) for name, cell in row.items()} for row in rows)


def read_cases(path: str | Path) -> list[Case]:
    r"""Reads and checks a table; relative files are looked for beside the table. Further columns are ignored.

    Tables as spreadsheets save them are taken: commas, semicolons or tabs, a mark of the encoding at the start, empty
    rows and columns, headings in capitals, backslashes in paths.

    Raises:
        InputError: no such file, a missing or misspelled column, or a bad value (names row and column).

    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "cases.csv"
    >>> _ = table.write_text("ID;Image;Split\na;a.png;train\n;;\n")
    >>> [(case.id, case.image.name, case.split) for case in read_cases(table)]
    [('a', 'a.png', 'train')]
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path} is a folder: give the case table inside it, or index it: segdistill data index"
        )
    try:
        rows = text_rows(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such case table: make one with segdistill data index") from error
    _, header = rows[0] if rows else (1, [])
    for number, cells in rows:
        if broken := next((cell for cell in cells if "\n" in cell or "\r" in cell), None):
            raise InputError(
                f"{path}: row {number}: a cell holds a line break ({broken[:20]!r}...): remove the stray quote in it"
            )
    header = [re.sub(r"[\s-]+", "_", name.lower()) for name in header]
    _check_header(header, path)
    cases = _with_one_list([_Row(path, number, header, cells).case() for number, cells in rows[1:]], path)
    try:
        names = table_channels(cases)
    except InputError as error:
        raise InputError(f"{path}: column 'image': {error}") from error
    cases = [with_channels(case, names) for case in cases] if names else cases
    if not cases:
        raise InputError(f"{path}: the table has no rows: add cases or index a dataset")
    try:
        require_unique(cases)
    except InputError as error:
        raise InputError(f"{path}: column 'id': {error}") from error
    return cases


def _with_one_list(cases: list[Case], path: Path) -> list[Case]:
    """The cases with the classes of their table: those that the column states, or the names of the mask files."""
    stated = {case.classes: case.id for case in cases if case.classes}
    if len(stated) > 1:
        first, second = list(stated.values())[:2]
        raise InputError(
            f"{path}: column 'classes': the cases '{first}' and '{second}' differ: a table has one list of classes"
        )
    named = dict.fromkeys(name for case in cases for name in case.mask_classes)
    try:
        classes = next(iter(stated), None) or parse_classes(list(named))
    except InputError as error:
        raise InputError(f"{path}: column 'masks': {error}") from error
    known = class_names(classes)
    for name in named:
        if name not in known:
            raise InputError(f"{path}: column 'masks': {near_names(name, known)}: 'classes' has no '{name}'")
    plain = [case.id for case in cases if case.masks and not case.mask_classes]
    if named and plain:
        raise InputError(
            f"{path}: column 'masks': case '{plain[0]}' has files without the name of a class, and others have it: "
            f"write {next(iter(named))}=FILE in all rows"
        )
    bare = [each.name for each in classes if not each.values] if len(classes) > 1 else []
    unnamed = [case.id for case in cases if case.masks and not (case.mask_classes or case.names_structures)]
    if bare and unnamed:
        raise InputError(
            f"{path}: column 'classes': '{bare[0]}' has no value, and case '{unnamed[0]}' no file of this class: write "
            f"{bare[0]}=VALUE, or name the files of each class in 'masks': {bare[0]}=FILE"
        )
    if not classes:
        return cases
    return [case if case.foreground else replace(case, classes=classes) for case in cases]


def text_rows(path: Path) -> list[tuple[int, list[str]]]:
    r"""The rows of a table of text that are not empty, with their numbers from 1; cells without spaces around them.

    Commas, semicolons and tabs separate; a first row "sep=;" names another character.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it cannot be read, or is no such text: another encoding, a spreadsheet, a binary file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("\ufeffa;b\n;\n1; 2\n", encoding="utf-8")
    >>> text_rows(path)
    [(1, ['a', 'b']), (3, ['1', '2'])]
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}): check its permissions"
        ) from error
    text = _decoded(content, path)
    first = re.split(r"[\r\n]", text, maxsplit=1)[0]
    separator, skipped = max(",;\t", key=re.sub(r'"[^"]*"', "", first).count), 0
    if named := re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE):
        separator, skipped, text = named[1], 1, re.sub(r"\A[^\r\n]*(\r\n|\r|\n)?", "", text)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise InputError(f"{path}: not a table: {error}: save it as CSV UTF-8") from error
    cells = [
        (number, [cell_text(cell.strip()) for cell in row])
        for number, row in enumerate(rows, start=1 + skipped)
    ]
    return [(number, row) for number, row in cells if any(row)]


_NO_TEXT = "is no table of UTF-8 text: give a cases.csv, as segdistill data index makes it"


def _decoded(content: bytes, path: Path) -> str:
    if content.startswith(b"PK\x03\x04"):
        raise InputError(f"{path}: is a workbook of a spreadsheet: save it as CSV UTF-8")
    encoding = "utf-8-sig"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\n" in content:
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16" or any(byte in content for byte in b"\0\x81\x8d\x8f\x90\x9d"):
            why = _NO_TEXT
        else:
            row, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
            why = (
                f"row {row} is not UTF-8 (byte {byte:#x}) but probably Windows-1252, in which spreadsheets save CSV: "
                "save it as 'CSV UTF-8'"
            )
        raise InputError(f"{path}: {why}") from error
    if "\0" in text:  # UTF-16 without its mark, or UTF-32
        raise InputError(f"{path}: {_NO_TEXT}")
    return text


_PATIENTS = frozenset(
    f"{who}{end}"
    for who in ("patient", "subject", "participant")
    for end in ("", "s", "id", "_id", " id", "-id")
)
"""Headings that mean `group`: left unread, the images of one patient would come on both sides of a split."""


def _check_header(header: Sequence[str], path: Path) -> None:
    for column in ("id", "image"):
        if column not in header:
            raise InputError(f"{path}: column '{column}' is missing: the columns are {', '.join(COLUMNS)}")
    known = {*COLUMNS, *_EXTRA}
    for name in header:
        if name in known and header.count(name) > 1:
            raise InputError(f"{path}: column '{name}' is there {header.count(name)} times: keep one of them")
        if name.lower() in _PATIENTS and "group" not in header:
            raise InputError(
                f"{path}: column '{name}' is not read: call it 'group', so that the images of one {name.lower()} stay "
                "on one side of a split, or remove it"
            )
        meant = [] if name in known or not name else nearest(name, known)
        if meant and meant[0] not in header:
            raise InputError(f"{path}: unknown column '{name}': {near_names(name, known)}")


class _Row:
    """One row of a table, and its place in it for messages."""

    def __init__(self, path: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> None:
        self.path, self.number = path, number
        if any(cells[len(header) :]):
            raise self.bad(header[-1], "more values than columns: quote values that contain a comma")
        self.cells = dict(zip(header, cells, strict=False))

    def bad(self, column: str, why: str) -> InputError:
        return InputError(f"{self.path}: row {self.number}, column '{column}': {why}")

    def text(self, column: str) -> str:
        return self.cells.get(column, "")

    def numbers(self, column: str, counts: Sequence[int], example: str) -> list[float] | None:
        """The numbers in a cell, as many as one of `counts`; a comma is a decimal one."""
        parts = self.text(column).split()
        if not parts:
            return None
        try:
            values = [float(part.replace(",", ".")) for part in parts]
        except ValueError:
            values = []
        if len(values) not in counts:
            wanted = " numbers, or ".join(map(str, counts))
            raise self.bad(
                column, f"'{self.text(column)}' is not {wanted} numbers: write them as '{example}'"
            )
        return values

    def file(self, text: str) -> Path:
        """A file beside the table. Backslashes, and another Unicode form of the name, are tried where it is absent."""
        folder = Path(os.path.abspath(self.path.parent))
        plain = text.replace("\\", "/")
        forms = (text, plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD")))
        return next((folder / one for one in dict.fromkeys(forms) if (folder / one).exists()), folder / plain)

    def case(self) -> Case:
        for column in ("id", "image"):
            if not self.text(column):
                raise self.bad(column, "is empty: every case needs one")
        if self.text("split") not in ("", *SPLITS):
            raise self.bad("split", f"'{self.text('split')}' is not one of train, val, test or empty")
        if self.text("resize_mask").lower() not in ("", "yes", "no"):
            raise self.bad("resize_mask", f"'{self.text('resize_mask')}' is not yes, no or empty")
        channels = self.channels()
        files, of_class = self.mask_files()
        classes, fore, back = self.classes()
        return Case(
            id=self.text("id"),
            image=channels[0].path,
            masks=files,
            group=self.text("group"),
            label=self.text("label"),
            site=self.text("site"),
            box=self.box(),
            spacing_mm=self.spacing(),
            split=self.text("split"),
            resize_mask=self.text("resize_mask").lower() == "yes",
            classes=classes,
            mask_classes=of_class,
            foreground=fore,
            background=back,
            levels=self.levels(),
            channels=channels if len(channels) > 1 or channels[0].part or channels[0].name != "image" else (),
        )

    def channels(self) -> tuple[Channel, ...]:
        """The files of the image's channels: flair=a.nii.gz;t1=b.nii.gz; a.nii.gz#2 is a channel of four dimensions."""
        text = self.text("image")
        if self.file(text).exists():
            return (Channel("image", self.file(text)),)
        found = [self.channel(part.strip()) for part in text.split(";") if part.strip()]
        if not found:
            raise self.bad("image", f"'{text}' names no file: every case needs one")
        names = [each.name for each in found if each.name]
        if len(found) > 1 and names and len(names) < len(found):
            raise self.bad(
                "image", f"'{names[0]}=' names the channel of a file, but not all have one: name all"
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise self.bad("image", f"names the channel {twice} twice: each channel of a case has one file")
        plain = unnamed(len(found)) if len(found) > 1 else ("image",)
        return tuple(
            each if each.name else each._replace(name=name) for each, name in zip(found, plain, strict=True)
        )

    def channel(self, text: str) -> Channel:
        """One file, with the name of its channel before it and the number of a channel behind it; or without."""
        name = ""
        if not self.file(text).exists():
            before, equals, after = text.partition("=")
            name, text = (before.strip(), after.strip()) if equals else ("", text)
            if not text:
                raise self.bad("image", f"'{name}=' names a channel without its file: write {name}=FILE")
        numbered = None if self.file(text).exists() else re.fullmatch(r"(.+)#([1-9]\d{0,3})", text)
        if numbered is not None:
            return Channel(name, self.file(numbered[1]), int(numbered[2]))
        return Channel(name, self.file(text))

    def mask_files(self) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """The files of the masks, and the class of each where they have names: liver=a.png;tumour=b.png."""
        parts = [part.strip() for part in self.text("masks").split(";") if part.strip()]
        files, names = [], []
        for part in parts:
            whole = self.file(part)
            name, equals, path = part.partition("=")
            if not equals or whole.exists():
                files.append(whole)
            else:
                files.append(self.file(path.strip()))
                names.append(name.strip())
        if names and len(names) < len(files):
            raise self.bad(
                "masks", f"'{names[0]}=' names the class of a file, but not all files have one: name all"
            )
        return tuple(files), tuple(names)

    def classes(self) -> tuple[Classes, tuple[Value, ...], tuple[Value, ...]]:
        """Classes, foreground and background. A number alone is what tables had before classes had names: how many
        values a volume's mask may hold, all but 0 being foreground.
        """
        text, fore, back = self.text("classes"), self.values("foreground"), self.values("background")
        if text.isdecimal() and int(text) > 1:
            return (), fore or tuple(range(1, int(text))), back or (0,)
        try:
            classes = parse_classes(text)
        except InputError as error:
            raise self.bad("classes", str(error)) from error
        if text.isdecimal():
            raise self.bad(
                "classes", f"'{text}' is a number: name the classes and their values, as head=1;body=2"
            )
        if classes and fore:
            raise self.bad(
                "foreground", "makes one class of several values: empty it, or the column 'classes'"
            )
        return classes, fore, back

    def box(self) -> tuple[int, int, int, int] | None:
        box = self.numbers("box", [4], "left top right bottom")
        if box is None:
            return None
        named = f"'{self.text('box')}' of case '{self.text('id')}'"
        advice = "write left top right bottom in pixels"
        if not all(value.is_integer() for value in box):  # shares of the image, such as 0.2, are refused here
            raise self.bad("box", f"{named} is not whole pixels: {advice}")
        if not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
            raise self.bad("box", f"{named} is empty, inverted or negative: {advice}")
        return int(box[0]), int(box[1]), int(box[2]), int(box[3])

    def spacing(self) -> tuple[float, float] | tuple[float, float, float] | None:
        found = self.numbers("spacing_mm", [2, 3], "0.1 0.1' or, of a volume, '3.0 0.5 0.5")
        if found is None:
            return None
        if not all(0 < value < float("inf") for value in found):
            count = "three" if len(found) == 3 else "two"
            raise self.bad(
                "spacing_mm", f"'{self.text('spacing_mm')}' must be {count} positive numbers of millimetres"
            )
        return (found[0], found[1], found[2]) if len(found) == 3 else (found[0], found[1])

    def values(self, column: str) -> tuple[Value, ...]:
        try:
            return mask_values(self.text(column))
        except InputError as error:
            raise self.bad(column, str(error)) from error

    def levels(self) -> tuple[float, float] | None:
        found = self.numbers("levels", [2], "0 4095")
        if found is None:
            return None
        if not float("-inf") < found[0] < found[1] < float("inf"):
            raise self.bad("levels", f"'{self.text('levels')}' must be two numbers, the smaller one first")
        return found[0], found[1]


def _to_row(case: Case, table: Path) -> dict[str, str]:
    folder = Path(os.path.abspath(table.parent))
    images = [_relative(each.path, folder) for each in case.image_channels]
    masks = [_relative(file, folder) for file in case.masks]
    files = [*images, *masks]
    for text in (case.id, case.group, case.label, case.site, case.only_channel, *case.channel_names, *files):
        require_text(text)
    for file in files:
        if ";" in file:
            raise InputError(f"{file}: a ';' in a file name cannot be kept in the table: rename the file")
    return {
        "id": case.id,
        "group": case.group,
        "image": ";".join(_with_parts(images, case)),
        "masks": ";".join(_named(masks, case.mask_classes)),
        "label": case.label,
        "site": case.site,
        "box": _join(case.box),
        "spacing_mm": _join(case.spacing_mm),
        "split": case.split,
        "resize_mask": "yes" if case.resize_mask else "",
        "classes": classes_text(case.classes),
        "foreground": " ".join(map(str, case.foreground)),
        "background": " ".join(map(str, case.background)),
        "levels": _join(case.levels),
    }


def _with_parts(files: Sequence[str], case: Case) -> list[str]:
    """The files of the channels with their names, where these are known, and their numbers in the file."""
    numbered = [
        f"{file}#{each.part}" if each.part else file
        for file, each in zip(files, case.image_channels, strict=True)
    ]
    return _named(numbered, case.channel_names or ((case.only_channel,) if case.only_channel else ()))


def _named(files: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The files with the names of their classes, where they have some."""
    return [f"{name}={file}" for name, file in zip(classes, files, strict=True)] if classes else list(files)


def _join(values: Iterable[float] | None) -> str:
    return " ".join(f"{value!r}" for value in values) if values is not None else ""


def _relative(file: Path, folder: Path) -> str:
    absolute = Path(os.path.abspath(file))
    return (absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute).as_posix()
