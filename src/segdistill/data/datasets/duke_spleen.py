"""Duke Spleen Data Set: CT and MR of 109 patients with liver disease (Wang, Macdonald et al., arXiv 2305.05732)."""

from __future__ import annotations

from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import (
    find_root,
    first_header,
    natural_key,
    series_folders,
    subfolder,
)
from segdistill.errors import InputError

_IMAGES = ("images", "image", "dicom", "dicoms", "img")
_MASKS = ("masks", "mask", "segmentation", "segmentations", "labels", "label")
_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mhd", ".mha")


@register_dataset(
    "duke_spleen",
    "Duke Spleen Data Set (Wang et al. 2023)",
    how_to_get=(
        "Ask for the Duke Spleen Data Set on Zenodo (linked from arXiv 2305.05732) and unpack it; each volume in a "
        "folder with images/ and masks/. Terms on request; cite the paper."
    ),
    published={"": 69},
)
def index(path: Path, modality: str = "CT") -> list[Case]:
    """Cases of the Duke Spleen Data Set: folders with images/ (a DICOM series) and masks/ (a DICOM series or a volume).

    The first folder below the root is the patient. Only series of one modality are taken.

    Args:
        path: the dataset's folder.
        modality: "CT", "MR", or "" for both.

    Raises:
        InputError: not this dataset, several series or masks in one folder, or no series of this modality.
    """
    root = find_root(
        path, lambda folder: bool(_volumes(folder)), "folders with images/ and masks/ of DICOM slices", 1
    )
    cases: list[Case] = []
    others: set[str] = set()
    for folder in _volumes(root):
        image, masks = subfolder(folder, _IMAGES), subfolder(folder, _MASKS)
        assert image is not None
        assert masks is not None
        kind = first_header(_one(image), "Modality")
        if modality and kind != modality:
            others.add(kind or "none")
            continue
        place = folder.relative_to(root)
        name = place.as_posix() if place.parts else folder.name
        cases.append(Case(name, _one(image), (_one(masks),), group=(place.parts or (name,))[0], site="Duke"))
    if not cases:
        raise InputError(f"{root}: no series of modality {modality}: there are {', '.join(sorted(others))}")
    return cases


def _volumes(root: Path) -> list[Path]:
    """Folders, at most three levels down, that hold both an image and a mask folder."""
    level, found = [root], []
    for _ in range(4):
        fits = [folder for folder in level if subfolder(folder, _IMAGES) and subfolder(folder, _MASKS)]
        found += fits
        level = [
            child for folder in level if folder not in fits for child in folder.iterdir() if child.is_dir()
        ]
    return sorted(found, key=lambda folder: natural_key(str(folder.relative_to(root))))


def _one(folder: Path) -> Path:
    """The one volume in a folder: a file, or the folder of a series."""
    files = [file for file in sorted(folder.iterdir()) if file.name.lower().endswith(_VOLUMES)]
    found = files or series_folders(folder)
    if len(found) != 1:
        raise InputError(f"{folder}: holds {len(found)} volumes where one is expected: keep one")
    return found[0]
