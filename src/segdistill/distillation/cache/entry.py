"""One entry of the teacher cache on disk: records in order, and how many of them are valid."""

from __future__ import annotations

import json
import math
import os
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import BaseFileLock, FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from segdistill.distillation.base import Targets
from segdistill.errors import InputError
from segdistill.files import write_json

Kind = Literal["half", "float32", "bool", "int64"]
FEW = 64
"""Up to this many numbers per sample stay float32: cosines and errors are small."""
_LARGEST = 15  # the largest value of a record becomes at most 2^15: all of half precision's range lies below


@dataclass(frozen=True)
class Item:
    """One named tensor of a record, at `offset` and `bytes` long."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int
    bytes: int


class Layout:
    """The places of items in a record.

    Numbers are stored in half precision times a power of two for each record, so that neither large nor small ones
    are lost: the relative error is at most 2^-11 down to 2^-29 of the record's largest value. Up to 64 numbers per
    sample stay float32. docs/how-to/compare-methods.md states what that means for soft predictions.

    >>> targets = {"map": torch.full((2, 16, 16), 1e9), "known": torch.tensor([True, False])}
    >>> layout = Layout.of(targets)
    >>> layout.length  # 512 bytes and a power of two, and a boolean, each padded to 8
    528
    >>> layout.unpack(torch.from_numpy(layout.pack(targets)))["map"][0, 0, 0].item()
    999817216.0
    """

    def __init__(self, items: tuple[Item, ...]) -> None:
        self.items = items
        self.length = max((_padded(item.offset + item.bytes) for item in items), default=0)

    @classmethod
    def of(cls, targets: Targets) -> Layout:
        """The layout for the targets of a batch.

        Raises:
            InputError: a target does not have one value for each sample.
        """
        items: list[Item] = []
        offset = 0
        batch = {len(value) if value.ndim else 0 for value in targets.values()}
        if len(batch) != 1 or 0 in batch:
            raise InputError("its targets do not have one value for each sample")
        for name, value in targets.items():
            shape, count = tuple(value.shape[1:]), math.prod(value.shape[1:])
            kind: Kind = "bool" if value.dtype == torch.bool else "int64"
            if value.is_floating_point():
                kind = "float32" if count <= FEW else "half"
            size = count * {"half": 2, "float32": 4, "bool": 1, "int64": 8}[kind] + 4 * (kind == "half")
            items.append(Item(name, shape, kind, offset, size))
            offset = _padded(offset + size)
        return cls(tuple(items))

    def pack(self, targets: Targets) -> NDArray[np.uint8]:
        """(B, length) records.

        Raises:
            InputError: a number is NaN or infinite.
        """
        batch = len(next(iter(targets.values())))
        records = np.zeros((batch, self.length), np.uint8)
        for item in self.items:
            value = targets[item.name].detach().reshape(batch, -1).cpu()
            if item.kind in ("half", "float32"):
                value = value.float()
                if not bool(torch.isfinite(value).all()):
                    raise InputError("its targets contain NaN or infinity")
            parts = [value.contiguous()]
            if item.kind == "half":
                power = _power(value)
                parts = [(value / power).half(), power]
            content = np.concatenate([part.numpy().view(np.uint8) for part in parts], axis=1)
            records[:, item.offset : item.offset + item.bytes] = content
        return records

    def unpack(self, records: Tensor) -> Targets:
        """The targets, from uint8 records (b, length); numbers in float32."""
        targets: Targets = {}
        for item in self.items:
            content = records[:, item.offset : item.offset + item.bytes]
            if item.kind == "half":
                power = content[:, -4:].contiguous().view(torch.float32)
                value = content[:, :-4].contiguous().view(torch.float16).float() * power
            else:
                value = content.contiguous().view(getattr(torch, item.kind))
            targets[item.name] = value.reshape(len(records), *item.shape)
        return targets

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values for a JSON file."""
        return [asdict(item) | {"shape": list(item.shape)} for item in self.items]

    @classmethod
    def from_list(cls, content: list[dict[str, Any]]) -> Layout:
        """The reverse of `to_list`."""
        return cls(tuple(Item(**{**item, "shape": tuple(item["shape"])}) for item in content))


def _padded(offset: int) -> int:
    return -(-offset // 8) * 8


def _power(values: Tensor) -> Tensor:
    """(B, 1) powers of two by which values (B, n) fit into half precision."""
    largest = values.abs().amax(1, keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(min=-100) - _LARGEST
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), 1.0)


