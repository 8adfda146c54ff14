"""Single-frame DICOM to 8-bit pixels. The header is judged before a single pixel is decoded.

Sources: DICOM PS3.3 C.7.6.3 (pixels), C.11.1 and C.11.2 (rescale and window), PS3.5 A (transfer syntaxes).
"""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom._uid_dict import UID_dictionary
from pydicom.encaps import get_frame
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_voi
from pydicom.pixels.utils import pixel_array

from segdistill.errors import InputError, UnreadableImage
from segdistill.imaging.intensity import Intensity, stretch
from segdistill.imaging.limits import HEAD, check_budget, dicom_start
from segdistill.imaging.picture import Picture, Pixels, Spacing
from segdistill.imaging.volume import check_numbers

_TWO_D, _TISSUE, _CM = 1, 1, 3
_PROJECTION = ("XA", "RF", "DX", "CR", "MG", "PX", "IO")


def read_spacing(header: Any) -> Spacing | None:
    """Spacing of a DICOM data set.

    - Ultrasound regions: the largest 2-D tissue region whose axes are both in cm; valid inside that region
      only. When there are regions and none is such, there is no spacing.
    - PixelSpacing, which is (row, column); on projection radiographs only when it differs from the spacing at
      the detector, which means that it was calibrated.
    - ImagerPixelSpacing divided by the magnification, when the file gives one; its source is then "estimated".

    >>> from pydicom import Dataset
    >>> header = Dataset()
    >>> header.PixelSpacing = [0.2, 0.1]
    >>> read_spacing(header)
    Spacing(row_mm=0.2, column_mm=0.1, source='PixelSpacing', region=None)
    """
    try:
        if header.get("SequenceOfUltrasoundRegions"):
            return _ultrasound(header)
        at_detector = _pair(header.get("ImagerPixelSpacing"))
        calibrated = _pair(header.get("PixelSpacing"))
        if calibrated and not (header.get("Modality") in _PROJECTION and calibrated == at_detector):
            return Spacing(*calibrated, source="PixelSpacing")
        magnification = _magnification(header)
        if at_detector and magnification:
            row, column = (value / magnification for value in at_detector)
            return Spacing(row, column, source="ImagerPixelSpacing / magnification (estimated)")
    except Exception:  # tags are decoded only now, and pydicom raises whatever a damaged one leads to
        return None
    return None


def _ultrasound(header: Any) -> Spacing | None:
    best: Spacing | None = None
    for region in header.SequenceOfUltrasoundRegions:
        if (
            region.get("RegionSpatialFormat") != _TWO_D
            or region.get("RegionDataType") != _TISSUE
            or region.get("PhysicalUnitsXDirection") != _CM
            or region.get("PhysicalUnitsYDirection") != _CM
        ):
            continue
        top, bottom = int(region.RegionLocationMinY0), int(region.RegionLocationMaxY1) + 1
        left, right = int(region.RegionLocationMinX0), int(region.RegionLocationMaxX1) + 1
        bottom, right = min(bottom, int(header.Rows)), min(right, int(header.Columns))
        if not (0 <= top < bottom and 0 <= left < right):
            continue
        row, column = 10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX))
        candidate = Spacing(row, column, "ultrasound region", (top, left, bottom, right))
        if best is None or _extent(candidate) > _extent(best):
            best = candidate
    return best


def _extent(spacing: Spacing) -> int:
    assert spacing.region is not None
    top, left, bottom, right = spacing.region
    return (bottom - top) * (right - left)


def _pair(value: Any) -> tuple[float, float] | None:
    if value is None or isinstance(value, str) or len(value) != 2:
        return None
    return float(value[0]), float(value[1])


def _magnification(header: Any) -> float | None:
    factor = header.get("EstimatedRadiographicMagnificationFactor")
    if factor:
        return float(factor)
    source_detector, source_patient = (
        header.get("DistanceSourceToDetector"),
        header.get("DistanceSourceToPatient"),
    )
    return float(source_detector) / float(source_patient) if source_detector and source_patient else None


