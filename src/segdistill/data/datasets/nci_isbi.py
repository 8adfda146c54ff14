"""NCI-ISBI 2013: prostate MR of two hospitals (Bloch et al., The Cancer Imaging Archive), DICOM with NRRD masks."""

from __future__ import annotations

import re
from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, require_pairs, series_folders
from segdistill.errors import InputError

SITES = {"prostate3t": "RUNMC", "prostatedx": "BMC"}
_PATIENT = re.compile(r"^(?P<source>Prostate3T|ProstateDx)-\d\d-\d{4}$", re.IGNORECASE)
_MASK = re.compile(
    r"^(?P<patient>(Prostate3T|ProstateDx)-\d\d-\d{4})(?P<kind>_truth|_correctedlabels)?\.(nrrd|nii|nii\.gz)$",
    re.IGNORECASE,
)


@register_dataset(
    "nci_isbi",
    "NCI-ISBI 2013 prostate MR (Bloch et al. 2015)",
    how_to_get=(
        "Download the images of the collections Prostate-3T and PROSTATE-DIAGNOSIS that the challenge lists, "
        "one series per patient, and its masks (NRRD), from The Cancer Imaging Archive into one folder. CC BY 3.0; "
        "cite the collections."
    ),
    published={"": 80},
    sign=lambda folder: any(_PATIENT.match(child.name) for child in folder.iterdir()),
)
def index(path: Path) -> list[Case]:
    """Cases of NCI-ISBI 2013: folders Prostate3T-.. and ProstateDx-.. with one DICOM series each, masks as NRRD.

    Masks lie anywhere below the folder, named as the patient, also with _truth; _correctedLabels wins. The two
    zones are joined. Sites: Prostate3T is RUNMC, ProstateDx is BMC.

    Raises:
        InputError: not this dataset, a mask without series, or a patient with several series.
    """
    root = find_root(
        path,
        lambda folder: any(
            _PATIENT.match(child.name) for child in folder.rglob("Prostate*") if child.is_dir()
        ),
        "NCI-ISBI 2013's patient folders such as Prostate3T-01-0001",
        depth=0,
    )
    masks: dict[str, Path] = {}
    for file in sorted(root.rglob("Prostate*"), key=lambda file: natural_key(file.name)):
        match = _MASK.match(file.name) if file.is_file() else None
        if match and (
            match["patient"].lower() not in masks or (match["kind"] or "").lower() == "_correctedlabels"
        ):
            masks[match["patient"].lower()] = file
    cases = []
    series = _series(root)
    several = [patient for patient, places in series.items() if len(places) > 1]
    if several:
        listed = ", ".join(str(place.relative_to(root)) for place in series[several[0]])
        more = f" (in all {len(several)} patients have several)" if len(several) > 1 else ""
        raise InputError(
            f"{several[0]} has {len(series[several[0]])} series for one mask{more}: {listed}: keep below {root} only "
            "the one that the challenge lists"
        )
    for patient, places in series.items():
        mask = masks.pop(patient.lower(), None)
        site = SITES[patient.split("-")[0].lower()]
        cases.append(Case(patient, places[0], (mask,) if mask else (), group=patient, site=site))
    require_pairs(list(masks.values()))
    return cases


def _series(root: Path) -> dict[str, list[Path]]:
    """Patient -> the folders of its series, wherever folders with its name lie; patients without any are skipped."""
    found: dict[str, dict[Path, None]] = {}
    for folder in sorted(root.rglob("Prostate*"), key=lambda folder: natural_key(str(folder))):
        if folder.is_dir() and _PATIENT.match(folder.name):
            found.setdefault(folder.name, {}).update(dict.fromkeys(series_folders(folder)))
    return {patient: list(found[patient]) for patient in sorted(found, key=natural_key) if found[patient]}
