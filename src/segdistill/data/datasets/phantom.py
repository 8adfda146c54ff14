"""Synthetic ultrasound pictures with exact references: nothing to download."""

from __future__ import annotations

from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.phantom import phantom_cases, write_phantom, written


@register_dataset(
    "phantom",
    "Ultrasound phantom (synthetic pictures, drawn on request)",
    how_to_get="Nothing to get: index an empty folder and the pictures are drawn into it.",
    published={"benign": 60, "malignant": 48, "normal": 12},
)
def index(path: Path, count: int = 120, size: int = 128, seed: int = 0) -> list[Case]:
    """Phantoms: those that are already in the folder, or new ones drawn into it.

    Args:
        path: a new or empty folder, or one with the same phantoms.
        count: how many.
        size: height and width in pixels.
        seed: another seed draws others.

    Raises:
        InputError: the folder holds something else or other phantoms, or cannot be written.
    """
    there = written(path)
    wanted = {"count": count, "size": size, "seed": seed}
    defaults = {"count": 120, "size": 128, "seed": 0}
    if there is not None and (there == wanted or wanted == defaults):
        return phantom_cases(path, there["count"])
    return write_phantom(path, **wanted)
