"""A contact sheet: many cases on one picture, with the contours of their references; of volumes the fullest slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segdistill.data.case import Case
from segdistill.data.opened import fullest_slice, open_case
from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging.contours import class_layers, draw_overlay
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.preprocess import prepare_mask

_CAPTION = 14  # pixels below every tile
_SPACE = 4
_CONTOUR = (255, 196, 0)
_PREDICTED = (0, 176, 255)


def contact_sheet(
    cases: Sequence[Case],
    path: str | Path,
    columns: int = 8,
    limit: int = 64,
    tile: int = 160,
    captions: Sequence[str] = (),
    predicted: Callable[[Case], NDArray[np.bool_]] | None = None,
) -> int:
    """Writes a PNG of the first `limit` cases, evenly taken from the table when it has more.

    Args:
        cases: the table.
        path: the PNG to write.
        columns: tiles in a row.
        limit: at most so many tiles.
        tile: pixels of a tile's longer side.
        captions: one for each case; by default its id and label.
        predicted: gives a prediction of a case, (D, H, W), whose contours are drawn in blue below the yellow ones of
            the reference; of a volume the slice is shown in which both differ most.

    Returns:
        How many cases are shown.

    Raises:
        InputError: no cases, a file that cannot be read, or an output that cannot be written.
    """
    if not cases:
        raise InputError("no cases to show: check the split and labels that were chosen")
    for what, value in (("columns", columns), ("limit", limit)):
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
    if not 32 <= tile <= 1024:
        raise InputError(f"tile must be 32 to 1024 pixels, not {tile}")
    count = min(limit, len(cases))
    shown = [round(k * (len(cases) - 1) / max(count - 1, 1)) for k in range(count)]
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (columns * (tile + _SPACE) + _SPACE, rows * (tile + _CAPTION + _SPACE) + _SPACE)
    sheet = Image.new("RGB", size, (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    for number, place in enumerate(shown):
        case = cases[place]
        left = _SPACE + number % columns * (tile + _SPACE)
        top = _SPACE + number // columns * (tile + _CAPTION + _SPACE)
        picture = Image.fromarray(_tile(case, tile, None if predicted is None else predicted(case)))
        sheet.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))
        caption = captions[place] if captions else _caption(case)
        draw.text((left + 1, top + tile), caption[: tile // 6].encode("latin-1", "replace").decode("latin-1"))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")
    return count


def _caption(case: Case) -> str:
    return f"{case.id} {case.label}" if case.label and not case.id.startswith(case.label) else case.id


def _tile(case: Case, tile: int, predicted: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    opened = open_case(case, Intensity("z_score", -2.0, 3.0) if case.is_volume else None)
    reference = opened.reference
    wrong = None if predicted is None else predicted ^ (reference != 0)
    differs = reference if wrong is None or not wrong.any() else wrong
    k = fullest_slice(differs)
    pixels = opened.shown(k)
    layers = [(reference[k], _CONTOUR)] if reference.dtype == np.bool_ else class_layers(reference[k])
    if predicted is not None:
        layers.insert(0, (predicted[k], _PREDICTED))
    height, width = pixels.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    return draw_overlay(small, [(prepare_mask(mask, size).astype(np.bool_), rgb) for mask, rgb in layers])
