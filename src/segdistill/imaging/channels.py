"""Files with one probability map per class, read one class at a time: nnU-Net's .npz, and NIfTI of four dimensions.

Source of the layout: nnU-Net (Isensee et al., Nature Methods 18, 2021), version 2, which stores an array
`probabilities` (C, z, y, x) in the order of SimpleITK, and (C, 1, H, W) for pictures.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.volume import Geometry, check_size

KEY = "probabilities"
"""The array of an .npz file that is read."""

_MOST = 1024  # channels
_TOTAL = 8  # times the largest volume that all channels together may claim
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True, eq=False)
class Channels:
    """Maps of one size, of which one at a time lies in memory.

    Attributes:
        source: the file.
        count: how many there are.
        shape: (D, H, W) of each one; D is 1 for a picture.
        read: gives them in their order, in the file's own numbers.
        geometry: how they lie in space; None where the file does not state it.

    >>> once = Channels(Path("a.npz"), 2, (1, 1, 1), lambda: iter(np.zeros((2, 1, 1, 1))))
    >>> [values.shape for values in once.read()]
    [(1, 1, 1), (1, 1, 1)]
    """

    source: Path
    count: int
    shape: tuple[int, int, int]
    read: Callable[[], Iterator[NDArray[Any]]]
    geometry: Geometry | None = None


def check_channels(count: int, shape: tuple[int, ...], itemsize: int, max_bytes: int) -> tuple[int, int, int]:
    """The shape of one channel, or InputError when it, or all of them, would take more than is allowed.

    >>> check_channels(2, (3, 4, 5), 2, 240)
    (3, 4, 5)
    >>> check_channels(5000, (3, 4, 5), 2, 240)
    Traceback (most recent call last):
    segdistill.errors.InputError: claims 5000 channels: from 1 to 1024 are read
    """
    if not 1 <= count <= _MOST:
        raise InputError(f"claims {count} channels: from 1 to {_MOST} are read")
    checked = check_size(shape, itemsize, max_bytes)
    if count * math.prod(checked) * itemsize > _TOTAL * max_bytes:
        raise InputError(
            f"claims {count} channels of {math.prod(checked)} voxels, more than the {_TOTAL * max_bytes} bytes that "
            "are allowed: save fewer classes"
        )
    return checked


def read_npz(path: Path, max_bytes: int) -> Channels:
    """Opens the array `probabilities` of an .npz file; nothing is unpickled, and its size is judged before it is read.

    Args:
        path: the file.
        max_bytes: of one channel, at least four bytes a voxel.

    Returns:
        its channels (D, H, W).

    Raises:
        InputError: no .npz file, another array, other numbers than float16, float32 or float64, or a size that is too
            large or not what the array needs. Reading the channels raises it where their checksum differs.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez_compressed(path, probabilities=np.zeros((2, 1, 3, 4), np.float16))
    >>> read_npz(path, 2**20).shape
    (1, 3, 4)
    """
    with zipfile.ZipFile(path) as archive, archive.open(_entry(archive)) as file:
        shape, _, dtype = _header(file)
        if len(shape) != 4:
            sides = " x ".join(map(str, shape))
            raise InputError(f"holds an array of {sides}: '{KEY}' has four dimensions, (classes, z, y, x)")
        each = check_channels(shape[0], shape[1:], dtype.itemsize, max_bytes)
        needed = file.tell() + math.prod(shape) * dtype.itemsize
        if archive.getinfo(f"{KEY}.npy").file_size != needed:
            raise InputError(
                f"is damaged: '{KEY}' needs {needed} bytes and claims another number: restore it"
            )
    return Channels(path, shape[0], each, lambda: _channels(path))


def _channels(path: Path) -> Iterator[NDArray[Any]]:
    with zipfile.ZipFile(path) as archive, archive.open(_entry(archive)) as file:
        shape, is_fortran, dtype = _header(file)
        size = math.prod(shape[1:]) * dtype.itemsize
        if is_fortran:  # classes lie beside each other
            content = _exactly(file, shape[0] * size)
            yield from np.frombuffer(content, dtype).reshape(shape, order="F")
        else:
            for _ in range(shape[0]):
                yield np.frombuffer(_exactly(file, size), dtype).reshape(shape[1:])
        file.read(1)  # at its end the checksum is compared


def _entry(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    names = archive.namelist()
    if f"{KEY}.npy" not in names:
        found = ", ".join(name.removesuffix(".npy") for name in names[:4]) or "nothing"
        raise InputError(
            f"holds {found[:80]}, not '{KEY}': predict with nnU-Net version 2 and --save_probabilities"
        )
    entry = archive.getinfo(f"{KEY}.npy")
    if entry.compress_type not in _METHODS or entry.flag_bits & 1:
        raise InputError("is encrypted or compressed in a way that NumPy does not write: save it again")
    return entry


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("version")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise InputError(f"is damaged: '{KEY}' is no array of NumPy: restore it") from error
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise InputError(f"holds values of type {str(dtype)[:20]}: '{KEY}' holds float16, float32 or float64")
    return shape, is_fortran, dtype


def _exactly(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise InputError(f"is cut off: {len(content)} of {count} bytes are there: restore the file")
    return content