_NATIVE, _OWN, _PILLOW = "", "pydicom", "pillow"
_SYNTAXES = {  # transfer syntax -> the decoder of pydicom that may touch it; pylibjpeg can abort the process
    "1.2.840.10008.1.2": _NATIVE,
    "1.2.840.10008.1.2.1": _NATIVE,
    "1.2.840.10008.1.2.2": _NATIVE,
    "1.2.840.10008.1.2.5": _OWN,
    "1.2.840.10008.1.2.4.50": _PILLOW,
    "1.2.840.10008.1.2.4.90": _PILLOW,
    "1.2.840.10008.1.2.4.91": _PILLOW,
}
_PLAIN = {  # (implicit value representations, little-endian) -> transfer syntax
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2")

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # it quotes tags, and tags may name the patient


def read_dicom(file: IO[bytes], path: Path, max_pixels: int, intensity: Intensity | None = None) -> Picture:
    """Decodes a DICOM file with one frame as a viewer shows it: rescaled, windowed, MONOCHROME1 inverted.

    Without a window the values are scaled by `intensity`, or from the smallest to the largest of the picture; plain
    8-bit pixels are kept.

    Raises:
        UnreadableImage: a transfer syntax that is not allowed, several frames, over the budget, damaged data.

    >>> import pydicom.data
    >>> path = Path(pydicom.data.get_testdata_file("MR_small.dcm", download=False))
    >>> with open(path, "rb") as file:
    ...     read_dicom(file, path, 10**6).pixels.shape
    (64, 64)
    """
    header = _header(file, max_pixels)
    try:
        data, values = _decoded(file)
        pixels = _render(values, data, intensity)
    except UnreadableImage:
        raise
    except Exception as error:  # its text may quote tags
        raise UnreadableImage(f"holds damaged or unsupported DICOM pixels ({type(error).__name__})") from None
    spacing = read_spacing(header)
    return Picture(np.ascontiguousarray(pixels), spacing, path)


def read_stored(file: IO[bytes], max_pixels: int) -> tuple[pydicom.Dataset, NDArray[Any]]:
    """Header and rescaled values (H, W) of a grey single-frame file, without window: a slice of a volume.

    Raises:
        UnreadableImage: as `read_dicom`, and for colour.

    >>> import pydicom.data
    >>> with open(pydicom.data.get_testdata_file("CT_small.dcm", download=False), "rb") as file:
    ...     int(read_stored(file, 10**6)[1].min())
    -896
    """
    header = _header(file, max_pixels)
    if str(header.PhotometricInterpretation) not in _GREY:
        raise UnreadableImage("is a picture in colour, not a slice of a volume")
    try:
        data, values = _decoded(file)
        slope, intercept = float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)
        if (slope, intercept) != (1.0, 0.0):
            kind = np.int32 if slope.is_integer() and intercept.is_integer() else np.float32
            values = values.astype(kind) * kind(slope) + kind(intercept)
        check_numbers(values[None])
    except InputError:
        raise
    except Exception as error:  # its text may quote tags
        raise UnreadableImage(f"holds damaged or unsupported DICOM pixels ({type(error).__name__})") from None
    return header, values


def dicom_size(file: IO[bytes], max_pixels: int) -> tuple[int, int]:
    """(height, width) of a DICOM file from its header alone; UnreadableImage as `read_dicom`.

    >>> import pydicom.data
    >>> with open(pydicom.data.get_testdata_file("MR_small.dcm", download=False), "rb") as file:
    ...     dicom_size(file, 10**6)
    (64, 64)
    """
    header = _header(file, max_pixels)
    return int(header.Rows), int(header.Columns)


def read_tags(path: Path, tags: list[str]) -> pydicom.Dataset:
    """Some tags of a DICOM file, with or without the preamble; raises whatever pydicom raises."""
    with open(path, "rb") as file:
        stream = _data_set(file)
        return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(tags), force=True)


