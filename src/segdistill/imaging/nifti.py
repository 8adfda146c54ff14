"""NIfTI volumes, .nii and .nii.gz: the header is judged first, and no more is inflated than it promises.

Source: NIfTI-1 and NIfTI-2 headers as nibabel parses them.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging.channels import Channels, check_channels
from segdistill.imaging.contours import class_colour
from segdistill.imaging.limits import Converter, Inflating, inflate_into, map_voxels
from segdistill.imaging.volume import TOLERANCE, Geometry, Vector, Volume, check_numbers, check_size, vector

_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_PLACE = (
    "qform_code",
    "sform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
)
_ROWS = ("srow_x", "srow_y", "srow_z")
_PAIR = 0.1  # voxels by which a qform, which cannot shear, may differ from the sform beside it


def read_nifti(path: Path, max_bytes: int, trust_unit_spacing: bool = False, part: int = 0) -> Volume:
    """Reads a volume of three dimensions, or one channel of four; an uncompressed one is mapped from the file.

    The sform counts where the file states one, else the qform; a second one is kept as `Volume.second`. A spacing
    of exactly (1, 1, 1) without a unit counts as unknown.

    Args:
        path: the file.
        max_bytes: of the volume.
        trust_unit_spacing: see `read_volume`.
        part: number of the channel, from 1, of a file of four dimensions; 0: the file has three.

    Raises:
        InputError: four dimensions without `part`, no such channel, over the budget, damaged or cut off, or a voxel
            type that is not real.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = Inflating(file) if packed else None
        header, size = _header(stream or file)
        dimensions = _channel_of(_dimensions(header), part) if part else _dimensions(header)
        dtype, scale = _stored(header)
        kept = dtype if scale is None else np.dtype(np.float32)
        columns, rows, slices = check_size(dimensions, kept.itemsize, max_bytes)
        shape = (slices, rows, columns)
        offset = _offset(header, size) + max(part - 1, 0) * slices * rows * columns * dtype.itemsize
        if stream is None:
            voxels = map_voxels(path, dtype, offset, shape)
            voxels = voxels if scale is None else scale(voxels)
        else:
            stream.skip(offset - size)
            voxels = np.empty(shape, kept)
            inflate_into(voxels, dtype, stream, scale)
            if not part:
                stream.finish()
    check_numbers(voxels)
    geometry, second, unit = _geometry(header, shape)
    spacing = _rounded(geometry.spacing)
    known = trust_unit_spacing or unit or spacing != (1.0, 1.0, 1.0)
    return Volume(voxels, spacing if known else None, path, geometry, second, header)


@dataclass(frozen=True)
class NiftiInfo:
    """What the header of a file states, without its voxels.

    Attributes:
        dimensions: (x, y, z) or more; trailing ones are dropped.
        labels: name -> value of the label table that the header carries, in its order; {} without one.
    """

    dimensions: tuple[int, ...]
    labels: dict[str, int]


_TABLE = 1 << 20  # bytes of extensions that are looked at
_LABEL = re.compile(
    r'<Label\s[^<>]*?Key="(\d{1,9})"[^<>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*))\s*</Label>', re.DOTALL
)


