"""Datasets published as a folder of images and a folder of masks, with labels in a table or in
sub-folders.
"""

from __future__ import annotations

import re
import unicodedata
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from segdistill.data.table import text_rows
from segdistill.errors import InputError

_XML = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_NAME_COLUMNS = ("image", "filename", "file", "name", "id", "case")
_LABEL_COLUMNS = ("type", "label", "class", "pathology", "diagnosis", "tumor type", "tumour type")
_LABELS = {"b": "benign", "benign": "benign", "m": "malignant", "malignant": "malignant", "normal": "normal"}


def table_labels(path: Path) -> dict[str, str]:
    """Labels by image name (without leading zeros and suffix) from a .csv or .xlsx with such columns as
    Image, Type.

    Raises:
        InputError: not a table, or no columns for image and label.
    """
    rows = table_rows(path)
    for number, row in enumerate(rows[:10]):
        header = [cell.strip().lower() for cell in row]
        name = next((header.index(column) for column in _NAME_COLUMNS if column in header), None)
        label = next((header.index(column) for column in _LABEL_COLUMNS if column in header), None)
        if name is not None and label is not None:
            body = [row for row in rows[number + 1 :] if len(row) > max(name, label)]
            return {plain_name(row[name]): plain_label(row[label]) for row in body if row[name].strip()}
    raise InputError(f"{path}: no columns for image and type found: name them Image and Type")


def table_rows(path: Path) -> list[list[str]]:
    """The rows of a .csv (see `text_rows`) or of the first sheet of an .xlsx, as text.

    Raises:
        InputError: not a readable table.
    """
    if path.suffix.lower() == ".xlsx":
        return _xlsx_rows(path)
    rows = dict(text_rows(path))
    return [rows.get(number, []) for number in range(min(rows, default=1), max(rows, default=0) + 1)]


def plain_name(text: str) -> str:
    """An image's name without folder, suffix and leading zeros.

    >>> plain_name("000012.png"), plain_name("12.0"), plain_name("7")
    ('12', '12', '7')
    """
    name = unicodedata.normalize("NFC", text.strip().replace("\\", "/").split("/")[-1])
    stem = re.sub(r"\.(png|bmp|jpe?g|tiff?|0+)$", "", name, flags=re.IGNORECASE)
    return stem.lstrip("0") or "0"


def plain_label(text: str) -> str:
    """A label in segdistill's words: benign, malignant or normal; others in lower case.

    >>> plain_label(" Benign"), plain_label("M")
    ('benign', 'malignant')
    """
    word = text.strip().lower()
    return _LABELS.get(word, word)


def _xlsx_rows(path: Path) -> list[list[str]]:
    """Cells of an .xlsx file's first sheet as text."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            shared: list[str] = []
            if "xl/sharedStrings.xml" in names:
                root = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
                shared = ["".join(part.text or "" for part in item.iter(f"{_XML}t")) for item in root]
            sheets = sorted(name for name in names if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name))
            sheet = ElementTree.fromstring(archive.read(sheets[0]))
    except (OSError, zipfile.BadZipFile, ElementTree.ParseError, IndexError, KeyError) as error:
        raise InputError(f"{path}: not a readable .xlsx file: save it again, or as .csv") from error
    rows: list[list[str]] = []
    for row in sheet.iter(f"{_XML}row"):
        cells: dict[int, str] = {}
        for position, cell in enumerate(row.iter(f"{_XML}c")):
            column = _column(cell.get("r", "")) if cell.get("r") else position
            cells[column] = _cell_text(cell, shared)
        rows.append([cells.get(column, "") for column in range(max(cells, default=-1) + 1)])
    return rows


def _column(reference: str) -> int:
    number = 0
    for letter in re.match(r"[A-Z]*", reference)[0]:  # type: ignore[index]
        number = number * 26 + ord(letter) - 64
    return number - 1


def _cell_text(cell: ElementTree.Element, shared: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return "".join(part.text or "" for part in cell.iter(f"{_XML}t"))
    value = cell.find(f"{_XML}v")
    text = (value.text or "") if value is not None else ""
    if cell.get("t") == "s" and text.isdecimal() and int(text) < len(shared):
        return shared[int(text)]
    return text
