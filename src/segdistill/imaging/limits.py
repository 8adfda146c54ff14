"""How large a picture may claim to be: a few bytes can ask for more memory than there is."""

from __future__ import annotations

import zlib
from typing import IO

from segdistill.errors import InputError, UnreadableImage


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


def inflate(file: IO[bytes], count: int, exact: bool = True) -> bytes:
    """The first `count` bytes of a zlib or gzip stream that begins at the file's position.

    Args:
        file: where the stream is.
        count: how many bytes are wanted.
        exact: False gives fewer where the stream ends before.

    Raises:
        InputError: the stream is damaged or ends before.

    >>> import io
    >>> inflate(io.BytesIO(zlib.compress(b"abcdef")), 3)
    b'abc'
    """
    engine = zlib.decompressobj(47)  # 32 + 15: zlib or gzip, whichever the stream is
    parts: list[bytes] = []
    missing, pending = count, b""
    try:
        while missing > 0:
            pending = pending or file.read(_BLOCK)
            if not pending and not exact:
                break
            if not pending:
                raise InputError(f"is cut off: {count - missing} of {count} bytes are there")
            part = engine.decompress(pending, missing)
            pending = engine.unconsumed_tail
            if engine.eof:  # a gzip file may hold several members
                pending = engine.unused_data
                engine = zlib.decompressobj(47)
            parts.append(part)
            missing -= len(part)
    except zlib.error as error:
        raise InputError("holds damaged compressed data") from error
    return b"".join(parts)