def read_nifti_info(path: Path) -> NiftiInfo:
    """Dimensions, and the label table that TotalSegmentator and Connectome Workbench put behind the header.

    The table is searched as text: nothing in it is expanded.

    Raises:
        InputError: no NIfTI file, or a damaged header.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = Inflating(file) if packed else None
        header, size = _header(stream or file)
        count = min(max(_offset(header, size) - size, 0), _TABLE)
        content = file.read(count) if stream is None else stream.read(count, exact=False)
    text = content.decode("utf-8", "replace")
    found = (
        (match[2] if match[2] is not None else match[3], int(match[1])) for match in _LABEL.finditer(text)
    )
    return NiftiInfo(_dimensions(header), {name.strip(): value for name, value in found})


def read_nifti_channels(path: Path, max_bytes: int) -> Channels:
    """Opens a file of four dimensions, classes last, of which one class at a time is read.

    A fifth dimension is taken for the classes where the fourth, time, has the length 1.

    Args:
        path: the file.
        max_bytes: of one channel.

    Returns:
        its channels (D, H, W), with their geometry.

    Raises:
        InputError: other dimensions, over the budget, damaged, or a voxel type that is not real. Reading the
            channels raises it where the file is damaged or cut off.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        header, size = _header(Inflating(file) if packed else file)
    found = _dimensions(header)
    if len(found) == 5 and found[3] == 1:
        found = (*found[:3], found[4])
    if len(found) != 4:
        raise InputError(f"has {len(found)} dimensions: maps of several classes have four, the classes last")
    dtype, scale = _stored(header)
    columns, rows, slices = check_channels(found[3], found[:3], dtype.itemsize, max_bytes)
    shape, offset = (slices, rows, columns), _offset(header, size)

    def read() -> Iterator[NDArray[Any]]:
        with open(path, "rb") as file:
            stream = Inflating(file) if packed else None
            if stream is not None:
                stream.skip(offset)
            for k in range(found[3]):
                if stream is None:
                    place = offset + k * slices * rows * columns * dtype.itemsize
                    mapped = map_voxels(path, dtype, place, shape)
                    yield mapped if scale is None else scale(mapped)
                    continue
                voxels = np.empty(shape, dtype if scale is None else np.float32)
                inflate_into(voxels, dtype, stream, scale)
                yield voxels
            if stream is not None:
                stream.finish()

    return Channels(path, found[3], shape, read, _geometry(header, shape)[0])


def _channel_of(dimensions: tuple[int, ...], part: int) -> tuple[int, ...]:
    """The sides of one channel of a file of four dimensions."""
    if len(dimensions) == 5 and dimensions[3] == 1:
        dimensions = (*dimensions[:3], dimensions[4])
    count = dimensions[3] if len(dimensions) == 4 else 1
    if len(dimensions) > 4 or part > count:
        raise InputError(
            f"has {count} channel{'s' * (count > 1)}, and channel {part} is wanted: correct the table or dataset.json"
        )
    return dimensions[:3]


def _dimensions(header: Any) -> tuple[int, ...]:
    """The sides, without ones behind the third."""
    dimensions = tuple(int(side) for side in header.get_data_shape())
    while len(dimensions) > 3 and dimensions[-1] == 1:
        dimensions = dimensions[:-1]
    return dimensions


def _stored(header: Any) -> tuple[np.dtype[Any], Converter | None]:
    """The type of the stored voxels, and what makes their values."""
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"holds voxels of type {dtype}, which is not read: save it as whole or real numbers")
    return dtype, _scale(header)


def _header(file: Inflating | IO[bytes]) -> tuple[Any, int]:
    """The header and its size; the stream then stands behind it."""
    import nibabel

    start = file.read(348, exact=False) if isinstance(file, Inflating) else file.read(348)
    kind: Any = nibabel.Nifti1Header
    if int.from_bytes(start[:4], "little") in (540, 469893120):
        kind = nibabel.Nifti2Header
        start += file.read(540 - 348)
    try:
        size = 348 if kind is nibabel.Nifti1Header else 540
        header = kind.from_fileobj(io.BytesIO(start), check=False)
        if int(header["sizeof_hdr"]) != size or not 1 <= int(header["dim"][0]) <= 7:
            raise ValueError("sizes")
        header.get_data_dtype(), header.get_data_shape()
    except Exception as error:  # nibabel raises whatever a damaged field leads to
        raise InputError("has a damaged NIfTI header: restore the file") from error
    magic = header["magic"].item()[:2]
    if magic == b"ni":
        raise InputError("is half of a .hdr/.img pair: save it as one .nii file")
    if magic != b"n+":
        raise InputError("has a header of Analyze 7.5, not of NIfTI, or a damaged one: save it as NIfTI")
    return header, size


def _scale(header: Any) -> Converter | None:
    """Applies the slope and the intercept; None where there is nothing to apply."""
    try:
        slope, intercept = header.get_slope_inter()
    except Exception as error:
        raise InputError("has a damaged NIfTI header: scl_slope or scl_inter is no number") from error
    if slope in (None, 1.0) and intercept in (None, 0.0):
        return None
    factor, summand = np.float32(slope or 1), np.float32(intercept or 0)

    def scaled(values: NDArray[Any]) -> NDArray[Any]:
        found = values.astype(np.float32)
        found *= factor
        found += summand
        return found

    return scaled


