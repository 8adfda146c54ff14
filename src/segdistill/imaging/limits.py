"""What is decoded: files of a known kind, and none that asks for more memory than is allowed."""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, UnreadableImage

Converter = Callable[[NDArray[Any]], NDArray[Any]]


_FIRST_TAGS = (
    b"\x02\x00",
    b"\x08\x00",
    b"\x00\x08",
)  # groups with which a data set begins, in both byte orders
_FIRST_VR = (b"UL", b"OB", b"UI", b"CS", b"SH", b"LO", b"DA", b"TM", b"DT", b"ST", b"LT", b"PN", b"SQ", b"AE")


HEAD = 144  # bytes of a file from which its kind is told

_PICTURES = (".gif", ".webp", ".jp2", ".heic", ".heif", ".svg")
_VOLUMES = (
    ".mgz",
    ".mgh",
    ".nhdr",
    ".hdr",
    ".img",
    ".img.gz",
    ".mnc",
    ".npy",
    ".npz",
    ".mat",
    ".h5",
)


def unread_format(path: Path) -> str:
    """Why a file with the suffix of a known format is not read, and what to save it as; "" for any other suffix.

    >>> unread_format(Path("brain.mgz"))
    'format .mgz is not read: save it as .nii.gz'
    """
    name = path.name.lower()
    for suffixes, better in ((_PICTURES, ".png"), (_VOLUMES, ".nii.gz")):
        if found := next((suffix for suffix in suffixes if name.endswith(suffix)), ""):
            return f"format {found} is not read: save it as {better}"
    return ""


def dicom_start(head: bytes) -> int | None:
    """Where the data set of a DICOM file begins that lacks the preamble, the word "DICM" or both; 0 for a whole file.

    Args:
        head: the first `HEAD` bytes of a file.

    Returns:
        the position, or None where it is no DICOM file.

    >>> bare = bytes.fromhex("080005000a000000") + b"ISO_IR 100"
    >>> dicom_start(bytes(128) + b"DICM"), dicom_start(b"DICM" + bare), dicom_start(bare), dicom_start(b"BM")
    (0, 4, 0, None)
    """
    if head[128:132] == b"DICM":
        return 0
    starts = [0, 4 if head[:4] == b"DICM" else 0, 128]
    return next((start for start in starts if _is_data_set(head[start : start + 8])), None)


def _is_data_set(head: bytes) -> bool:
    """Whether bytes look like the tag, value representation and length of a first element."""
    length = int.from_bytes(head[4:8], "little")
    implicit = len(head) == 8 and head[:2] != b"\x00\x08" and 0 < length <= 1024 and head[3] < 0x20
    return head[:2] in _FIRST_TAGS and (head[4:6] in _FIRST_VR or implicit)


def check_budget(height: int, width: int, max_pixels: int) -> None:
    """Raises UnreadableImage when a picture of this size must not be decoded.

    >>> check_budget(10, 10, max_pixels=99)
    Traceback (most recent call last):
    ...
    segdistill.errors.UnreadableImage: claims 10 x 10 pixels, more than the 99 that are allowed
    """
    if height < 1 or width < 1:
        raise UnreadableImage(f"claims {height} x {width} pixels")
    if height * width > max_pixels:
        raise UnreadableImage(
            f"claims {height} x {width} pixels, more than the {max_pixels} that are allowed"
        )


_BLOCK = 1 << 20
_BEHIND = 1 << 24  # bytes behind the voxels that are inflated to reach the checksum; a bomb holds more


