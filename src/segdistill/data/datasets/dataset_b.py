"""Dataset B (UDIAT): breast ultrasound of Yap et al. (IEEE J. Biomed. Health Inform. 22, 2018), 163
images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, list_images, natural_key, subfolder
from segdistill.data.datasets.folder import pair
from segdistill.data.datasets.pairs import plain_name, table_labels
from segdistill.errors import InputError

_IMAGES, _MASKS, _CLASSES = ("original", "originals", "images"), ("gt", "masks"), ("benign", "malignant")


@register_dataset(
    "dataset_b",
    "Dataset B / UDIAT (Yap et al. 2018)",
    how_to_get=(
        "Ask the authors for it (a release agreement is signed) and unpack: BUS/original, "
        "BUS/GT, DatasetB.xlsx. "
        "Research use; cite the paper."
    ),
    published={"benign": 110, "malignant": 53},
)
def index(path: Path) -> list[Case]:
    """Cases of Dataset B: original/000001.png with GT/000001.png, labels from DatasetB.xlsx (or a .csv)
    beside them.

    The layout with folders Benign/ and Malignant/, each with original/ and GT/, is read too. Without any
    source of labels they stay empty.

    Raises:
        InputError: not this dataset, a mask without image, or an image that the table does not list.
    """
    root = find_root(
        path, _fits, "original/ and GT/ with files like 000001.png, or these inside Benign/ and Malignant/"
    )
    folders = _class_folders(root)
    if folders:
        cases = [replace(case, label=label) for label, folder in folders for case in _read(folder)]
        return sorted(cases, key=lambda case: natural_key(case.id))
    cases = _read(root)
    tables = sorted(file for file in root.iterdir() if file.suffix.lower() in (".xlsx", ".csv"))
    tables = [file for file in tables if file.name != "cases.csv" and not file.name.startswith(("~", "."))]
    if not tables:
        return cases
    labels = table_labels(tables[0])
    for case in cases:
        if plain_name(case.id) not in labels:
            raise InputError(
                f"{case.image}: not listed in {tables[0].name}: add a row, or move the image away"
            )
    return [replace(case, label=labels[plain_name(case.id)]) for case in cases]


def _read(folder: Path) -> list[Case]:
    images, masks = subfolder(folder, _IMAGES), subfolder(folder, _MASKS)
    assert images is not None
    assert masks is not None
    pairs = pair(list_images(images), list_images(masks))
    return [Case(image.stem, image, files, site="UDIAT") for image, files in pairs.items()]


def _fits(folder: Path) -> bool:
    return bool(_class_folders(folder)) or _has_pair(folder)


def _has_pair(folder: Path) -> bool:
    images, masks = subfolder(folder, _IMAGES), subfolder(folder, _MASKS)
    return images is not None and masks is not None and bool(list_images(images))


def _class_folders(folder: Path) -> list[tuple[str, Path]]:
    found = [(label, subfolder(folder, [label])) for label in _CLASSES]
    return [(label, child) for label, child in found if child is not None and _has_pair(child)]