def _offset(header: Any, size: int) -> int:
    """Where the voxels begin: behind the header and its extensions."""
    stated = float(header["vox_offset"])
    if not 0 <= stated < 2**31:
        raise InputError("has a damaged NIfTI header: vox_offset is no place in the file")
    return max(int(stated), size)


def _geometry(header: Any, shape: tuple[int, int, int]) -> tuple[Geometry, Geometry | None, bool]:
    """The geometry in millimetres, the one by a second transform, and whether the header names the unit."""
    try:
        space = str(header.get_xyzt_units()[0])
        scale = _MM.get(space, 1.0)
        first = header.get_sform(coded=True)[0]
        by_quaternion = first is None and header.get_qform(coded=True)[0] is not None
        if by_quaternion:
            geometry = _by_quaternion(header, shape, scale)
        else:
            stated = first is not None
            geometry = _grid((first if stated else header.get_base_affine()) * scale, shape, stated)
    except InputError:
        raise
    except Exception as error:
        raise InputError("has a damaged NIfTI header: its qform or sform is no transform") from error
    second = None
    with suppress(Exception):  # the sform counts, whatever the qform beside it holds
        if not by_quaternion and header.get_qform(coded=True)[0] is not None:
            second = _by_quaternion(header, shape, scale)
    apart = second is not None and geometry.offset(second) > TOLERANCE
    return geometry, second if apart else None, space != "unknown"


_LOST = 2.0**-23  # of the sum of squares of a quaternion's three numbers, each rounded to single precision
_TAKEN_FOR_0 = 3 * _LOST  # square of the fourth number below which nibabel takes it for 0


def _by_quaternion(header: Any, shape: tuple[int, int, int], scale: float) -> Geometry:
    """The grid of the qform, and how far rounding of its quaternion may have turned its corners."""
    from nibabel import quaternions

    matrix: Any = quaternions.quat2mat
    affine = header.get_qform() * scale
    first, *others = (float(value) for value in header.get_qform_quaternion())
    other = math.sqrt(first**2 + _LOST + (0 if first else _TAKEN_FOR_0))
    turned = affine.copy()
    turned[:3, :3] = matrix([other, *others]) @ np.linalg.inv(matrix([first, *others])) @ affine[:3, :3]
    grid = _grid(affine, shape, True)
    return replace(grid, rounding=grid.offset(_grid(turned, shape, True)))


def _grid(affine: Any, shape: tuple[int, int, int], placed: bool) -> Geometry:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, float)
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    axes = (affine[:3, :3] / np.where(steps > 0, steps, 1)).T
    return Geometry(
        shape,
        vector(steps[::-1]),
        (vector(axes[2]), vector(axes[1]), vector(axes[0])),
        vector(affine[:3, 3]),
        placed,
    )


def _rounded(steps: Vector) -> Vector:
    """The header holds single precision."""
    return vector([round(step, 6 if step > 0.01 else 10) for step in steps])


