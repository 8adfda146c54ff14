"""CHASE_DB1: retinal vessels of both eyes of 14 children (Fraz et al., IEEE TBME 59, 2012)."""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, require_pairs

_IMAGE = re.compile(r"^image_(?P<child>\d+)(?P<eye>[lr])$", re.IGNORECASE)
_MASK = re.compile(r"^image_(?P<child>\d+)(?P<eye>[lr])_(?P<observer>1st|2nd)ho$", re.IGNORECASE)


def _fits(folder: Path) -> bool:
    return any(_IMAGE.match(file.stem) for file in _files(folder))


@register_dataset(
    "chase_db1",
    "CHASE_DB1, retinal vessels (Fraz et al. 2012)",
    how_to_get=(
        "Download CHASEDB1.zip from Kingston University's research data repository and unpack it. "
        "Cite the paper."
    ),
    published={"": 28},
    sign=_fits,
)
def index(path: Path, observer: str = "1st") -> list[Case]:
    """Cases of CHASE_DB1: Image_01L.jpg with Image_01L_1stHO.png, in one folder or in images/ and masks/ below it.

    Both eyes of a child are one group.

    Args:
        path: the dataset's folder.
        observer: whose annotation is the reference, "1st" or "2nd".

    Raises:
        InputError: not this dataset, or a mask without image.
    """
    root = find_root(
        path,
        _fits,
        "CHASE_DB1's files such as Image_01L.jpg and Image_01L_1stHO.png",
        depth=1,
    )
    files = _files(root)
    masks = {
        (match["child"] + match["eye"]).lower(): file
        for file in files
        if (match := _MASK.match(file.stem)) and match["observer"].lower() == observer.lower()
    }
    cases = []
    for file in files:
        match = _IMAGE.match(file.stem)
        if match:
            mask = masks.pop((match["child"] + match["eye"]).lower(), None)
            cases.append(Case(file.stem, file, (mask,) if mask else (), group=f"child {match['child']}"))
    require_pairs(list(masks.values()))
    return cases


def _files(folder: Path) -> list[Path]:
    """Pictures of a folder and of the folders in it."""
    files = [
        *folder.iterdir(),
        *(file for child in folder.iterdir() if child.is_dir() for file in child.iterdir()),
    ]
    kept = [
        file
        for file in files
        if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".tif") and file.name[0] != "."
    ]
    return sorted(kept, key=lambda file: natural_key(file.name))