class Inflating:
    """A zlib or gzip stream from a file's position on, read in parts; several members are one stream.

    Raises:
        InputError: the stream is damaged or cut off.

    >>> import io
    >>> stream = Inflating(io.BytesIO(zlib.compress(b"abcdef")))
    >>> stream.read(3), stream.read(3), stream.finish()
    (b'abc', b'def', None)
    """

    _member = b"\x1f\x8b"  # with which a further member begins

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._engine = self._new_engine()
        self._pending = b""
        self._done = 0

    @staticmethod
    def _new_engine() -> Any:
        return zlib.decompressobj(47)  # 32 + 15: zlib or gzip, whichever the stream is

    def read(self, count: int, exact: bool = True) -> bytes:
        """The next `count` bytes; with `exact` False fewer where the stream ends before."""
        parts: list[bytes] = []
        missing = count
        while missing > 0:
            part = self._part(missing)
            if part is None:
                break
            parts.append(part)
            missing -= len(part)
        if missing > 0 and exact:
            raise InputError(
                f"is cut off: {self._done} of {self._done + missing} bytes are there: restore the file"
            )
        return b"".join(parts)

    def skip(self, count: int) -> None:
        """Passes over the next `count` bytes."""
        while count > 0:
            count -= len(self.read(min(count, _BLOCK)))

    def finish(self) -> None:
        """Reads to the end of the file, where the checksums of all that was read are compared.

        Raises:
            InputError: a checksum differs or is missing, or the file goes on with something else.
        """
        behind = 0
        while (part := self._part(_BLOCK)) is not None:
            behind += len(part)
            if behind > _BEHIND:
                raise InputError("holds more data than its header claims: restore the file")
        if not self._engine.eof:
            raise InputError("is cut off: the checksum at its end is missing: restore the file")

    def _part(self, most: int) -> bytes | None:
        """Between 0 and `most` further bytes; None at the end of the file."""
        if self._engine.eof and not self._next_member():
            return None
        data = self._pending or self._file.read(_BLOCK)
        try:
            part = self._engine.decompress(data, most)
        except (zlib.error, OSError) as error:
            raise InputError("holds damaged compressed data: restore the file") from error
        self._pending = self._engine.unused_data if self._engine.eof else self._engine.unconsumed_tail
        self._done += len(part)
        return part if data or part or self._engine.eof else None

    def _next_member(self) -> bool:
        """Whether another member follows; zeros, with which tapes and archives fill up, are passed over."""
        while not (rest := self._pending.lstrip(b"\0")):
            self._pending = self._file.read(_BLOCK)
            if not self._pending:
                return False
        self._pending = rest + self._file.read(2)
        if not self._pending.startswith(self._member):
            raise InputError("is followed by bytes that do not belong to it: restore the file")
        self._engine = self._new_engine()
        return True


class _Bunzip:
    """A bzip2 decompressor with the surface of zlib's: what it has not used yet is given back."""

    unconsumed_tail = b""

    def __init__(self) -> None:
        self._engine = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, most: int) -> bytes:
        if self._engine.needs_input:
            self.unconsumed_tail = b""
            return self._engine.decompress(data, most)
        self.unconsumed_tail = data
        return self._engine.decompress(b"", most)


class Bunzipping(Inflating):
    """The same of a bzip2 stream.

    >>> import io
    >>> stream = Bunzipping(io.BytesIO(bz2.compress(b"abcdef")))
    >>> stream.read(3), stream.read(3), stream.finish()
    (b'abc', b'def', None)
    """

    _member = b"BZh"

    @staticmethod
    def _new_engine() -> Any:
        return _Bunzip()


def inflate_into(
    voxels: NDArray[Any], stored: np.dtype[Any], stream: Inflating, convert: Converter | None = None
) -> None:
    """Fills an array (D, H, W) from a stream, in parts, so that the voxels lie in memory only once.

    Args:
        voxels: to be filled, in C order.
        stored: the type of the stream's voxels.
        stream: stands at the first voxel.
        convert: applied to every part, such as a slope and an intercept; None: as it is.
    """
    flat = voxels.reshape(-1)
    step = _BLOCK // stored.itemsize
    for start in range(0, flat.size, step):
        count = min(step, flat.size - start)
        part = np.frombuffer(stream.read(count * stored.itemsize), stored)
        flat[start : start + count] = part if convert is None else convert(part)


def map_voxels(path: Path, stored: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Uncompressed voxels, mapped from their place in the file; InputError where the file ends before."""
    count, size = math.prod(shape) * stored.itemsize, path.stat().st_size
    if size - offset < count:
        raise InputError(f"is cut off: {max(size - offset, 0)} of {count} bytes are there: restore the file")
    return np.memmap(path, stored, "r", offset, shape)