def save_nifti(labels: NDArray[np.uint8], volume: Volume, path: Path, names: Sequence[str] = ()) -> None:
    """Writes a mask as .nii.gz, whole or not at all; the same labels give the same bytes.

    The mask of a NIfTI volume carries its qform and sform with their codes, its voxel sizes and its units, as they are.
    Of other formats the sform is written, and the qform where it can express the same: not for a sheared volume
    (gantry tilt).

    Args:
        labels: uint8 (D, H, W).
        volume: as stored (`read_volume(path, turn=False)`), on whose grid they lie.
        path: ends in .nii.gz.
        names: of the labels from 1: written behind the header as the table that viewers and TotalSegmentator read.

    Raises:
        InputError: the file cannot be written.

    >>> import tempfile
    >>> from segdistill.imaging.read_volume import read_volume
    >>> path = Path(tempfile.mkdtemp()) / "mask.nii.gz"
    >>> voxels, spacing = np.ones((2, 3, 4), np.uint8), (3.0, 0.5, 0.4)
    >>> save_nifti(voxels, Volume(voxels, spacing, path, Geometry((2, 3, 4), spacing)), path)
    >>> read_volume(path).spacing
    (3.0, 0.5, 0.4)
    """
    import nibabel

    large = max(labels.shape) > 32767
    kind: Any = type(volume.header) if volume.header is not None else nibabel.Nifti1Header
    header = (nibabel.Nifti2Header if large else kind)()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(labels.shape[::-1])
    if volume.header is not None:
        header["pixdim"][:4] = volume.header["pixdim"][:4]
        for field in (*_PLACE, *_ROWS):
            header[field] = volume.header[field]
        header["xyzt_units"] = volume.header["xyzt_units"]
    else:
        affine = affine_of(volume.geometry)
        header.set_xyzt_units("mm" if volume.spacing is not None else "unknown")
        header.set_sform(affine, code="scanner")
        header.set_qform(affine, code="scanner")
        if volume.geometry.offset(_grid(header.get_qform(), volume.geometry.shape, True)) > _PAIR:
            header.set_qform(None)
    table = _label_table(names)
    header["vox_offset"] = header.single_vox_offset + len(table)
    image = header.binaryblock + bytes([bool(table), 0, 0, 0]) + table + labels.tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(image, compresslevel=6, mtime=0))


def save_voxels(volume: Volume, path: Path, others: Sequence[Volume] = ()) -> None:
    """Writes a volume's own values as .nii.gz; numbers of 64 bits, which many tools do not read, as 32 bits.

    Args:
        volume: as stored (`read_volume(path, turn=False)`).
        path: ends in .nii.gz.
        others: further channels on the same grid, which become a fourth dimension.

    >>> import tempfile
    >>> from segdistill.imaging.read_volume import read_volume
    >>> path = Path(tempfile.mkdtemp()) / "volume.nii.gz"
    >>> voxels, spacing = np.ones((2, 3, 4), np.int16), (3.0, 0.5, 0.4)
    >>> save_voxels(Volume(voxels, spacing, path, Geometry((2, 3, 4), spacing)), path)
    >>> read_volume(path).voxels.dtype.name, read_volume(path).spacing
    ('int16', (3.0, 0.5, 0.4))
    """
    import nibabel

    nifti: Any = nibabel
    parts = [np.asarray(each.voxels) for each in (volume, *others)]
    voxels = np.stack(parts) if others else parts[0]
    if voxels.dtype.itemsize == 8:
        voxels = voxels.astype(np.float32 if voxels.dtype.kind == "f" else np.int32)
    image: Any = nifti.Nifti1Image(voxels.transpose(), affine_of(volume.geometry), dtype=voxels.dtype)
    image.header.set_xyzt_units("mm" if volume.spacing is not None else "unknown")
    nifti.save(image, path)


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """From indices (column, row, slice) to NIfTI's space, whose first two axes point to the right and to the front.

    >>> affine_of(Geometry((2, 3, 4), (3.0, 0.5, 0.4), origin=(1.0, 2.0, 3.0)))[0].tolist()
    [-0.4, 0.0, 0.0, -1.0]
    """
    columns = [
        np.asarray(axis) * step
        for axis, step in zip(geometry.axes[::-1], geometry.step_mm[::-1], strict=True)
    ]
    affine = np.eye(4)
    affine[:3] = np.column_stack([*columns, geometry.origin])
    affine[:2] *= -1
    return affine + 0.0  # no minus zeros


def _label_table(names: Sequence[str]) -> bytes:
    """A header extension (code 30, Caret) with the names of labels and their colours, padded to 16 bytes."""
    if not names:
        return b""
    rows = []
    for key, name in enumerate(names, start=1):
        red, green, blue = (f"{value / 255:.3f}" for value in class_colour(key))
        colour = f'Red="{red}" Green="{green}" Blue="{blue}" Alpha="1"'
        rows.append(f'<Label Key="{key}" {colour}><![CDATA[{name.replace("]]>", "")}]]></Label>')
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
        f"{''.join(rows)}</LabelTable><VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"
    ).encode()
    size = -(-(8 + len(text)) // 16) * 16
    return struct.pack("<ii", size, 30) + text.ljust(size - 8, b"\0")
