"""Files that are either whole or absent, and text that no terminal, page or spreadsheet takes for a command."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
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
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}(\.\w+)?")
"""How `atomic_write` names a file that is not whole yet."""
_HIDDEN = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
_NOT_ONE_LINE = re.compile(f"[\0-\x1f{_HIDDEN}]")
"""Control characters, separators of lines, marks that reverse or hide text, and bytes that were no UTF-8."""
_NOT_TEXT = re.compile(f"[\0-\x08\x0b-\x1f{_HIDDEN}]")
_NO_NAME = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMPUTED = re.compile("['\\s]*[=+@\uff0b\uff0d\uff1d\uff20-]")
"""The start of a cell that a spreadsheet computes, also behind apostrophes of our own."""


@contextmanager
def atomic_write(path: str | Path, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` if the block succeeds, else removes it.

    Args:
        path: of the file.
        sync: wait until the content is on the disk, so that the file is whole after a power cut too. Without it that
            takes as little time as the writing; for files whose hash is kept and compared.

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
        _publish(temporary, path, sync)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (
            temporary,
            path,
            path.parent,
        ):
            raise
        raise refusal(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Gives a temporary folder beside `folder`, which becomes it if the block succeeds, else is removed.

    Raises:
        InputError: the folder is there and not empty, or cannot be written.

    >>> place = Path(tempfile.mkdtemp()) / "new"
    >>> with new_folder(place) as temporary:
    ...     (temporary / "a.txt").touch()
    >>> [path.name for path in place.iterdir()]
    ['a.txt']
    """
    folder = Path(os.path.abspath(folder))
    temporary: Path | None = None
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not an empty folder: give a new one")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def everything_below(folder: str | Path) -> list[Path]:
    """Files and folders below a folder, in the order of their paths; links are followed, and each folder is seen once.

    >>> place = Path(tempfile.mkdtemp())
    >>> (place / "a").mkdir()
    >>> (place / "a" / "loop").symlink_to(place)
    >>> [str(path.relative_to(place)) for path in everything_below(place)]
    ['a', 'a/loop']
    """
    return sorted(
        Path(place, name) for place, folders, names in walk_once(folder) for name in (*folders, *names)
    )