def _data_set(file: IO[bytes]) -> BinaryIO:
    """The file, or its content from the data set on, where a part of the preamble is missing."""
    file.seek(0)
    start = dicom_start(file.read(HEAD))
    if start is None:
        raise UnreadableImage("is not a DICOM file")
    file.seek(start)
    return io.BytesIO(file.read()) if start else cast(BinaryIO, file)


def _decoded(file: IO[bytes]) -> tuple[pydicom.Dataset, NDArray[Any]]:
    """The whole data set and its pixels. Without a transfer syntax the encoding is that of its tags."""
    data = pydicom.dcmread(_data_set(file), force=True)
    syntax = str(data.file_meta.get("TransferSyntaxUID", ""))
    if not syntax:
        if data["PixelData"].is_undefined_length:
            raise UnreadableImage("has compressed pixels, but no transfer syntax that names the compression")
        implicit, little = data.original_encoding
        syntax = _PLAIN[bool(implicit), bool(little)]
        data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    if _SYNTAXES[syntax] == _PILLOW:
        _check_frame(data)
    return data, pixel_array(data, index=0, decoding_plugin=_SYNTAXES[syntax])


def read_whole(path: Path) -> pydicom.Dataset:
    """A DICOM file of several frames, or of contours, whole; frames are not decoded yet.

    Raises:
        UnreadableImage: a transfer syntax that is not allowed, or no DICOM file.
    """
    with open(path, "rb") as file:
        stream = _data_set(file)
        _require_syntax(stream)
        stream.seek(0)
        return pydicom.dcmread(stream, force=True)


def decode_frame(data: pydicom.Dataset, k: int) -> NDArray[Any]:
    """The values (H, W) of frame `k` of what `read_whole` gives, of 8 bits and more, as stored.

    Raises:
        UnreadableImage: damaged pixels.
    """
    syntax = str(data.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2.1"))
    if _SYNTAXES[syntax] == _PILLOW:
        raise UnreadableImage("holds frames compressed as JPEG, which are not read: save it uncompressed")
    try:
        return pixel_array(data, index=k, decoding_plugin=_SYNTAXES[syntax])
    except Exception as error:  # its text may quote tags
        raise UnreadableImage(f"holds damaged or unsupported DICOM pixels ({type(error).__name__})") from None


def read_labels(file: IO[bytes], path: Path, max_pixels: int) -> NDArray[Any]:
    """The values of a mask: grey levels (H, W) as stored, or uint8 RGBA (H, W, 4) of a picture in colour.

    Raises:
        UnreadableImage: as `read_dicom`.
    """
    if str(_header(file, max_pixels).PhotometricInterpretation) == "MONOCHROME2":
        return read_stored(file, max_pixels)[1]
    pixels = read_dicom(file, path, max_pixels).pixels
    return pixels if pixels.ndim == 2 else np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])


def read_unscaled(file: IO[bytes], max_pixels: int) -> NDArray[Any] | None:
    """The values (H, W) of more than 8 bits that `read_dicom` scales by its `intensity`; None for other files.

    Raises:
        UnreadableImage: as `read_dicom`.
    """
    header = _header(file, max_pixels)
    is_grey = str(header.PhotometricInterpretation) in _GREY
    is_shown = _number(header.get("WindowCenter")) is not None or "VOILUTSequence" in header
    if not is_grey or is_shown or int(header.get("BitsStored") or header.BitsAllocated) <= 8:
        return None
    return read_stored(file, max_pixels)[1]


