"""Files that cannot be written: the line names the file that was wanted, and what to do."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from segdistill.errors import InputError
from segdistill.files import write_text


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
