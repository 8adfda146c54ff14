"""Predictions as files: a mask and an overlay per picture, one table. Each is whole or absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.errors import InputError
from segdistill.files import atomic_write, write_text
from segdistill.imaging.contours import Rgb, draw_overlay
from segdistill.imaging.picture import Picture
from segdistill.runtime.measure import measure
from segdistill.runtime.predictor import Prediction

COLUMNS = (
    "file",
    "area_px",
    "long_px",
    "short_px",
    "area_mm2",
    "long_mm",
    "short_mm",
    "spacing_source",
    "mean_probability",
    "seconds",
)
VOLUME_COLUMNS = ("slices", "voxels", "volume_ml")
"""Columns of a table that holds volumes."""
_COLOURS = (
    (255, 176, 0),
    (0, 200, 255),
    (255, 64, 160),
    (120, 220, 80),
)  # told apart by colour-blind readers


def write_prediction(
    prediction: Prediction, picture: Picture, stem: str, folder: str | Path
) -> tuple[Path, Path]:
    """Writes STEM.png, the mask, and STEM_overlay.png, its outline over the picture.

    The mask is 0 and 255 for one foreground class; with more it holds the labels themselves.

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
    mask_path, overlay_path = output_paths(stem, folder)
    for path in (mask_path, overlay_path):
        if path.exists() and picture.source.exists() and path.samefile(picture.source):
            raise InputError(f"{path} would replace its own picture: choose another output folder")
    scale = np.uint8(255 if prediction.mask.max(initial=0) <= 1 else 1)
    _write_png(mask_path, prediction.mask * scale)
    _write_png(overlay_path, draw_overlay(picture.pixels, layers_of(prediction.mask)))
    return mask_path, overlay_path


def layers_of(labels: NDArray[np.uint8]) -> list[tuple[NDArray[np.bool_], Rgb]]:
    """The mask of every label (H, W) above 0 with its colour, for `draw_overlay`.

    >>> [colour for _, colour in layers_of(np.array([[0, 2]], np.uint8))]
    [(255, 176, 0), (0, 200, 255)]
    """
    count = int(labels.max(initial=0))
    return [(labels == n, _COLOURS[(n - 1) % len(_COLOURS)]) for n in range(1, count + 1)]


def output_paths(stem: str, folder: str | Path) -> tuple[Path, Path]:
    """Where the mask and the overlay of `stem` go.

    >>> [path.name for path in output_paths("case.1", "out")]
    ['case.1.png', 'case.1_overlay.png']
    """
    return Path(folder) / f"{stem}.png", Path(folder) / f"{stem}_overlay.png"


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", compress_level=2)


def unique_stems(paths: Sequence[str | Path]) -> list[str]:
    """A stem for each file, so that no two write the same file on any file system; later ones get _2, _3, ...

    >>> unique_stems(["a/x.png", "b/X.png", "a/x_overlay.png"])
    ['x', 'X_2', 'x_overlay_2']
    >>> unique_stems(["a/x.nii.gz", "series.1"])
    ['x', 'series.1']
    """
    taken: set[str] = set()
    stems = []
    for path in paths:
        base = stem = _stem(Path(path))
        number = 1
        while not taken.isdisjoint(names := {stem.lower(), f"{stem}_overlay".lower()}):
            number += 1
            stem = f"{base}_{number}"
        taken |= names
        stems.append(stem)
    return stems


def _stem(path: Path) -> str:
    if path.is_dir() or path.suffix[1:].isdecimal():  # a folder is named as it is, "series.1" has no suffix
        return path.name
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def prediction_row(prediction: Prediction, picture: Picture, seconds: float) -> dict[str, Any]:
    """One row of predictions.csv as plain values; None where something is not known.

    >>> prediction = Prediction(np.ones((2, 2), np.uint8), np.ones((2, 2), np.float32))
    >>> row = prediction_row(prediction, Picture(np.zeros((2, 2), np.uint8), None, Path("a.png")), 0.1)
    >>> row["file"], row["area_px"], row["area_mm2"], row["mean_probability"]
    ('a.png', 4, None, 1.0)
    """
    size = measure(prediction.mask, picture.spacing)
    known = picture.spacing is not None and size.area_mm2 is not None
    mean = prediction.mean_probability
    return {
        "file": str(picture.source),
        "area_px": size.area_px,
        "long_px": round(size.long_px, 3),
        "short_px": round(size.short_px, 3),
        "area_mm2": _rounded(size.area_mm2),
        "long_mm": _rounded(size.long_mm),
        "short_mm": _rounded(size.short_mm),
        "spacing_source": picture.spacing.source if known and picture.spacing else None,
        "mean_probability": None if mean is None else round(mean, 6),
        "seconds": round(seconds, 4),
        **_class_columns(prediction),
    }


def _class_columns(prediction: Prediction) -> dict[str, Any]:
    """`class`, `p_NAME` of each class and `box` ("left top right bottom"), of a network that classifies."""
    if not prediction.classes:
        return {}
    chances = {f"p_{name}": round(chance, 6) for name, chance in prediction.classes.items()}
    box = None if prediction.box is None else " ".join(map(str, prediction.box))
    return {"class": max(prediction.classes, key=prediction.classes.__getitem__), **chances, "box": box}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def write_rows(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Writes rows of `prediction_row` and `volume_row` as CSV; what is not known is an empty cell.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "predictions.csv"
    >>> write_rows([], path)
    >>> path.read_text().split(",")[:2]
    ['file', 'area_px']
    """
    text = io.StringIO()
    found = list(rows)
    more = VOLUME_COLUMNS if any("voxels" in row for row in found) else ()
    known = {*COLUMNS, *VOLUME_COLUMNS}
    classes = dict.fromkeys(name for row in found for name in row if name not in known)
    writer = csv.DictWriter(text, [*COLUMNS, *more, *classes], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    write_text(path, text.getvalue())
