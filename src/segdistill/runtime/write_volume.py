"""The prediction of a volume as files: one mask on its own grid, and a sheet of slices to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging.contours import draw_overlay
from segdistill.imaging.nifti import save_nifti
from segdistill.imaging.picture import Pixels
from segdistill.runtime.predictor import VolumePrediction, as_turned
from segdistill.runtime.write import layers_of

TILES = 12
_COLUMNS = 4
_TILE = 256  # pixels of a tile's longer side
_CAPTION = 14
_GAP = 4


def write_volume(
    prediction: VolumePrediction, levels: Callable[[int], Pixels], stem: str, folder: str | Path
) -> tuple[Path, Path]:
    """Writes STEM.nii.gz, the labels with the volume's own geometry, and STEM_overlay.png, a few slices with outlines.

    Args:
        prediction: of a volume.
        levels: slice number, of the volume turned as it is looked at -> its 8 bits.
        stem: of both files.
        folder: to write to.

    Raises:
        InputError: the folder cannot be written, or a file would replace the volume itself.
    """
    mask_path, overlay_path = volume_paths(stem, folder)
    source = prediction.volume.source
    for path in (mask_path, overlay_path):
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"{path} would replace its own volume: choose another output folder")
    volume = prediction.volume
    save_nifti(prediction.mask, volume.geometry, mask_path, volume.spacing is not None)
    sheet = draw_sheet(as_turned(prediction.mask, volume), levels)
    with atomic_write(overlay_path) as temporary:
        Image.fromarray(sheet).save(temporary, "PNG", compress_level=2)
    return mask_path, overlay_path


def volume_paths(stem: str, folder: str | Path) -> tuple[Path, Path]:
    """Where the mask and the sheet of `stem` go.

    >>> [path.name for path in volume_paths("Case13", "out")]
    ['Case13.nii.gz', 'Case13_overlay.png']
    """
    return Path(folder) / f"{stem}.nii.gz", Path(folder) / f"{stem}_overlay.png"


def shown_slices(mask: NDArray[np.uint8], count: int = TILES) -> list[int]:
    """At most `count` slices, evenly over those with foreground; over the whole volume where there is none.

    >>> mask = np.zeros((9, 1, 1), np.uint8)
    >>> mask[3:6] = 1
    >>> shown_slices(mask), shown_slices(mask * 0, 3)
    ([3, 4, 5], [0, 4, 8])
    """
    found = np.flatnonzero(mask.any(axis=(1, 2)))
    first, last = (int(found[0]), int(found[-1])) if found.size else (0, len(mask) - 1)
    count = min(count, last - first + 1)
    return [first + round(k * (last - first) / max(count - 1, 1)) for k in range(count)]


def draw_sheet(mask: NDArray[np.uint8], levels: Callable[[int], Pixels]) -> Pixels:
    """Slices with the outlines of their labels, and their numbers from 1: uint8 (h, w, 3).

    >>> draw_sheet(np.zeros((1, 8, 8), np.uint8), lambda k: np.zeros((8, 8), np.uint8)).shape
    (270, 256, 3)
    """
    slices = shown_slices(mask)
    height, width = mask.shape[1:]
    scale = _TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = min(_COLUMNS, len(slices))
    rows = -(-len(slices) // columns)
    width, height = columns * (size[0] + _GAP) - _GAP, rows * (size[1] + _CAPTION)
    sheet = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, k in enumerate(slices):
        left, top = number % columns * (size[0] + _GAP), number // columns * (size[1] + _CAPTION)
        pixels = np.asarray(Image.fromarray(levels(k)).resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(mask[k]).resize(size, Image.Resampling.NEAREST))
        sheet.paste(Image.fromarray(draw_overlay(pixels, layers_of(labels))), (left, top))
        draw.text((left + 2, top + size[1]), f"{k + 1} of {len(mask)}", fill=(220, 220, 220))
    return np.asarray(sheet)


def volume_row(prediction: VolumePrediction, seconds: float) -> dict[str, Any]:
    """One row of predictions.csv as plain values; None where something is not known."""
    size, mean = prediction.millilitres, prediction.mean_probability
    return {
        "file": str(prediction.volume.source),
        "slices": len(prediction.mask),
        "voxels": prediction.voxels,
        "volume_ml": None if size is None else round(size, 3),
        "spacing_source": None if size is None else "header",
        "mean_probability": None if mean is None else round(mean, 6),
        "seconds": round(seconds, 4),
    }


def unknown_size_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """What to tell of volumes whose voxels have no known size; "" where there is none.

    >>> unknown_size_note([{"file": "a.png", "area_px": 3}, {"file": "b.mhd", "voxels": 3, "volume_ml": 0.1}])
    ''
    >>> unknown_size_note([{"file": "b.mhd", "voxels": 3, "volume_ml": None}])[:53]
    'b.mhd does not say how large a voxel is: its size is '
    """
    volumes = [row for row in rows if "voxels" in row]
    unknown = [row["file"] for row in volumes if row["volume_ml"] is None]
    if not unknown:
        return ""
    who = (
        f"{unknown[0]} does not say how large a voxel is: its size is"
        if len(volumes) == 1
        else f"{len(unknown)} of {len(volumes)} volumes, such as {unknown[0]}, do not say how large a voxel is: their "
        "size is"
    )
    return (
        f"{who} given in voxels alone, not in millilitres (a header of exactly 1 x 1 x 1 counts as unknown): write the "
        "true spacing into the header and predict again"
    )
