"""BUSI: Breast Ultrasound Images (Al-Dhabyani et al., Data in Brief 28, 2020), folders and names as
published.
"""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, list_images, require_pairs
from segdistill.errors import InputError

LABELS = ("benign", "malignant", "normal")
_MASK = re.compile(r"^(?P<image>.+?)_mask(_\d+)?$")


def _fits(folder: Path) -> bool:
    return all((folder / label).is_dir() for label in LABELS) and any(
        (folder / LABELS[0]).glob("benign (*)*.png")
    )


@register_dataset(
    "busi",
    "BUSI, Breast Ultrasound Images (Al-Dhabyani et al. 2020)",
    how_to_get=(
        "Download Dataset_BUSI_with_GT (linked from the paper, DOI 10.1016/j.dib.2019.104863) "
        "and unpack it. "
        "Terms differ between mirrors; cite the paper."
    ),
    published={"benign": 437, "malignant": 210, "normal": 133},
    sign=_fits,
)
def index(path: Path) -> list[Case]:
    """Cases of BUSI; several masks of an image are joined, a normal image has an empty reference.

    Raises:
        InputError: not the BUSI folder, or a mask without an image.
    """
    root = find_root(
        path,
        _fits,
        "BUSI's folders benign, malignant and normal with files like 'benign (1).png' and 'benign "
        "(1)_mask.png'",
    )
    cases: list[Case] = []
    for label in LABELS:
        masks: dict[str, list[Path]] = {}
        images: list[Path] = []
        for file in list_images(root / label):
            match = _MASK.match(file.stem)
            if match:
                masks.setdefault(match["image"], []).append(file)
            else:
                images.append(file)
        if not images:
            raise InputError(f"{root / label}: no images: unpack the whole dataset")
        cases += [Case(file.stem, file, tuple(masks.pop(file.stem, ())), label=label) for file in images]
        require_pairs([file for files in masks.values() for file in files])
    return cases
