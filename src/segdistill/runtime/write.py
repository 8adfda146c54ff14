"""Predictions as files: a mask and an overlay per picture or volume, one table. Each is whole or absent."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segdistill.errors import InputError
from segdistill.files import csv_cell, safe_name, write_text
from segdistill.imaging.contours import class_layers, draw_overlay, save_indices
from segdistill.imaging.nifti import save_nifti
from segdistill.imaging.picture import Picture, Pixels
from segdistill.imaging.png import write_png
from segdistill.runtime.measure import measure
from segdistill.runtime.predictor import Prediction, VolumePrediction, as_turned

COLUMNS = (
    "file",
    "mask",
    "area_px",
    "long_px",
    "short_px",
    "area_mm2",
    "long_mm",
    "short_mm",
    "spacing_source",
    "mean_probability",
    "seconds",
    "model",
)
VOLUME_COLUMNS = ("slices", "voxels", "volume_ml")
"""Further columns of a table that holds volumes."""
_TILES, _COLUMNS = 12, 4  # of a volume's overlay
_TILE = 256  # pixels of a tile's longer side
_CAPTION, _SPACE = 14, 4


def output_paths(stem: str, folder: str | Path, volume: bool = False) -> tuple[Path, Path]:
    """Where the mask and the overlay of `stem` are written.

    >>> [path.name for path in output_paths("case.1", "out")]
    ['case.1.png', 'case.1_overlay.png']
    >>> output_paths("case.1", "out", volume=True)[0].name
    'case.1.nii.gz'
    """
    return Path(folder) / f"{stem}{'.nii.gz' if volume else '.png'}", Path(folder) / f"{stem}_overlay.png"


def write_prediction(
    prediction: Prediction, picture: Picture, stem: str, folder: str | Path
) -> tuple[Path, Path]:
    """Writes STEM.png, the mask, and STEM_overlay.png, its outline over the picture.

    The mask is 0 and 255 for one foreground class; with more it holds the class indices, and a palette shows them.
    It does not wait for the disk: after a power cut a file may be damaged, which its hash in predictions.jsonl shows.

    Returns:
        Paths of the mask and of the overlay.

    Raises:
        InputError: the folder cannot be written, or a file would replace the picture itself.

    >>> import tempfile
    >>> prediction = Prediction(np.ones((2, 2), np.uint8), np.ones((2, 2), np.float32))
    >>> picture = Picture(np.zeros((2, 2), np.uint8), None, Path("a.dcm"))
    >>> [path.name for path in write_prediction(prediction, picture, "a", tempfile.mkdtemp())]
    ['a.png', 'a_overlay.png']
    """
    mask_path, overlay_path = paths = output_paths(stem, folder)
    _keep(picture.source, paths, "picture")
    if prediction.structures:
        save_indices(prediction.mask, mask_path, len(prediction.structures), sync=False)
    else:
        scale = np.uint8(255 if prediction.mask.max(initial=0) <= 1 else 1)
        write_png(mask_path, prediction.mask * scale, sync=False)
    write_png(overlay_path, draw_overlay(picture.shown, class_layers(prediction.mask)), sync=False)
    return paths


def write_volume(
    prediction: VolumePrediction, levels: Callable[[int], Pixels], stem: str, folder: str | Path
) -> tuple[Path, Path]:
    """Writes STEM.nii.gz, the mask with the volume's own geometry, and STEM_overlay.png, a few slices with outlines.

    Args:
        prediction: of a volume.
        levels: slice number, of the volume turned for display -> its 8 bits.
        stem: of both files.
        folder: to write to.

    Raises:
        InputError: the folder cannot be written, or a file would replace the volume itself.
    """
    volume = prediction.volume
    mask_path, overlay_path = paths = output_paths(stem, folder, volume=True)
    _keep(volume.source, paths, "volume")
    save_nifti(prediction.mask, volume, mask_path, prediction.structures)
    write_png(overlay_path, draw_sheet(as_turned(prediction.mask, volume), levels), sync=False)
    return paths


def _keep(source: Path, paths: Sequence[Path], what: str) -> None:
    for path in paths:
        if os.path.exists(path) and source.exists() and path.samefile(source):
            raise InputError(f"{path} would replace its own {what}: choose another output folder")


def shown_slices(mask: NDArray[np.uint8], count: int = _TILES) -> list[int]:
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
    """Slices with the outlines of their classes, and their numbers from 1: uint8 (h, w, 3).

    >>> draw_sheet(np.zeros((1, 8, 8), np.uint8), lambda k: np.zeros((8, 8), np.uint8)).shape
    (270, 256, 3)
    """
    slices = shown_slices(mask)
    height, width = mask.shape[1:]
    scale = _TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = min(_COLUMNS, len(slices))
    rows = -(-len(slices) // columns)
    width, height = columns * (size[0] + _SPACE) - _SPACE, rows * (size[1] + _CAPTION)
    sheet = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, k in enumerate(slices):
        left, top = number % columns * (size[0] + _SPACE), number // columns * (size[1] + _CAPTION)
        pixels = np.asarray(Image.fromarray(levels(k)).resize(size, Image.Resampling.BILINEAR))
        labels = np.asarray(Image.fromarray(mask[k]).resize(size, Image.Resampling.NEAREST))
        sheet.paste(Image.fromarray(draw_overlay(pixels, class_layers(labels))), (left, top))
        draw.text((left + 2, top + size[1]), f"{k + 1} of {len(mask)}", fill=(220, 220, 220))
    return np.asarray(sheet)


def unique_stems(
    paths: Sequence[str | Path], kept: Mapping[str | Path, str] | None = None, taken: Iterable[str] = ()
) -> list[str]:
    """A stem for each file, so that no two write the same file on any file system; later ones get _2, _3, ...

    Args:
        paths: of the files.
        kept: file -> the stem that it has already.
        taken: stems of other files.

    >>> unique_stems(["a/x.png", "b/X.png", "a/x_overlay.png"])
    ['x', 'X_2', 'x_overlay_2']
    >>> unique_stems(["a/x.nii.gz", "series.1"])
    ['x', 'series.1']
    >>> unique_stems(["a/x.png", "b/x.png"], {"b/x.png": "x"})
    ['x_2', 'x']
    """
    kept = kept or {}
    used: set[str] = set()
    for stem in (*taken, *kept.values()):
        used |= _names(stem)
    stems = []
    for path in paths:
        if path in kept:
            stems.append(kept[path])
            continue
        base = stem = plain_stem(path)
        number = 1
        while not used.isdisjoint(_names(stem)):
            number += 1
            stem = f"{base}_{number}"
        used |= _names(stem)
        stems.append(stem)
    return stems


def _names(stem: str) -> set[str]:
    return {stem.lower(), f"{stem}_overlay".lower()}


def plain_stem(path: str | Path) -> str:
    r"""The stem of a file's results where no other file has it.

    >>> plain_stem("a/x.nii.gz"), plain_stem("a/x\x1b.png")
    ('x', 'x_')
    """
    path = Path(path)
    if path.is_dir() or path.suffix[1:].isdecimal():  # a folder has its whole name, "series.1" has no suffix
        return safe_name(path.name)
    return safe_name(path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem)


def prediction_row(prediction: Prediction, picture: Picture, seconds: float) -> dict[str, Any]:
    """One row of predictions.csv as plain values; None where something is not known.

    >>> prediction = Prediction(np.ones((2, 2), np.uint8), np.ones((2, 2), np.float32))
    >>> row = prediction_row(prediction, Picture(np.zeros((2, 2), np.uint8), None, Path("a.png")), 0.1)
    >>> row["file"], row["area_px"], row["area_mm2"], row["mean_probability"]
    ('a.png', 4, None, 1.0)
    """
    size = measure(prediction.mask, picture.spacing)
    known = picture.spacing is not None and size.area_mm2 is not None
    return {
        "file": str(picture.source),
        "area_px": size.area_px,
        "long_px": round(size.long_px, 3),
        "short_px": round(size.short_px, 3),
        "area_mm2": _rounded(size.area_mm2),
        "long_mm": _rounded(size.long_mm),
        "short_mm": _rounded(size.short_mm),
        "spacing_source": picture.spacing.source if known and picture.spacing else None,
        "mean_probability": _rounded(prediction.mean_probability, 6),
        "seconds": round(seconds, 4),
        **_class_columns(prediction),
        **_structure_columns(prediction, picture),
    }


def _class_columns(prediction: Prediction) -> dict[str, Any]:
    """`class`, `p_NAME` of each class and `box` ("left top right bottom"), of a network that classifies."""
    if not prediction.classes:
        return {}
    chances = {f"p_{name}": round(chance, 6) for name, chance in prediction.classes.items()}
    box = None if prediction.box is None else " ".join(map(str, prediction.box))
    return {"class": max(prediction.classes, key=prediction.classes.__getitem__), **chances, "box": box}


def _structure_columns(prediction: Prediction, picture: Picture) -> dict[str, Any]:
    """Area and diameters of each class, where the mask has several: liver_area_px, ..."""
    found: dict[str, Any] = {}
    for k, name in enumerate(prediction.structures, start=1):
        size = measure(prediction.mask == k, picture.spacing)
        found |= {
            f"{name}_area_px": size.area_px,
            f"{name}_area_mm2": _rounded(size.area_mm2),
            f"{name}_long_mm": _rounded(size.long_mm),
            f"{name}_short_mm": _rounded(size.short_mm),
        }
    return found


def volume_row(prediction: VolumePrediction, seconds: float) -> dict[str, Any]:
    """One row of predictions.csv as plain values; None where something is not known."""
    size = prediction.millilitres
    counts = np.bincount(prediction.mask.reshape(-1), minlength=len(prediction.structures) + 1)
    parts: dict[str, Any] = {}
    for k, name in enumerate(prediction.structures, start=1):
        parts |= {
            f"{name}_voxels": int(counts[k]),
            f"{name}_ml": _rounded(prediction.millilitres_of(int(counts[k]))),
        }
    return {
        "file": str(prediction.volume.source),
        "slices": len(prediction.mask),
        "voxels": prediction.voxels,
        "volume_ml": _rounded(size),
        "spacing_source": None if size is None else "header",
        "mean_probability": _rounded(prediction.mean_probability, 6),
        "seconds": round(seconds, 4),
        **parts,
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of a table of rows of `prediction_row` and `volume_row`.

    >>> columns_of([{"voxels": 3}])[-3:]
    ['slices', 'voxels', 'volume_ml']
    """
    names = dict.fromkeys(name for row in rows for name in row)
    more = VOLUME_COLUMNS if "voxels" in names else ()
    known = {*COLUMNS, *VOLUME_COLUMNS}
    return [*COLUMNS, *more, *(name for name in names if name not in known)]


def rows_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], header: bool = True) -> str:
    r"""Rows as the text of a CSV table; what is not known is an empty cell.

    >>> rows_text([{"file": "=a.png"}], ["file", "mask"])
    "file,mask\n'=a.png,\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def write_rows(rows: Iterable[Mapping[str, Any]], path: str | Path, sync: bool = True) -> None:
    """Writes rows of `prediction_row` and `volume_row` as CSV; what is not known is an empty cell.

    `sync`: see `files.atomic_write`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
    >>> write_rows([], path)
    >>> path.read_text().split(",")[:3]
    ['file', 'mask', 'area_px']
    """
    found = list(rows)
    write_text(path, rows_text(found, columns_of(found)), sync)
