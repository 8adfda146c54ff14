"""Reads one picture file of any format; an error is one line with the reason."""

from __future__ import annotations

import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segdistill.errors import UnreadableImage
from segdistill.imaging.intensity import Intensity, to_eight_bits
from segdistill.imaging.limits import HEAD, check_budget, dicom_start, unread_format
from segdistill.imaging.picture import Picture, Pixels, Spacing

__all__ = [
    "MAX_PIXELS",
    "READABLE_SUFFIXES",
    "Picture",
    "Spacing",
    "image_size",
    "read_picture",
    "read_stored",
    "stored_values",
]

MAX_PIXELS = 2**26
"""Largest picture that is decoded by default: 67 million pixels (8192 x 8192)."""

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Suffixes (lower case) of DICOM files; many have none, or a number."""
READABLE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".bmp", *DICOM_SUFFIXES}
)
"""Suffixes (lower case) that a search of a folder takes for pictures; a file named directly may have any."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"BM", "BMP"),
    *((b"P%d" % n, "PPM") for n in range(1, 7)),
)
_GIF = (b"GIF87a", b"GIF89a")
_ORIENTATION = 0x0112
_PART = 1 << 20  # bytes of a chunk that are read at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class StoredPicture:
    """A picture in its file's own numbers, upright.

    Attributes:
        values: (H, W) grey levels of any type, bool for one bit, or indices of a palette; or uint8 RGBA (H, W, 4).
        colours: uint8 RGBA (H, W, 4) that a palette gives to its indices; None without a palette.
        is_lossy: the format moves values (JPEG).
    """

    values: NDArray[Any]
    colours: Pixels | None = None
    is_lossy: bool = False


