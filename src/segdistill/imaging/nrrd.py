"""NRRD volumes, the format in which NCI-ISBI 2013 publishes its masks, and segmentations of 3D Slicer (.seg.nrrd).

Data are attached: raw, gzip, bzip2 or text. Sources: the definition of the NRRD format at teem.sourceforge.net; 3D
Slicer's manual, "Segmentations", on the fields that it adds.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging.contours import class_colour
from segdistill.imaging.limits import Bunzipping, Inflating, inflate_into, map_voxels
from segdistill.imaging.segments import Choose, Painting, Segment, segment_name
from segdistill.imaging.volume import (
    MAX_BYTES,
    Geometry,
    Misfit,
    Volume,
    check_numbers,
    check_size,
    require_same_geometry,
    vector,
)

_PART = 1 << 16  # bytes of a line that are read at a time
_HEADER = 1 << 26  # bytes that a header may have: 3D Slicer writes about 700 per segment
_SEGMENT = re.compile(r"Segment(\d{1,6})_ID")
_NOT_MM = {"um", "µm", "micron", "microns", "micrometer", "micrometre", "nm", "cm", "m", "inch", "inches"}
_UNKNOWN = 255  # index of a value that no segment has
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
_ENCODINGS = {
    "raw": "raw",
    **dict.fromkeys(("gzip", "gz"), "gzip"),
    **dict.fromkeys(("bzip2", "bz2"), "bzip2"),
    **dict.fromkeys(("ascii", "text", "txt"), "text"),
}
_TOKEN = 400  # bytes that a number in text may have
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
        header, _ = _header(file)
        dtype, encoding = _stored(header)
        shape = check_size(_sizes(header)[::-1], dtype.itemsize, max_bytes)
        geometry = _geometry(header, shape)
        voxels = _voxels(file, path, dtype, encoding, shape)
    check_numbers(voxels)
    known = trust_unit_spacing or geometry.step_mm != (1.0, 1.0, 1.0)
    return Volume(voxels, geometry.spacing if known else None, path, geometry)


def read_nrrd_segments(path: Path) -> list[Segment]:
    """The segments that a file of 3D Slicer names in its header; none of another NRRD file.

    Files of 3D Slicer before 4.11 state neither values nor layers: each segment then has a layer of its own.

    Raises:
        InputError: a damaged header.
    """
    with open(path, "rb") as file:
        header, remarks = _header(file)
    return _segments(remarks, len(_sizes(header)) > 3)


def _segments(remarks: dict[str, str], has_layers: bool) -> list[Segment]:
    numbers = sorted(int(match[1]) for key in remarks if (match := _SEGMENT.fullmatch(key)))
    found = []
    try:
        for n in numbers:
            value = int(remarks.get(f"Segment{n}_LabelValue", "1" if has_layers else n + 1))
            layer = int(remarks.get(f"Segment{n}_Layer", n if has_layers else 0))
            found.append(Segment(segment_name(remarks.get(f"Segment{n}_Name"), n + 1), value, layer))
    except ValueError:
        raise InputError("has a damaged header: a segment whose value or layer is no number") from None
    if any(not 0 < each.number < 65536 or each.layer < 0 for each in found):
        raise InputError("has a damaged header: a segment whose value is not from 1 to 65535")
    return found


def read_nrrd_mask(path: Path, image: Volume, choose: Choose) -> tuple[Painting, Misfit | None]:
    """The classes of a segmentation of 3D Slicer on the grid of its image, of which it may cover a part.

    Args:
        path: the file. A first axis of kind list holds its layers.
        image: as stored (`turn=False`).
        choose: gives the class of each segment.

    Returns:
        the index mask, and how it lies beside its image; None where it does not.

    Raises:
        InputError: as `read_nrrd`; another grid, or a value that no segment has.
    """
    with open(path, "rb") as file:
        header, remarks = _header(file)
        dtype, encoding = _stored(header)
        sizes = _sizes(header)
        layers = sizes[0] if len(sizes) == 4 else 1
        depth, height, width = check_size(sizes[-3:][::-1] if len(sizes) > 2 else sizes, 4, MAX_BYTES)
        check_size((depth, height, width * max(layers, 1)), dtype.itemsize, MAX_BYTES)
        if len(sizes) > 4 or layers < 1 or dtype.kind == "f":
            raise InputError("is not a segmentation: save it again as .seg.nrrd, with whole numbers")
        start, misfit = _place(image, Volume(None, None, path, _geometry(header, (depth, height, width))))  # type: ignore[arg-type]
        voxels = _voxels(file, path, dtype, encoding, (depth, height, width, layers))
    lookup = _lookup(_segments(remarks, len(sizes) > 3), layers, choose)
    painting = Painting(image.geometry.shape)
    rows, columns = slice(start[1], start[1] + height), slice(start[2], start[2] + width)
    for k, values in enumerate(voxels):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= len(lookup[0]):
            raise InputError(f"holds values from {low} to {high}: labels go from 0 to {len(lookup[0]) - 1}")
        for layer, indices in enumerate(lookup):
            found = indices[values[..., layer]]
            if (found == _UNKNOWN).any():
                value = int(values[..., layer][found == _UNKNOWN][0])
                raise InputError(f"holds the value {value}, which no segment has: save it again in 3D Slicer")
            painting.add((start[0] + k, rows, columns), found)
    return painting, misfit


def write_nrrd_mask(mask: NDArray[np.uint8], volume: Volume, path: Path, names: Sequence[str]) -> None:
    """Writes a mask as a segmentation of 3D Slicer: one layer, a value for each class.

    The same mask gives the same bytes.

    Args:
        mask: class indices (D, H, W) on the grid of the volume as stored.
        volume: on whose grid it lies.
        path: ends in .seg.nrrd.
        names: of the classes, from index 1.

    Raises:
        InputError: the file cannot be written.

    >>> import tempfile
    >>> path, voxels = Path(tempfile.mkdtemp()) / "a.seg.nrrd", np.ones((2, 3, 4), np.uint8)
    >>> write_nrrd_mask(voxels, Volume(voxels, None, path, Geometry((2, 3, 4), (3.0, 0.5, 0.4))), path, ["liver"])
    >>> read_nrrd_segments(path)
    [Segment(name='liver', number=1, layer=0)]
    """
    geometry = volume.geometry
    axes = [np.multiply(axis, step) for axis, step in zip(geometry.axes, geometry.step_mm, strict=True)]
    depth, height, width = mask.shape
    lines = [
        "NRRD0004",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {width} {height} {depth}",
        f"space directions: {' '.join(map(_vector_text, reversed(axes)))}",
        "kinds: domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector_text(geometry.origin)}",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    for n, name in enumerate(names):
        red, green, blue = (f"{value / 255:.6g}" for value in class_colour(n + 1))
        lines += [
            f"Segment{n}_ID:=Segment_{n + 1}",
            f"Segment{n}_Name:={name}",
            f"Segment{n}_NameAutoGenerated:=0",
            f"Segment{n}_Color:={red} {green} {blue}",
            f"Segment{n}_ColorAutoGenerated:=0",
            f"Segment{n}_Extent:=0 {width - 1} 0 {height - 1} 0 {depth - 1}",
            f"Segment{n}_LabelValue:={n + 1}",
            f"Segment{n}_Layer:=0",
        ]
    packed = gzip.compress(np.ascontiguousarray(mask, np.uint8).tobytes(), compresslevel=6, mtime=0)
    with atomic_write(path) as temporary:
        temporary.write_bytes("\n".join([*lines, "", ""]).encode("utf-8") + packed)


def _vector_text(values: ArrayLike) -> str:
    return f"({','.join(repr(float(value)) for value in np.asarray(values))})"


def _lookup(segments: list[Segment], layers: int, choose: Choose) -> NDArray[np.uint8]:
    """(layers, 65536): the class of each value of each layer."""
    lookup = np.full((layers, 1 << 16), _UNKNOWN, np.uint8)
    lookup[:, 0] = 0
    for segment, index in zip(segments, choose(segments), strict=True):
        if segment.layer >= layers:
            raise InputError(f"has the segment '{segment.name}' in a layer that is not there: save it again")
        lookup[segment.layer, segment.number] = index
    return lookup


def _place(image: Volume, mask: Volume) -> tuple[list[int], Misfit | None]:
    """The voxel of the image at which a mask begins, and how it lies beside it; 3D Slicer crops what it saves."""
    whole, part, start = image.geometry, mask.geometry, [0, 0, 0]
    if whole.shape != part.shape and whole.placed and part.placed:
        start = [int(v) for v in np.rint(whole.in_voxels(np.subtract(part.origin, whole.origin)))]
        if any(s < 0 or s + n > side for s, n, side in zip(start, part.shape, whole.shape, strict=True)):
            raise InputError(f"reaches beyond its image {image.source}: resample the mask onto the image")
        origin = np.subtract(part.origin, np.multiply(start, part.step_mm) @ np.asarray(part.axes))
        part = replace(part, shape=whole.shape, origin=vector(origin), placed=True)
    return start, require_same_geometry(image, replace(mask, geometry=part))


def _sizes(header: dict[str, str]) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in header.get("sizes", "").split())
    except ValueError:
        raise InputError("has a damaged header: sizes holds no numbers") from None


def _voxels(
    file: BinaryIO, path: Path, dtype: np.dtype[np.generic], encoding: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """The voxels behind the header, at which the file stands."""
    if encoding == "raw":
        return map_voxels(path, dtype, file.tell(), shape)
    voxels: NDArray[Any] = np.empty(shape, dtype)
    if encoding == "text":
        _read_text(file, voxels.reshape(-1))
        return voxels
    stream = Bunzipping(file) if encoding == "bzip2" else Inflating(file)
    inflate_into(voxels, dtype, stream)
    stream.finish()
    return voxels


def _read_text(file: BinaryIO, voxels: NDArray[Any]) -> None:
    """Fills a flat array with the numbers, between spaces and line ends, up to the end of the file."""
    done, rest = 0, b""
    while part := file.read(_PART):
        words = (rest + part).split()
        rest = b"" if part[-1:].isspace() else words.pop()
        if len(rest) > _TOKEN:
            raise InputError("holds damaged text: a number without end: restore the file")
        done = _put(words, voxels, done)
    done = _put([rest] if rest else [], voxels, done)
    if done < voxels.size:
        raise InputError(f"is cut off: {done} of {voxels.size} numbers are there: restore the file")


def _put(words: list[bytes], voxels: NDArray[Any], start: int) -> int:
    """Writes numbers to their place; gives the place behind them."""
    end = start + len(words)
    if end > voxels.size:
        raise InputError("holds more data than its header claims: restore the file")
    try:
        numbers = [float(word) if voxels.dtype.kind == "f" else int(word) for word in words]
    except ValueError:
        raise InputError(
            f"holds damaged text: what is no number of its type, {voxels.dtype.name}: restore the file"
        ) from None
    if numbers and voxels.dtype.kind != "f":
        kept = np.iinfo(voxels.dtype)
        if beyond := [value for value in (min(numbers), max(numbers)) if not kept.min <= value <= kept.max]:
            raise InputError(
                f"holds the number {beyond[0]:.9g}, and its type goes from {kept.min} to {kept.max}: save it again "
                "with a larger type"
            )
    with np.errstate(over="ignore"):
        voxels[start:end] = numbers
    return end


def _header(file: BinaryIO) -> tuple[dict[str, str], dict[str, str]]:
    """Fields in lower case, and remarks of programs; the file then stands behind the empty line after the header."""
    if not file.readline(_PART).startswith(b"NRRD"):
        raise InputError("is not an NRRD file")
    header: dict[str, str] = {}
    remarks: dict[str, str] = {}
    beginning = True  # of a line; long lines come in parts
    while file.tell() < _HEADER:
        line = file.readline(_PART)
        if beginning and line in (b"\n", b"\r\n"):
            return header, remarks
        if not line:
            raise InputError("is an NRRD header without voxels behind it: save header and voxels as one file")
        key, _, value = line.decode("utf-8", "replace").partition(":")
        if beginning and value.startswith("="):  # := is a remark of some program
            remarks[key] = value[1:].strip()
        elif beginning and not key.startswith("#"):
            header[key.strip().lower()] = value.strip()
        beginning = line.endswith(b"\n")
    raise InputError(f"has a header of more than {_HEADER} bytes: restore the file")


def _stored(header: dict[str, str]) -> tuple[np.dtype[np.generic], str]:
    """The type of the voxels as they are stored, and how they are written: one of `_ENCODINGS`."""
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
    if encoding not in _ENCODINGS:
        raise InputError(
            f"holds voxels in encoding {encoding[:20]!r}, which is not read: save them raw, gzip, bzip2 or as text"
        )
    order = ">" if header.get("endian", "little").lower() == "big" else "<"
    return np.dtype(order + kind), _ENCODINGS[encoding]


def _geometry(header: dict[str, str], shape: tuple[int, int, int]) -> Geometry:
    units = set(re.findall(r'"([^"]*)"', header.get("space units", "") or header.get("units", "")))
    if wrong := sorted(units & _NOT_MM):
        raise InputError(f"states its sizes in {wrong[0]}, not in millimetres: save it again in mm")
    if "space directions" not in header:
        steps = _numbers(header.get("spacings", "1 1 1"), 3)
        return Geometry(shape, (steps[2], steps[1], steps[0]), placed=False)
    sign = np.asarray(_LPS.get(header.get("space", "").lower(), (1, 1, 1)), float)
    columns = np.asarray(_numbers(header["space directions"].replace("none", ""), 9)).reshape(3, 3) * sign
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