def _header(file: IO[bytes], max_pixels: int) -> pydicom.Dataset:
    """Everything before the pixels, checked. A deflated file is refused before it can inflate."""
    try:
        stream = _data_set(file)
        _require_syntax(stream)
        stream.seek(0)
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        frames = int(header.get("NumberOfFrames") or 1)
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        samples, bits = int(header.get("SamplesPerPixel") or 0), int(header.get("BitsAllocated") or 0)
    except UnreadableImage:
        raise
    except Exception as error:
        raise UnreadableImage(f"has a damaged DICOM header ({type(error).__name__})") from None
    if rows < 1 or columns < 1:
        raise UnreadableImage("is a DICOM file without a picture")
    if frames != 1:
        raise UnreadableImage(f"holds {frames} frames: only single-frame DICOM is read")
    check_budget(rows, columns, max_pixels)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric not in (*_COLOUR, *_GREY, "PALETTE COLOR"):
        raise UnreadableImage("has a DICOM photometric interpretation other than grey, RGB, YBR and palette")
    if samples != (3 if photometric in _COLOUR else 1) or bits not in (1, 8, 16, 32):
        raise UnreadableImage(f"has {samples} samples of {bits} bits per pixel, which is not read")
    return header


def _require_syntax(stream: BinaryIO) -> None:
    """UnreadableImage for a transfer syntax that is not read; a deflated file never inflates."""
    read_preamble(stream, force=True)
    syntax = str(_read_file_meta_info(stream).get("TransferSyntaxUID", ""))
    if syntax and syntax not in _SYNTAXES:
        # only a name from the dictionary is shown: what a damaged file holds here may be anything
        name = UID_dictionary[syntax][0] if syntax in UID_dictionary else "unknown"
        raise UnreadableImage(f"uses DICOM transfer syntax {name!r}: convert it to Explicit VR Little Endian")


def _check_frame(data: pydicom.Dataset) -> None:
    """The compressed stream must have the size that the header claims, before it is decoded."""
    frame = get_frame(data.PixelData, 0, number_of_frames=1)
    from PIL import Jpeg2KImagePlugin  # noqa: F401

    size = Image.open(io.BytesIO(frame), formats=["JPEG", "JPEG2000"]).size
    if size != (data.Columns, data.Rows):
        raise UnreadableImage(
            f"claims {data.Rows} x {data.Columns} pixels, but its stream holds {size[1]} x {size[0]}"
        )


def _render(values: NDArray[Any], data: pydicom.Dataset, intensity: Intensity | None) -> Pixels:
    photometric = str(data.PhotometricInterpretation)
    stored = int(data.get("BitsStored") or data.BitsAllocated)
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, data)[..., :3]
        return values if values.dtype == np.uint8 else (values >> 8).astype(np.uint8)
    if photometric in _COLOUR:
        return values if values.dtype == np.uint8 else stretch(values, 0, 2**stored - 1)
    shown = _window(apply_rescale(values, data), data, values.dtype == np.uint8 and stored == 8, intensity)
    return np.uint8(255) - shown if photometric == "MONOCHROME1" else shown


def _window(values: NDArray[Any], data: pydicom.Dataset, plain: bool, intensity: Intensity | None) -> Pixels:
    centre, width = _number(data.get("WindowCenter")), _number(data.get("WindowWidth"))
    kind = str(data.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or width <= 0 or (width <= 1 and kind == "LINEAR"):
        if data.get("VOILUTSequence"):
            shown = apply_voi(values, data)
            return stretch(shown, 0, 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1)
        unscaled = float(data.get("RescaleSlope") or 1) == 1 and float(data.get("RescaleIntercept") or 0) == 0
        if plain and unscaled:
            return values.astype(np.uint8)
        return (intensity or Intensity())(values)
    if kind == "SIGMOID":
        exponent = np.clip(-4.0 * (values.astype(np.float64) - centre) / width, -700, 700)
        return stretch(1.0 / (1.0 + np.exp(exponent)), 0, 1)
    if kind == "LINEAR_EXACT":
        return stretch(values, centre - width / 2, centre + width / 2)
    low = centre - 0.5 - (width - 1) / 2
    return stretch(values, low, low + width - 1)


def _number(value: Any) -> float | None:
    """The first of one or several numbers; None when there is none."""
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, (pydicom.multival.MultiValue, list)):
        value = value[0] if len(value) else None
    number = float(value) if value is not None else math.nan
    return number if math.isfinite(number) else None