def read_picture(
    path: str | Path, max_pixels: int = MAX_PIXELS, gif: bool = False, intensity: Intensity | None = None
) -> Picture:
    """Decodes a PNG, JPEG, TIFF, PGM/PPM, BMP or single-frame DICOM file; content decides, not suffix.

    An orientation (EXIF, TIFF) is applied. An alpha channel that varies is laid over black, a constant one is dropped.
    CMYK and the like become RGB.

    Args:
        path: the file.
        max_pixels: rows x columns above which a file is refused, checked from its header before decoding.
        gif: accept a GIF too, as which some published masks come.
        intensity: how more than 8 bits, and real numbers, become 8; None: as `to_eight_bits`, by this picture alone.

    Raises:
        UnreadableImage: missing, empty, truncated, several frames, over the budget, or no picture at all.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.new("L", (4, 3), 7).save(path)
    >>> picture = read_picture(path)
    >>> picture.pixels.shape, int(picture.pixels[0, 0]), picture.spacing
    ((3, 4), 7, None)
    """
    path = Path(path)
    with _readable(path, gif) as (file, kind):
        if kind == "DICOM":
            from segdistill.imaging import dicom

            return dicom.read_dicom(file, path, max_pixels, intensity)
        image, turned = _upright(_open(file, kind, max_pixels))
        return Picture(np.ascontiguousarray(_pixels(image, intensity)), None, path, turned)


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a picture file as `read_picture` gives it, from its header alone.

    Raises:
        UnreadableImage: as `read_picture`, as far as the header shows it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.new("L", (4, 3)).save(path)
    >>> image_size(path)
    (3, 4)
    """
    path = Path(path)
    with _readable(path) as (file, kind):
        if kind == "DICOM":
            from segdistill.imaging import dicom

            return dicom.dicom_size(file, max_pixels)
        image = _open(file, kind, max_pixels, whole=False)
        swaps = kind != "TIFF" and _orientation(image) in (
            5,
            6,
            7,
            8,
        )  # Pillow has swapped the sides of a TIFF
        return (image.width, image.height) if swaps else (image.height, image.width)


def read_stored(path: str | Path, max_pixels: int = MAX_PIXELS) -> StoredPicture:
    """Decodes a picture file, GIF included, without scaling its values: what a mask holds.

    Raises:
        UnreadableImage: as `read_picture`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.png"
    >>> Image.new("I;16", (4, 3), 700).save(path)
    >>> read_stored(path).values.max()
    np.uint16(700)
    """
    path = Path(path)
    with _readable(path, gif=True) as (file, kind):
        if kind == "DICOM":
            from segdistill.imaging import dicom

            return StoredPicture(dicom.read_labels(file, path, max_pixels))
        image, _ = _upright(_open(file, kind, max_pixels))
        if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
            return StoredPicture(np.asarray(image), None, kind == "JPEG")
        rgba = np.asarray(image.convert("RGBA"))
        if image.mode == "P":
            return StoredPicture(np.asarray(image), rgba)
        if image.mode == "RGB":  # a single transparent colour, as some PNG have it, is a colour
            rgba = np.dstack([np.asarray(image), np.full(rgba.shape[:2], 255, np.uint8)])
        return StoredPicture(rgba, None, kind == "JPEG")


def stored_values(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[Any] | None:
    """The values (H, W) of a picture with more than 8 bits, or of real numbers; None for any other file.

    The header decides; a file that cannot be read gives None as well, since reading it says why. A DICOM file has no
    such values where it states how it is to be shown.

    >>> stored_values("absent.png") is None
    True
    """
    path = Path(path)
    try:
        with _readable(path) as (file, kind):
            if kind == "DICOM":
                from segdistill.imaging import dicom

                return dicom.read_unscaled(file, max_pixels)
            image = _open(file, kind, max_pixels)
            return np.asarray(image) if _is_deep(image) else None
    except UnreadableImage:
        return None


@contextmanager
def _readable(path: Path, gif: bool = False) -> Iterator[tuple[IO[bytes], str]]:
    """Opens a file, names its format, and turns whatever goes wrong inside into UnreadableImage."""
    kind = ""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(f"{path}: is a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableImage(f"{path}: is not a regular file")
        if status.st_size == 0:
            raise UnreadableImage(f"{path}: is empty (0 bytes): restore the file")
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn of what is an error here, and quote patient tags
            head = file.read(HEAD)
            file.seek(0)
            kind = _kind(head, gif)
            if not kind:
                other = unread_format(path) or "is not a PNG, JPEG, TIFF, PGM/PPM, BMP or DICOM file"
                raise UnreadableImage(f"{path}: {other}")
            yield file, kind
    except UnreadableImage as error:
        text = str(error)
        raise UnreadableImage(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except FileNotFoundError:
        raise UnreadableImage(f"{path}: no such file") from None
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error, KeyError, ...
        raise UnreadableImage(f"{path}: {_why(error, kind)}") from error


def _kind(head: bytes, gif: bool) -> str:
    """The format of a file that begins with these bytes; "" for one that is not read."""
    kind = next((name for magic, name in _MAGIC if head.startswith(magic)), "")
    if head[128:132] == b"DICM" or (not kind and dicom_start(head) is not None):
        return "DICOM"
    if gif and head.startswith(_GIF):
        from PIL import GifImagePlugin  # noqa: F401

        return "GIF"
    return kind


def _why(error: Exception, kind: str) -> str:
    """The reason in one line, and what to do. The text of a DICOM error may quote tags, so it is not shown."""
    reason = getattr(error, "strerror", None) or str(error)
    if not reason or kind == "DICOM":
        reason = type(error).__name__
    short = " ".join(reason.split())[:160]
    if any(
        word in short for word in ("not available", "not supported", "nsupported", "nknown", "cannot handle")
    ):
        return f"is a {kind or 'file'} of a kind that is not read ({short}): save it as PNG"
    return f"cannot be read ({short}): restore the file"


def _open(file: IO[bytes], kind: str, max_pixels: int, whole: bool = True) -> Image.Image:
    """The image of a file; `whole` False: only its header is wanted."""
    if kind == "TIFF":
        from PIL import TiffImagePlugin  # noqa: F401  (registers the format; Pillow does so only for a few)
    try:
        image = Image.open(file, formats=[kind])
    except UnidentifiedImageError:
        raise UnreadableImage(
            _tiff_kind(file) if kind == "TIFF" else f"has a damaged {kind} header"
        ) from None
    check_budget(image.height, image.width, max_pixels)
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise UnreadableImage(f"holds {frames} frames: save each one as a file of its own")
    if kind == "PNG" and whole:
        position = file.tell()
        _check_png(file)
        file.seek(position)
    return image


_SAMPLES = {1: "whole", 2: "signed whole", 3: "real", 5: "complex whole", 6: "complex real"}  # SampleFormat


def _check_png(file: IO[bytes]) -> None:
    """Compares the checksum of every chunk: Pillow does not look at those of the pixels.

    Raises:
        UnreadableImage: one is wrong, or the end is missing.
    """
    file.seek(8)
    name = b""
    while name != b"IEND":
        head = file.read(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        found = zlib.crc32(name)
        while length > 0 and (part := file.read(min(length, _PART))):
            found, length = zlib.crc32(part, found), length - len(part)
        stated = file.read(4)
        if length > 0 or len(stated) < 4:
            raise UnreadableImage("is cut off: restore the file")
        if int.from_bytes(stated, "big") != found:
            raise UnreadableImage("holds damaged data, a checksum is wrong: restore the file")


def _tiff_kind(file: IO[bytes]) -> str:
    """Why a TIFF is not read: which numbers it holds, where its tags can be read."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        file.seek(0)
        start = file.read(16)
        tags = ImageFileDirectory_v2(start[: 16 if start[2] == 43 or start[3] == 43 else 8])
        file.seek(tags.next)
        tags.load(file)
        bits, kinds, samples = tags[258], tags.get(339, (1,)), int(tags.get(277, 1))
        return (
            f"is a TIFF of {samples} x {int(bits[0])}-bit {_SAMPLES[int(kinds[0])]} numbers per pixel, which is not "
            "read: save it with 8 or 16 bits, or as 32-bit real numbers"
        )
    except Exception:  # Pillow raises whatever a damaged tag leads to
        return "has a damaged TIFF header: restore the file"


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as its orientation asks for, and whether it was turned; Pillow does it for a TIFF by itself."""
    turn = _TURNS.get(_orientation(image))
    image.load()
    return image.transpose(turn) if turn is not None and image.format != "TIFF" else image, turn is not None


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of a damaged EXIF block, which changes nothing of the pixels
        return 1
    return found if isinstance(found, int) else 1


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _pixels(image: Image.Image, intensity: Intensity | None) -> Pixels:
    if image.mode in ("L", "RGB"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if _is_deep(image):
        return to_eight_bits(np.asarray(image), intensity)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _flatten(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _flatten(rgba: Pixels) -> Pixels:
    """RGB of (H, W, 4): over black where alpha varies; alpha itself when it carries the whole drawing."""
    colour, alpha = rgba[..., :3], rgba[..., 3]
    if alpha.min() == alpha.max():
        return colour
    if (colour == colour[0, 0]).all():
        return alpha
    return ((colour.astype(np.uint16) * alpha[..., None] + 127) // 255).astype(np.uint8)
