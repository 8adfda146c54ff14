"""PROMISE12: prostate T2 MR of four hospitals (Litjens et al., Medical Image Analysis 18, 2014)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, require_pairs
from segdistill.errors import InputError
from segdistill.imaging.classes import MaskClass

_IMAGE = re.compile(r"^case\d+\.mhd$", re.IGNORECASE)
_CLASSES = (MaskClass("prostate", (1,)),)
_MASK = re.compile(r"^(?P<image>case\d+)_segmentation\.mhd$", re.IGNORECASE)


def _fits(folder: Path) -> bool:
    return any(_IMAGE.match(file.name) for file in folder.iterdir())


@register_dataset(
    "promise12",
    "PROMISE12, prostate MR (Litjens et al. 2014)",
    how_to_get=(
        "Download TrainingData from promise12.grand-challenge.org (registration) and unpack it. Put a sites.csv "
        "(columns case, site) beside it to divide by hospital. Research use; cite the paper."
    ),
    published={"": 50},
    sign=_fits,
)
def index(path: Path) -> list[Case]:
    """Cases of PROMISE12: CaseNN.mhd with CaseNN_segmentation.mhd; their voxels lie beside them (.raw or .zraw).

    A table sites.csv (columns case, site), beside the cases or one folder above, names the hospitals. Cases of a
    folder TestData have no mask.

    Raises:
        InputError: not this dataset, a mask without image, or a sites.csv that does not list every case.
    """
    root = find_root(
        path,
        _fits,
        "PROMISE12's files Case00.mhd and Case00_segmentation.mhd",
    )
    files = sorted(
        (file for file in root.iterdir() if file.is_file()), key=lambda file: natural_key(file.name)
    )
    masks = {match["image"].lower(): file for file in files if (match := _MASK.match(file.name))}
    sites = _sites(root)
    cases = []
    for file in files:
        if not _IMAGE.match(file.name):
            continue
        if sites and file.stem.lower() not in sites:
            raise InputError(
                f"{file}: not listed in sites.csv: add a line '{file.stem},SITE', or remove sites.csv"
            )
        mask = masks.pop(file.stem.lower(), None)
        site = sites.get(file.stem.lower(), "")
        cases.append(Case(file.stem, file, (mask,) if mask else (), site=site, classes=_CLASSES))
    require_pairs(list(masks.values()))
    return cases


def _sites(root: Path) -> dict[str, str]:
    """Hospital by case, in lower case; empty where there is no table."""
    for table in (root / "sites.csv", root.parent / "sites.csv"):
        if not table.is_file():
            continue
        try:
            rows = list(csv.DictReader(table.read_text(encoding="utf-8-sig").splitlines()))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{table}: not a readable UTF-8 table: {error}") from error
        if not rows or not {"case", "site"} <= set(rows[0]):
            raise InputError(f"{table}: needs the columns case and site")
        return {(row["case"] or "").strip().lower(): (row["site"] or "").strip() for row in rows}
    return {}
