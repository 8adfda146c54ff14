"""Files that are either whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segdistill.errors import InputError

_REMEDIES = {
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOSPC: "free space and run again",
    errno.EDQUOT: "free space and run again",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` if the block succeeds, else removes it.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        temporary = _beside(path)
        yield temporary
        _publish(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (
            temporary,
            path,
            path.parent,
        ):
            raise
        raise _refusal(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:  # it names the hidden file, which a user does not know
        raise _refusal(path, error) from error
    os.close(handle)
    return Path(name)


def _refusal(path: Path, error: OSError) -> InputError:
    try:
        blocking = next((above for above in path.parents if above.is_file()), None)
    except OSError:  # access is denied
        blocking = None
    if blocking is not None:
        return InputError(f"cannot write {path}: {blocking} is a file, not a folder")
    remedy = _REMEDIES.get(error.errno or 0)
    return InputError(f"cannot write {path}: {error.strerror or error}{f': {remedy}' if remedy else ''}")


def _publish(temporary: Path, path: Path) -> None:
    with open(temporary, "rb+") as file:  # the rename must not overtake the data
        os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
    temporary.replace(path)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all.

    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_text(target, "done")
    >>> target.read_text()
    'done'
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all.

    >>> target = Path(tempfile.mkdtemp()) / "note.json"
    >>> write_json(target, {"dice": 0.8})
    >>> json.loads(target.read_text())
    {'dice': 0.8}
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def shown(path: str | Path) -> str:
    r"""A path as text that every table and terminal can hold: bytes that are not UTF-8 are escaped.

    >>> print(shown("caf\udce9.png"))
    caf\udce9.png
    """
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def require_text(path: str | Path) -> None:
    """Raises InputError for a name with bytes that are not UTF-8, as old archives leave them on Linux."""
    if shown(path) != str(path):
        raise InputError(
            f"{shown(path)}: a name that is not UTF-8 text cannot be kept in a table: rename the file"
        )


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    >>> target = Path(tempfile.mkdtemp()) / "empty"
    >>> target.touch()
    >>> sha256_file(target)[:8]
    'e3b0c442'
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hexadecimal.

    >>> sha256_text("")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(text.encode()).hexdigest()
