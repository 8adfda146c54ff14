"""STU-Hospital: 42 breast ultrasound images of Zhuang et al. (PLoS ONE 14, 2019), without labels."""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, list_images, require_pairs

_IMAGE = re.compile(r"^Test_Image_(\d+)$", re.IGNORECASE)
_MASK = re.compile(r"^mask_(\d+)$", re.IGNORECASE)


def _fits(folder: Path) -> bool:
    return any(_IMAGE.match(file.stem) for file in list_images(folder))


@register_dataset(
    "stu",
    "STU-Hospital (Zhuang et al. 2019)",
    how_to_get=(
        "Download the folder Hospital of the authors' public repository STU-Hospital (linked "
        "from the paper, DOI "
        "10.1371/journal.pone.0221535). Cite the paper."
    ),
    published={"": 42},
    sign=_fits,
)
def index(path: Path) -> list[Case]:
    """Cases of STU-Hospital: Hospital/Test_Image_N.png with mask_N.png.

    Masks may differ in size from their image and hold grey values: they are resized, then thresholded.

    Raises:
        InputError: not this dataset, or a mask without image.
    """
    root = find_root(
        path,
        _fits,
        "STU-Hospital's files Test_Image_1.png and mask_1.png",
    )
    masks: dict[str, Path] = {}
    images: list[tuple[str, Path]] = []
    for file in list_images(root):
        if match := _MASK.match(file.stem):
            masks[match[1]] = file
        elif match := _IMAGE.match(file.stem):
            images.append((match[1], file))
    cases = []
    for number, file in images:
        files = (masks.pop(number),) if number in masks else ()
        cases.append(Case(file.stem, file, files, site="STU", resize_mask=True))
    require_pairs(list(masks.values()))
    return cases
