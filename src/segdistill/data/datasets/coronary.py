"""X-ray coronary angiograms with vessel masks: pairs N.png and N_gt.png, also N.pgm (DCA1)."""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, list_images, require_pairs

_MASK = re.compile(r"^(?P<image>.+)_gt$", re.IGNORECASE)


@register_dataset(
    "coronary",
    "X-ray coronary angiograms with vessel masks (CIMAT, DCA1)",
    how_to_get=(
        "Download DCA1 (134 angiograms, Cervantes-Sanchez et al. 2019, linked from DOI 10.3390/app9245507), or put "
        "your own pairs N.png and N_gt.png into one folder. Cite the paper."
    ),
    published={"": 134},
)
def index(path: Path) -> list[Case]:
    """Cases of a folder of angiograms with their masks beside them: N.png with N_gt.png, N.pgm with N_gt.pgm.

    DCA1 is such a folder of 134 pairs, the CIMAT training set one of 40; a clinical set of 992 x 992 pixels takes the
    same layout. In `PATIENT_N.png` the part before the last underscore groups the images of a patient.

    Raises:
        InputError: no such pairs, or a mask without image.
    """
    root = find_root(
        path,
        lambda folder: any(_MASK.match(file.stem) for file in list_images(folder)),
        "angiograms in pairs such as 1.png and 1_gt.png",
    )
    files = list_images(root)
    masks = {match["image"].lower(): file for file in files if (match := _MASK.match(file.stem))}
    images = [file for file in files if not _MASK.match(file.stem)]
    cases = []
    for file in images:
        mask = masks.pop(file.stem.lower(), None)
        group = file.stem.rpartition("_")[0]
        cases.append(Case(file.stem, file, (mask,) if mask else (), group=group))
    require_pairs(list(masks.values()))
    return cases
