"""Run lengths: a mask as the lengths of its runs, the first of which is background (and may be 0).

COCO goes down the columns, CVAT along the rows. COCO also writes the lengths as a text: each is given as its difference
to the one but one before it (from the fourth on), in groups of five bits, the lowest first, a bit more for "goes on",
and 48 added so that all are printable (Lin et al., Microsoft COCO, ECCV 2014; the format is that of its mask API).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.picture import Mask

_BITS, _SIGN, _MORE, _FIRST = 0x1F, 0x10, 0x20, 48


def decode_runs(counts: Sequence[int], size: tuple[int, int], columns: bool = True) -> Mask:
    """The mask of these run lengths.

    Args:
        counts: pixels of each run; background and foreground alternate, background first.
        size: (height, width).
        columns: runs go down the columns, as COCO's; False: along the rows, as CVAT's.

    Returns:
        bool (height, width).

    Raises:
        InputError: a negative length, or lengths that do not cover the mask exactly.

    >>> decode_runs([2, 3, 1, 1], (1, 7)).astype(int).tolist()
    [[0, 0, 1, 1, 1, 0, 1]]
    >>> decode_runs([1, 2, 1], (2, 2), columns=False).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    height, width = size
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise InputError(
            f"the run lengths cover {sum(counts)} pixels, but the mask has {height} x {width} = {height * width}: "
            "restore the annotation"
        )
    values = np.arange(len(counts)) % 2 == 1
    flat: Mask = np.repeat(values, np.asarray(counts, np.int64))
    return flat.reshape(width, height).T if columns else flat.reshape(height, width)


def encode_runs(mask: NDArray[Any], columns: bool = True) -> list[int]:
    """The reverse of `decode_runs`; foreground is what is not zero.

    >>> encode_runs(np.array([[1, 1, 1, 1, 1, 1, 0]]))
    [0, 6, 1]
    """
    flat = (np.asarray(mask) != 0).ravel(order="F" if columns else "C")
    edges = np.flatnonzero(np.diff(flat, prepend=False)) if flat.size else np.zeros(0, np.int64)
    lengths = np.diff(np.concatenate(([0], edges, [flat.size])))
    return [int(length) for length in lengths]


def unpack_runs(text: str) -> list[int]:
    """The run lengths of COCO's text.

    Raises:
        InputError: a character that does not occur in it, or a text that ends too early.

    >>> unpack_runs("052M3")
    [0, 5, 2, 2, 5]
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - _FIRST
        if not 0 <= code < 2 * _MORE or shift > 60:
            raise InputError(f"{character!r} is no part of compressed run lengths: restore the annotation")
        value |= (code & _BITS) << shift
        shift += 5
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError("the compressed run lengths end within a number: restore the annotation")
    return counts


def pack_runs(counts: Sequence[int]) -> str:
    """The reverse of `unpack_runs`.

    >>> pack_runs([0, 5, 2, 2, 5]), unpack_runs(pack_runs([70000, 3, 9, 1]))
    ('052M3', [70000, 3, 9, 1])
    """
    text = []
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            code, value = value & _BITS, value >> 5
            more = value != (-1 if code & _SIGN else 0)
            text.append(chr(code + _MORE * more + _FIRST))
    return "".join(text)
