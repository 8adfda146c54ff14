"""SYSU: breast ultrasound from Sun Yat-sen University Cancer Center (Huang et al., Med. Image Anal. 61,
2020).

Copies of the dataset differ in layout, and no canonical one could be verified. Accepted is whatever the
`folder` adapter takes: a folder of images and one of masks (images/ and masks/, original/ and GT/, ...), with
sub-folders benign/ and malignant/ in both or not at all, or benign/ and malignant/ at the top with such a
pair in each.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import folder, register_dataset
from segdistill.data.datasets.base import find_root, natural_key, subfolder
from segdistill.data.datasets.pairs import plain_label

_CLASSES = ("benign", "malignant")


@register_dataset(
    "sysu",
    "SYSU, Sun Yat-sen University Cancer Center (Huang et al. 2020)",
    how_to_get=(
        "Ask the authors of the paper (DOI 10.1016/j.media.2020.101657); commonly described "
        "as 320 images. Put "
        "images and masks into images/ and masks/."
    ),
)
def index(path: Path) -> list[Case]:
    """Cases of SYSU in one of the layouts of this module's description; labels from folder names.

    Raises:
        InputError: no such layout, or a mask without image.
    """
    root = find_root(
        path,
        lambda place: bool(_class_folders(place)) or folder.is_plain(place),
        "a folder of images and one of masks, such as images/ and masks/, if need be inside benign/ "
        "and malignant/",
    )
    parts = _class_folders(root)
    if not parts:
        return [replace(case, label=plain_label(case.label), site="SYSU") for case in folder.index(root)]
    cases = [
        replace(case, id=f"{label}/{case.id}", label=label, site="SYSU")
        for label, place in parts
        for case in folder.index(place)
    ]
    return sorted(cases, key=lambda case: natural_key(case.id))


def _class_folders(place: Path) -> list[tuple[str, Path]]:
    found = [(label, subfolder(place, [label])) for label in _CLASSES]
    return [(label, child) for label, child in found if child is not None and folder.is_plain(child)]
