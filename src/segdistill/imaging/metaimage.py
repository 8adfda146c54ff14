"""MetaImage volumes: .mhd with its .raw or .zraw, and .mha. A reader of its own, so that no large library is needed.

Source: the MetaIO documentation of ITK. Values are checked against SimpleITK in the tests.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.limits import Inflating, inflate_into, map_voxels
from segdistill.imaging.volume import Geometry, Vector, Volume, check_numbers, check_size

_PART = 1 << 16  # bytes of a header that are read at a time
_HEADER = 1 << 24  # bytes that a header may have
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def data_file(path: Path) -> Path:
    """The file that holds the voxels of a header; the header itself for LOCAL.

    Raises:
        InputError: no MetaImage header, or voxels in several files or another folder.
    """
    return _data_file(path, _header(path)[0])


def read_metaimage(path: Path, max_bytes: int, trust_unit_spacing: bool = False) -> Volume:
    """Reads a volume; uncompressed voxels are mapped from the file.

    A header of exactly (1, 1, 1) mm is what remains when the spacing was lost: it counts as unknown.

    Args:
        path: the .mhd or .mha file.
        max_bytes: larger volumes are refused from the header alone.
        trust_unit_spacing: (1, 1, 1) really means one millimetre.

    Raises:
        InputError: a damaged, cut-off or unsupported file.
    """
    header, end = _header(path)
    dimensions = int(_numbers(header, "NDims", (3,))[0])
    sizes = _numbers(header, "DimSize", ())
    if len(sizes) != dimensions or not all(size.is_integer() for size in sizes):
        raise InputError("has a damaged header: NDims and DimSize disagree")
    if int(_numbers(header, "ElementNumberOfChannels", (1,))[0]) != 1:
        raise InputError("holds several channels: a volume has one; save each one apart")
    name = header.get("elementtype", "").upper()
    if name not in _TYPES:
        raise InputError(f"holds voxels of type {name[:20]!r}, which is not read")
    order = ">" if _flag(header, "BinaryDataByteOrderMSB") or _flag(header, "ElementByteOrderMSB") else "<"
    dtype = np.dtype(order + _TYPES[name])
    shape = check_size(tuple(int(size) for size in reversed(sizes)), dtype.itemsize, max_bytes)
    if header.get("binarydata", "true").lower() == "false":
        raise InputError("holds voxels as text, which is not read: save them binary")
    source = _data_file(path, header)
    voxels = _voxels(source, header, dtype, shape, end if source == path else 0)
    check_numbers(voxels)
    spacing = _spacing(header)
    known = trust_unit_spacing or spacing != (1.0, 1.0, 1.0)
    return Volume(voxels, spacing if known else None, path, _geometry(header, shape, spacing))


def _voxels(
    source: Path, header: dict[str, str], dtype: np.dtype[Any], shape: tuple[int, int, int], start: int
) -> NDArray[Any]:
    count = int(np.prod(shape)) * dtype.itemsize
    if not source.is_file():
        raise InputError(f"its voxels are missing: there is no {source.name} beside it")
    if _flag(header, "CompressedData"):
        voxels = np.empty(shape, dtype)
        with open(source, "rb") as file:
            file.seek(start)
            stream = Inflating(file)
            inflate_into(voxels, dtype, stream)
            stream.finish()
        return voxels
    skip = int(_numbers(header, "HeaderSize", (0,))[0])
    offset = source.stat().st_size - count if skip == -1 else start + skip
    if offset < 0:
        raise InputError(f"is cut off: {source.name} holds fewer than {count} bytes: restore the file")
    return map_voxels(source, dtype, offset, shape)


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Keys in lower case, and where the header ends."""
    header: dict[str, str] = {}
    beginning = True  # of a line; long lines come in parts
    with open(path, "rb") as file:
        while file.tell() < _HEADER and (line := file.readline(_PART)):
            key, equals, value = line.decode("latin-1").partition("=")
            if beginning and not equals and key.strip():
                break
            if beginning:
                header[key.strip().lower()] = value.strip()
            if beginning and key.strip().lower() == "elementdatafile":
                return header, file.tell()
            beginning = line.endswith(b"\n")
    raise InputError("is not a MetaImage header: it names no ElementDataFile")


def _data_file(path: Path, header: dict[str, str]) -> Path:
    name = header["elementdatafile"]
    while name.startswith(("./", ".\\")):
        name = name[2:]
    if name.upper() == "LOCAL":
        return path
    if name.upper().startswith("LIST") or "%" in name or (" " in name and not (path.parent / name).exists()):
        raise InputError("keeps its voxels in several files, which is not read: save them as one")
    if Path(name).name != name or name in ("", ".", ".."):
        raise InputError(
            "names voxels outside of its own folder, which is not followed: put both files together"
        )
    source = path.parent / name
    if source.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
        raise InputError(
            f"its voxels, {name}, are a link to another folder, which is not followed: put both files together"
        )
    return source


def _geometry(header: dict[str, str], shape: tuple[int, int, int], spacing: Vector) -> Geometry:
    matrix = next(
        (
            _numbers(header, key, ())
            for key in ("TransformMatrix", "Orientation", "Rotation")
            if key.lower() in header
        ),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    )
    origin = next(
        (_numbers(header, key, ()) for key in ("Offset", "Position", "Origin") if key.lower() in header),
        (0.0, 0.0, 0.0),
    )
    if len(matrix) != 9 or len(origin) != 3:
        raise InputError("has a damaged header: TransformMatrix and Offset need nine and three numbers")
    signs = _numbers(header, _spacing_key(header), (1.0, 1.0, 1.0))  # a negative spacing turns its axis round
    columns, rows, slices = (_unit(matrix[3 * k : 3 * k + 3], signs[k]) for k in range(3))
    axes = (slices, rows, columns)
    return Geometry(shape, spacing, axes, (origin[0], origin[1], origin[2]))


def _unit(values: tuple[float, ...], sign: float) -> Vector:
    length = math.copysign(float(np.linalg.norm(values)), sign)
    if not abs(length) > 0:
        raise InputError("has a damaged header: TransformMatrix holds an axis without direction")
    return values[0] / length, values[1] / length, values[2] / length


def _spacing_key(header: dict[str, str]) -> str:
    return "ElementSpacing" if "elementspacing" in header else "ElementSize"


def _spacing(header: dict[str, str]) -> Vector:
    key = _spacing_key(header)
    values = tuple(abs(value) for value in _numbers(header, key, (1.0, 1.0, 1.0)))
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise InputError(f"has a damaged header: {key} must be three positive numbers")
    return values[2], values[1], values[0]


def _numbers(header: dict[str, str], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    text = header.get(key.lower())
    if text is None:
        return default
    try:
        values = tuple(float(part) for part in text.split())
    except ValueError:
        values = ()
    if not values or not all(np.isfinite(values)):
        raise InputError(f"has a damaged header: {key} holds no numbers")
    return values


def _flag(header: dict[str, str], key: str) -> bool:
    return header.get(key.lower(), "").strip().lower() in ("true", "1")
