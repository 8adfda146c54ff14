"""NRRD volumes, the format in which NCI-ISBI 2013 publishes its masks: attached data, raw or gzip.

Source: the definition of the NRRD format at teem.sourceforge.net.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segdistill.errors import InputError
from segdistill.imaging.limits import inflate
from segdistill.imaging.volume import Geometry, Vector, Volume, check_finite, check_voxels

_HEADER = 1 << 16
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
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


def read_nrrd(path: Path, max_voxels: int, trust_unit_spacing: bool = False) -> Volume:
    """Reads a volume; a spacing of exactly (1, 1, 1) counts as unknown, as in a MetaImage.

    Raises:
        InputError: detached data, more or fewer than three dimensions, damaged or cut off.
    """
    with open(path, "rb") as file:
        start = file.read(_HEADER)
    end = min((k for k in (start.find(b"\n\n") + 2, start.find(b"\r\n\r\n") + 4) if k > 4), default=0)
    lines = start[:end].decode("latin-1").split("\n")
    if not end or not lines[0].startswith("NRRD"):
        raise InputError("is not an NRRD file with its data inside")
    pairs = (line.partition(":") for line in lines[1:] if not line.startswith("#"))
    header = {key.strip().lower(): value.strip().lstrip("=") for key, _, value in pairs if key.strip()}
    if "data file" in header or "datafile" in header:
        raise InputError("keeps its voxels in another file, which is not read: save them as one")
    kind = next((code for code, names in _TYPES.items() if header.get("type", "").lower() in names), "")
    encoding = header.get("encoding", "").lower()
    if not kind or encoding not in ("raw", "gzip", "gz"):
        raise InputError("holds voxels of a type or encoding that is not read: save them raw or gzip")
    try:
        sizes = tuple(int(part) for part in header.get("sizes", "").split())
    except ValueError:
        raise InputError("has a damaged header: sizes holds no numbers") from None
    shape = check_voxels(sizes[::-1], max_voxels)
    dtype = np.dtype((">" if header.get("endian", "little").lower() == "big" else "<") + kind)
    count = int(np.prod(shape)) * dtype.itemsize
    with open(path, "rb") as file:
        file.seek(end)
        data = file.read(count) if encoding == "raw" else inflate(file, count)
    if len(data) < count:
        raise InputError(f"is cut off: {len(data)} of {count} bytes are there")
    voxels = np.frombuffer(data, dtype).reshape(shape)
    check_finite(voxels)
    geometry = _geometry(header, shape)
    known = trust_unit_spacing or geometry.step_mm != (1.0, 1.0, 1.0)
    return Volume(voxels, geometry.step_mm if known else None, path, geometry)


def _geometry(header: dict[str, str], shape: tuple[int, int, int]) -> Geometry:
    if "space directions" not in header:
        steps = _numbers(header.get("spacings", "1 1 1"), 3)
        return Geometry(shape, (steps[2], steps[1], steps[0]))
    sign = np.asarray(_LPS.get(header.get("space", "").lower(), (1, 1, 1)), float)
    columns = np.asarray(_numbers(header["space directions"], 9)).reshape(3, 3) * sign
    steps = np.linalg.norm(columns, axis=1)
    if not (steps > 0).all():
        raise InputError("has a damaged header: an axis without length")
    axes = columns / steps[:, None]
    origin = np.asarray(_numbers(header.get("space origin", "(0,0,0)"), 3)) * sign
    return Geometry(
        shape, _vector(steps[::-1]), (_vector(axes[2]), _vector(axes[1]), _vector(axes[0])), _vector(origin)
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


def _vector(values: object) -> Vector:
    first, second, third = np.asarray(values, float).tolist()
    return first, second, third
