"""A task of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 13, 2022)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, require_pairs
from segdistill.errors import InputError


@register_dataset(
    "decathlon",
    "Medical Segmentation Decathlon, one task (Antonelli et al. 2022)",
    how_to_get=(
        "Download a task with images of one channel, such as Task09_Spleen.tar (41 labelled CT), from "
        "medicaldecathlon.com and unpack it. CC BY-SA 4.0; cite the paper."
    ),
    published={"": 41},
)
def index(path: Path, task: str = "") -> list[Case]:
    """Cases of one task: imagesTr/*.nii.gz with labelsTr/*.nii.gz of the same names.

    With dataset.json beside them the listed pairs are taken, and a label beyond its classes becomes an error when
    the mask is read. Images of the test set have no labels and are skipped. Every label above 0 is foreground.

    Args:
        path: the task's folder, or one above it.
        task: the start of the folder's name where there are several, such as "Task09".

    Raises:
        InputError: not a task, several tasks, a listed file that is missing, or a mask without image.
    """

    def fits(folder: Path) -> bool:
        return folder.name.startswith(task) and all(
            (folder / part).is_dir() for part in ("imagesTr", "labelsTr")
        )

    root = find_root(
        path, fits, "a Decathlon task with imagesTr and labelsTr" + (f" named {task}" if task else "")
    )
    masks = {file.name.lower(): file for file in _files(root / "labelsTr")}
    declared = _declared(root / "dataset.json")
    if declared is None:
        images, classes = _files(root / "imagesTr"), 0
    else:
        images, classes = [root / name for name in declared[0]], declared[1]
        missing = [image for image in images if not image.is_file()]
        if missing:
            raise InputError(
                f"{missing[0]}: listed in dataset.json, but not there ({len(missing)} of {len(images)} are missing): "
                "unpack the whole task, or remove dataset.json"
            )
    cases = []
    for image in images:
        mask = masks.pop(image.name.lower(), None)
        name = image.name[: image.name.lower().index(".nii")]
        cases.append(Case(name, image, (mask,) if mask else (), site=root.name, classes=classes))
    if declared is None:
        require_pairs(list(masks.values()))
    return cases


def _files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.name.lower().endswith((".nii", ".nii.gz")) and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: natural_key(file.name))


def _declared(path: Path) -> tuple[list[str], int] | None:
    """Training images and the number of classes as dataset.json lists them; None without it."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
        names = [str(item["image"]).removeprefix("./") for item in content["training"]]
        classes = 1 + max(int(label) for label in content["labels"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}): unpack the task again") from error
    if any(".." in Path(name).parts or Path(name).is_absolute() for name in names):
        raise InputError(f"{path}: lists files outside of its folder: unpack the task again")
    return sorted(names, key=natural_key), classes
