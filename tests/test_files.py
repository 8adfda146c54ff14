"""Files that cannot be written: the line names the file that was wanted, and what to do."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from segdistill.errors import InputError
from segdistill.files import (
    cell_text,
    csv_cell,
    json_text,
    require_text,
    safe_name,
    shown,
    shown_lines,
    write_text,
)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / f"{'n' * 250}.txt"
    with pytest.raises(InputError) as refused:
        write_text(path, "text")
    assert str(refused.value) == f"cannot write {path}: File name too long: choose a shorter name"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "what_to_do"),
    [
        (errno.EACCES, "Permission denied: choose a folder that you may write to"),
        (errno.EROFS, "Read-only file system: choose a folder that you may write to"),
        (errno.ENOSPC, "No space left on device: free space and run again"),
    ],
)
def test_no_temporary_file(
    code: int, what_to_do: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path, prefix: str, suffix: str) -> tuple[int, str]:
        raise OSError(code, os.strerror(code), f"{dir}/{prefix}hidden{suffix}")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(InputError) as refused:
        write_text(tmp_path / "a.txt", "text")
    assert str(refused.value) == f"cannot write {tmp_path / 'a.txt'}: {what_to_do}"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file, not a folder"):
        write_text(tmp_path / "file" / "deep" / "a.txt", "text")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "'=1",
        "''=1",
        "-a.png",
        "+49 30",
        "@SUM(A1)",
        " =1",
        "\uff1d1",
        "'",
        "'a",
        "",
        "a",
        "-0.5",
        "1e5",
        "-1 2",
    ],
)
def test_cells_are_text_for_a_spreadsheet_and_are_read_back(text: str) -> None:
    cell = csv_cell(text)
    assert cell_text(cell) == text
    computed = cell.lstrip()[:1] in set("=+-@\uff1d") and cell not in ("-0.5",)
    assert not computed


def test_numbers_stay_numbers() -> None:
    for value in (-0.5, -3, None, 1e-9):
        assert csv_cell(value) is value
    for text in ("-0.5", "+3", "-1e-05", ".5"):
        assert csv_cell(text) == text
    assert csv_cell("-inf") == "'-inf"


CONTROLS = [chr(n) for n in (*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2067, 0xDC80, 0xFEFF)]


@pytest.mark.parametrize("mark", CONTROLS, ids=[hex(ord(mark)) for mark in CONTROLS])
def test_no_control_character_is_shown(mark: str) -> None:
    line = shown(f"a{mark}b")
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert line[0] + line[-1] == "ab"
    assert shown_lines(f"a{mark}b") == (f"a{mark}b" if mark in "\n\t" else line)
    assert csv_cell(f"a{mark}b") == line
    text = json_text([f"a{mark}b"], None)
    assert text.isprintable()
    assert json.loads(text) == [f"a{mark}b"]
    assert safe_name(f"a{mark}b") == "a_b"


def test_names_of_other_languages_stay() -> None:
    for text in ("Łódź", "北京 ü", "e\u0301", "שלום", "नमस्\u200dते", "👩\u200d🔬"):
        assert shown(text) == shown_lines(text) == csv_cell(text) == safe_name(text) == text


@pytest.mark.parametrize(
    ("name", "why"), [("a\x1b", "control characters"), ("caf\udce9", "not UTF-8"), ("a\n", "control")]
)
def test_names_that_no_table_can_hold(name: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        require_text(name)
    assert str(refused.value).isprintable()
