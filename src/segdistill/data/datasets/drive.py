"""DRIVE: retinal vessels (Staal et al., IEEE TMI 23, 2004)."""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key

_SUFFIXES = (".tif", ".tiff", ".png", ".gif", ".jpg")


def _fits(folder: Path) -> bool:
    return (folder / "training" / "images").is_dir() and (folder / "training" / "1st_manual").is_dir()


@register_dataset(
    "drive",
    "DRIVE, retinal vessels (Staal et al. 2004)",
    how_to_get=(
        "Download DRIVE from drive.grand-challenge.org (registration) and unpack training and test. "
        "Research use; cite the paper."
    ),
    published={"": 40},
    sign=_fits,
)
def index(path: Path) -> list[Case]:
    """Cases of DRIVE: training/ and test/ with images/NN_training.tif and 1st_manual/NN_manual1.gif.

    Both become splits. Masks of the field of view are not used. Test images without annotation have no reference.

    Raises:
        InputError: not this dataset.
    """
    root = find_root(
        path,
        _fits,
        "DRIVE's folders training/images and training/1st_manual",
    )
    cases: list[Case] = []
    for split, word in (("train", "training"), ("test", "test")):
        masks = {_number(file): file for file in _files(root / word / "1st_manual")}
        for file in _files(root / word / "images"):
            mask = masks.get(_number(file))
            cases.append(Case(file.stem, file, (mask,) if mask else (), split=split))
    return cases


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES and not f.name.startswith(".")]
    return sorted(files, key=lambda file: natural_key(file.name))


def _number(file: Path) -> str:
    return re.split(r"[_.]", file.name)[0].lstrip("0")