def walk_once(folder: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, in the order of names; links to folders are followed, and each folder is seen once.

    >>> place = Path(tempfile.mkdtemp())
    >>> (place / "loop").symlink_to(place)
    >>> [(folders, names) for _, folders, names in walk_once(place)]
    [(['loop'], [])]
    """
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield place, folders, sorted(names)


def remove_unfinished(folder: str | Path, names: Container[str]) -> None:
    """Removes what a killed process left of files of these names in a folder.

    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in (".a.png.x1_y2z3a.png", ".profile.original"):
    ...     (folder / name).touch()
    >>> remove_unfinished(folder, {"a.png"})
    >>> [path.name for path in folder.iterdir()]
    ['.profile.original']
    """
    for path in Path(folder).glob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and found[1] in names and path.is_file():
            path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:  # it names the hidden file, which a user does not know
        raise refusal(path, error) from error
    os.close(handle)
    return Path(name)


def refusal(path: Path, error: OSError) -> InputError:
    """Why a file cannot be written, and what to do.

    >>> str(refusal(Path("out/a.csv"), OSError(errno.ENOSPC, "No space left on device")))
    'cannot write out/a.csv: No space left on device: free space and run again'
    """
    try:
        blocking = next((above for above in path.parents if above.is_file()), None)
    except OSError:  # access is denied
        blocking = None
    if blocking is not None:
        return InputError(f"cannot write {path}: {blocking} is a file, not a folder")
    remedy = _REMEDIES.get(error.errno or 0)
    return InputError(f"cannot write {path}: {error.strerror or error}{f': {remedy}' if remedy else ''}")


def _publish(temporary: Path, path: Path, sync: bool) -> None:
    if sync:
        with open(temporary, "rb+") as file:  # the rename must not overtake the data
            os.fsync(file.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # mkstemp makes private files
    temporary.replace(path)


def write_text(path: str | Path, text: str, sync: bool = True) -> None:
    """Writes `text` as UTF-8, whole or not at all; `sync`: see `atomic_write`.

    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> write_text(target, "done")
    >>> target.read_text()
    'done'
    """
    with atomic_write(path, sync) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def append_text(path: str | Path, text: str) -> None:
    r"""Adds text, as UTF-8, to the end of a file; all of it or nothing, unless the process is killed.

    Raises:
        InputError: the file cannot be written, or the disk is full.

    >>> target = Path(tempfile.mkdtemp()) / "rows.csv"
    >>> for row in ("a\n", "b\n"):
    ...     append_text(target, row)
    >>> target.read_text()
    'a\nb\n'
    """
    size = None
    try:
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            content = memoryview(text.encode("utf-8", "backslashreplace"))
            while content:
                content = content[file.write(content) :]
    except OSError as error:
        if size is not None:
            with suppress(OSError):
                os.truncate(path, size)
        raise refusal(Path(path), error) from error


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all.

    >>> target = Path(tempfile.mkdtemp()) / "note.json"
    >>> write_json(target, {"dice": 0.8})
    >>> json.loads(target.read_text())
    {'dice': 0.8}
    """
    write_text(path, json_text(value) + "\n")


def json_text(
    value: Any,
    indent: int | None = 2,
    ascii_only: bool = False,
    default: Callable[[Any], Any] | None = None,
) -> str:
    r"""A value as JSON in which control characters are escaped; reading gives them back.

    Args:
        value: of JSON types.
        indent: spaces per level; None for one line.
        ascii_only: escape every character that is not ASCII.
        default: makes a JSON type of a value of any other.

    >>> print(json_text(["café", "\x9b2J"], None))
    ["café", "\u009b2J"]
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, default=default)
    return _NOT_TEXT.sub(lambda found: json.dumps(found[0])[1:-1], text)


def shown(text: str | Path) -> str:
    r"""A name or message as one line that every terminal, page and table can hold: what is no text is escaped.

    Escaped are control characters, ends of lines, marks that reverse the direction, and bytes that are not UTF-8.

    >>> print(shown("caf\udce9\n.png"), shown("\x1b[2J"))
    caf\udce9\n.png \x1b[2J
    """
    return _NOT_ONE_LINE.sub(_escape, str(text))


def shown_lines(text: str) -> str:
    r"""As `shown`, but ends of lines and tabs are kept, for text of several lines.

    >>> print(shown_lines("a\nb\x07"))
    a
    b\x07
    """
    return _NOT_TEXT.sub(_escape, text)


def safe_name(name: str) -> str:
    r"""A name for a file of ours: what is no text in it is replaced by "_".

    >>> safe_name("caf\udce9\x1b")
    'caf__'
    """
    return _NOT_ONE_LINE.sub("_", name)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "backslashreplace").decode("ascii")


def csv_cell(value: Any) -> Any:
    """A value as a cell of a CSV table: text is one line, and none that a spreadsheet would compute.

    Such text has an apostrophe before it, as a spreadsheet itself marks text; `cell_text` takes it away.

    >>> [csv_cell(value) for value in ("=1+1", "-0.5", "a", 3, None)]
    ["'=1+1", '-0.5', 'a', 3, None]
    """
    if not isinstance(value, (str, Path)):
        return value
    text = shown(value)
    return f"'{text}" if _is_computed(text) else text


def cell_text(cell: str) -> str:
    """The reverse of `csv_cell`.

    >>> [cell_text(cell) for cell in ("'=1+1", "'quoted'", "-0.5")]
    ['=1+1', "'quoted'", '-0.5']
    """
    return cell[1:] if cell.startswith("'") and _is_computed(cell[1:]) else cell


def _is_computed(text: str) -> bool:
    """Whether a spreadsheet computes a cell of this text; a number alone is none of these."""
    return bool(_COMPUTED.match(text)) and not _NUMBER.fullmatch(text)


def require_text(text: str | Path) -> None:
    """Raises InputError for a name with bytes that are not UTF-8, as old archives leave them, or control characters."""
    found = _NO_NAME.search(str(text))
    if found is not None:
        what = "a name that is not UTF-8 text" if found[0] >= "\ud800" else "a name with control characters"
        raise InputError(f"{shown(text)}: {what} cannot be kept in a table: rename the file")


def real_path(path: Path) -> Path:
    """The absolute path without links; one that leads in a circle stands as it is, where `Path.resolve` fails.

    >>> real_path(Path("/a/../b")) == real_path(Path("/b"))
    True
    """
    return Path(os.path.realpath(path))


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
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
