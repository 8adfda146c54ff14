"""NRRD volumes, the format in which NCI-ISBI 2013 publishes its masks: attached data, raw or gzip.

Source: the definition of the NRRD format at teem.sourceforge.net.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.limits import Inflating, inflate_into, map_voxels
from segdistill.imaging.volume import Geometry, Volume, check_numbers, check_size, vector

_PART = 1 << 16  # bytes of a line that are read at a time
_HEADER = 1 << 26  # bytes that a header may have: 3D Slicer writes about 700 per segment
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        "longlong",
        "long long",
        "long long int",
        "signed long long",
        "signed long long int",
        "int64",
        "int64_t",
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


def read_nrrd(path: Path, max_bytes: int, trust_unit_spacing: bool = False) -> Volume:
    """Reads a volume; a spacing of exactly (1, 1, 1) counts as unknown, as in a MetaImage.

    Raises:
        InputError: detached data, more or fewer than three dimensions, damaged or cut off.
    """
    with open(path, "rb") as file:
        header = _header(file)
        dtype, packed = _stored(header)
        try:
            sizes = tuple(int(part) for part in header.get("sizes", "").split())
        except ValueError:
            raise InputError("has a damaged header: sizes holds no numbers") from None
        shape = check_size(sizes[::-1], dtype.itemsize, max_bytes)
        geometry = _geometry(header, shape)
        if packed:
            voxels: NDArray[Any] = np.empty(shape, dtype)
            stream = Inflating(file)
            inflate_into(voxels, dtype, stream)
            stream.finish()
        else:
            voxels = map_voxels(path, dtype, file.tell(), shape)
    check_numbers(voxels)
    known = trust_unit_spacing or geometry.step_mm != (1.0, 1.0, 1.0)
    return Volume(voxels, geometry.spacing if known else None, path, geometry)


def _header(file: BinaryIO) -> dict[str, str]:
    """Fields in lower case; the file then stands behind the empty line that ends the header."""
    if not file.readline(_PART).startswith(b"NRRD"):
        raise InputError("is not an NRRD file")
    header: dict[str, str] = {}
    beginning = True  # of a line; long lines come in parts
    while file.tell() < _HEADER:
        line = file.readline(_PART)
        if beginning and line in (b"\n", b"\r\n"):
            return header
        if not line:
            raise InputError("is an NRRD header without voxels behind it: save header and voxels as one file")
        key, _, value = line.decode("latin-1").partition(":")
        if (
            beginning and not value.startswith("=") and not key.startswith("#")
        ):  # := is a remark of some program
            header[key.strip().lower()] = value.strip()
        beginning = line.endswith(b"\n")
    raise InputError(f"has a header of more than {_HEADER} bytes: restore the file")


def _stored(header: dict[str, str]) -> tuple[np.dtype[np.generic], bool]:
    """The type of the voxels as they are stored, and whether they are compressed."""
    if "data file" in header or "datafile" in header:
        raise InputError("keeps its voxels in another file, which is not read: save them as one")
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if header.get(key, "0") != "0":
            raise InputError(f"has a '{key}' before its voxels, which is not read: save it again without")
    kind = next((code for code, names in _TYPES.items() if header.get("type", "").lower() in names), "")
    if not kind:
        stated = header.get("type", "")[:20]
        raise InputError(
            f"holds voxels of type {stated!r}, which is not read: save them as whole or real numbers"
        )
    encoding = header.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(
            f"holds voxels in encoding {encoding[:20]!r}, which is not read: save them raw or gzip"
        )
    order = ">" if header.get("endian", "little").lower() == "big" else "<"
    return np.dtype(order + kind), encoding != "raw"


def _geometry(header: dict[str, str], shape: tuple[int, int, int]) -> Geometry:
    if "space directions" not in header:
        steps = _numbers(header.get("spacings", "1 1 1"), 3)
        return Geometry(shape, (steps[2], steps[1], steps[0]), placed=False)
    sign = np.asarray(_LPS.get(header.get("space", "").lower(), (1, 1, 1)), float)
    columns = np.asarray(_numbers(header["space directions"], 9)).reshape(3, 3) * sign
    steps = np.linalg.norm(columns, axis=1)
    if not (steps > 0).all():
        raise InputError("has a damaged header: an axis without length")
    axes = columns / steps[:, None]
    origin = np.asarray(_numbers(header.get("space origin", "(0,0,0)"), 3)) * sign
    return Geometry(
        shape, vector(steps[::-1]), (vector(axes[2]), vector(axes[1]), vector(axes[0])), vector(origin)
    )


def _numbers(text: str, count: int) -> list[float]:
    for mark in "(),":
        text = text.replace(mark, " ")
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"has a damaged header: {count} numbers were expected")
    return values
