"""The multi-site prostate MR collection of Liu et al. (MS-Net, IEEE TMI 39, 2020; SAML, MICCAI 2020), as NIfTI."""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, require_pairs

SITES = ("RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK")
_MASK = re.compile(r"^(?P<image>.+?)_segmentation(?P<end>\.nii(\.gz)?)$", re.IGNORECASE)


@register_dataset(
    "prostate_multisite",
    "Multi-site prostate MR of six hospitals (Liu et al. 2020)",
    how_to_get=(
        "Download the collection from the authors' project page (SAML) and unpack it: folders RUNMC, BMC, I2CVB, UCL, "
        "BIDMC and HK. Research use; cite the paper and the three sources."
    ),
    published={"": 116},
    sign=lambda folder: any((folder / site).is_dir() and any(_images(folder / site)) for site in SITES),
)
def index(path: Path) -> list[Case]:
    """Cases of the collection: SITE/CaseNN.nii.gz with SITE/CaseNN_segmentation.nii.gz, one folder per site.

    Sites are RUNMC and BMC (from NCI-ISBI 2013), I2CVB, UCL, BIDMC and HK (from PROMISE12). Labels above 0 are
    prostate (some masks hold two zones).

    Raises:
        InputError: not this collection, or a mask without image.
    """
    known = {site.lower(): site for site in SITES}
    root = find_root(
        path,
        lambda folder: any(
            child.name.lower() in known and any(_images(child))
            for child in folder.iterdir()
            if child.is_dir()
        ),
        f"the collection's folders {', '.join(SITES)} with files like Case00.nii.gz and Case00_segmentation.nii.gz",
    )
    folders = {known[child.name.lower()]: child for child in root.iterdir() if child.name.lower() in known}
    cases: list[Case] = []
    for site in SITES:
        if site not in folders:
            continue
        files = sorted(folders[site].iterdir(), key=lambda file: natural_key(file.name))
        masks = {match["image"].lower(): file for file in files if (match := _MASK.match(file.name))}
        for file in _images(folders[site]):
            name = re.sub(r"\.nii(\.gz)?$", "", file.name, flags=re.IGNORECASE)
            mask = masks.pop(name.lower(), None)
            cases.append(Case(f"{site}/{name}", file, (mask,) if mask else (), site=site))
        require_pairs(list(masks.values()))
    return cases


def _images(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.name.lower().endswith((".nii", ".nii.gz"))
        and not _MASK.match(file.name)
        and file.name[0] != "."
    ]
    return sorted(files, key=lambda file: natural_key(file.name))