ABOUT = "entry.json"
STATE = "state.json"
RECORDS = "records.bin"
LOCK = ".lock"
_CHECKED_BYTES = 1 << 30  # up to this size the content is checked on opening; of larger files only the length


class Entry:
    """The targets of one method from one teacher: view 0 of every row, then view 1, and so on.

    Records are only appended. Their count and checksum are written after them, whole or not at all, so that nothing
    is read that a kill, a full disk or a second writer left behind.

    Args:
        folder: of this entry; its name is a hash of `facts`.
        facts: everything that decides the records; an entry with other facts counts as absent.

    Attributes:
        count: the number of valid records.
        crc: their checksum.
        layout: of a record; None while the entry is absent.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self.count = 0
        self.layout: Layout | None = None
        self.crc = 0
        self.refresh()

    def refresh(self) -> None:
        """Reads the state on disk again: another process may have filled it."""
        self.count, self.crc, self.layout = 0, 0, None
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            about = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
            if about["facts"] != json.loads(json.dumps(self.facts)):
                return
            layout = Layout.from_list(about["layout"])
            self.layout = layout
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            count, crc = int(state["count"]), int(state["crc32"])
            if _is_sound(self.folder / RECORDS, count * layout.length, crc):
                self.count, self.crc = count, crc

    def begin(self, layout: Layout) -> None:
        """Makes the entry's folder; records in another layout are dropped."""
        if self.layout is None or self.layout.to_list() != layout.to_list():
            self.count, self.crc = 0, 0
            (self.folder / STATE).unlink(missing_ok=True)
            write_json(self.folder / ABOUT, {"facts": self.facts, "layout": layout.to_list()})
        self.layout = layout

    def missing(self, wanted: int) -> int:
        """How many of `wanted` records are missing."""
        return max(0, wanted - self.count)

    def records(self, count: int) -> NDArray[np.uint8]:
        """(count, length), mapped, read-only."""
        assert self.layout is not None
        assert count <= self.count
        return np.memmap(self.folder / RECORDS, np.uint8, "r", shape=(count, self.layout.length))


class Appender:
    """Appends records to an entry that has begun, until `close`; all records that were written whole are kept.

    Attributes:
        count: the number of records, saved or not.
    """

    def __init__(self, entry: Entry) -> None:
        assert entry.layout is not None
        self._entry, self._length = entry, entry.layout.length
        self.count, self._crc = entry.count, entry.crc
        path = entry.folder / RECORDS
        if not entry.count:  # a new file: a process that has mapped the old one keeps it
            path.unlink(missing_ok=True)
        self._file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115 - closed by close
        self._file.truncate(entry.count * self._length)
        self._file.seek(0, os.SEEK_END)

    def append(self, records: NDArray[np.uint8]) -> None:
        """Writes (B, length) records; they are valid after the next `save`.

        Raises:
            OSError: the disk is full.
        """
        content = np.ascontiguousarray(records).tobytes()
        written = 0
        while written < len(content):  # plain writes: with a memory map a full disk would end the process
            written += self._file.write(content[written:])
        self.count += len(records)
        self._crc = zlib.crc32(content, self._crc)

    def save(self) -> None:
        """Makes the appended records valid."""
        if self.count == self._entry.count:
            return
        os.fsync(self._file.fileno())  # the count must not overtake the records
        write_json(self._entry.folder / STATE, {"count": self.count, "crc32": self._crc})
        self._entry.count, self._entry.crc = self.count, self._crc

    def close(self) -> None:
        """Saves, and cuts off a record that did not fit."""
        try:
            with suppress(InputError, OSError):  # a full disk: earlier records stay
                self.save()
            self._file.truncate(self._entry.count * self._length)
        finally:
            self._file.close()


def _is_sound(path: Path, length: int, crc: int) -> bool:
    """Whether the first `length` bytes of a file exist and have the checksum."""
    if path.stat().st_size < length:
        return False
    if length > _CHECKED_BYTES:
        return True
    value, left = 0, length
    with open(path, "rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            value, left = zlib.crc32(block, value), left - len(block)
    return value == crc and not left


def try_lock(folder: Path) -> BaseFileLock | None:
    """A lock on appending in a folder, until its release or the end of the process; None if another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    with suppress(Timeout):
        lock.acquire(blocking=False)
        return lock
    return None
