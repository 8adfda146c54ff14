"""Reference masks from files as people really store them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.picture import Mask, Pixels
from segdistill.imaging.read import read_picture

_DARK, _LIGHT = 16, 239


def read_mask(
    paths: Sequence[str | Path],
    size: tuple[int, int] | None = None,
    tolerance: float = 0.1,
    resize: bool = False,
) -> Mask:
    """Reads the mask files of one case and joins them (union).

    Accepted: 1-bit, grey, palette, RGB and RGBA; 0/1, 0/255 or any other two values (the larger is
    foreground); and 0..255 with some grey in between (lossy or smoothed files), cut at half. Of a coloured
    file the brightest channel counts.

    Args:
        paths: one or several files.
        size: (height, width) that the mask must have; None: that of the first file.
        tolerance: share of pixels that may be neither dark nor light; above it, a file is a photograph.
        resize: bring a file of another size to `size` (bilinear, then cut at half) rather than refuse it.

    Returns:
        bool (H, W).

    Raises:
        UnreadableImage: a file cannot be decoded.
        InputError: a file has another size, or is not a mask.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "m.png"
    >>> Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).save(path)
    >>> read_mask([path]).tolist()
    [[False, True], [True, False]]
    """
    if not paths:
        raise InputError("no mask file given")
    joined: Mask | None = None
    for path in paths:
        pixels = read_picture(path, gif=True).pixels
        grey = _two_valued(pixels.max(axis=2) if pixels.ndim == 3 else pixels, Path(path), tolerance)
        if size is None:
            size = (grey.shape[0], grey.shape[1])
        if grey.shape != size:
            if not resize:
                found, wanted = (f"{h} x {w}" for h, w in (grey.shape, size))
                raise InputError(f"{path}: mask is {found} pixels, but {wanted} are expected")
            image = Image.fromarray(grey).resize((size[1], size[0]), Image.Resampling.BILINEAR)
            grey = np.asarray(image)
        mask = grey >= 128
        joined = mask if joined is None else joined | mask
    assert joined is not None
    return joined


def _two_valued(grey: Pixels, path: Path, tolerance: float) -> Pixels:
    """The mask with background near 0 and foreground near 255; InputError when it is not a mask."""
    counts = np.bincount(grey.ravel(), minlength=256)
    values = np.flatnonzero(counts)
    if len(values) == 1:
        value = int(values[0])
        if value not in (0, 1, 255):
            raise InputError(f"{path}: every pixel is {value}: a mask has two values, 0 for background")
        return np.full_like(grey, 255 if value else 0)
    if len(values) == 2:
        return np.where(grey == values[1], np.uint8(255), np.uint8(0))
    between = counts[_DARK:_LIGHT].sum() / grey.size
    if values[-1] < _LIGHT or between > tolerance:
        few = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
        raise InputError(f"{path}: is not a mask: it holds {len(values)} grey values ({few}); a mask has two")
    return grey
