"""I2CVB: prostate MR of two scanners (Lemaitre et al., Computers in Biology and Medicine 60, 2015), DICOM series."""

from __future__ import annotations

from pathlib import Path

from segdistill.data.case import Case
from segdistill.data.datasets import register_dataset
from segdistill.data.datasets.base import find_root, natural_key, subfolder


@register_dataset(
    "i2cvb",
    "I2CVB prostate MR (Lemaitre et al. 2015)",
    how_to_get=(
        "Download the multi-parametric MR of I2CVB (i2cvb.github.io, on Zenodo) and unpack it: folders 'Patient N' "
        "with T2W and GT/prostate, in GE/ and Siemens/ for both scanners. CC BY; cite the paper."
    ),
    published={"": 19},
    sign=lambda folder: bool(_patients(folder)),
)
def index(path: Path) -> list[Case]:
    """Cases of I2CVB: `Patient 383/T2W` with the masks in `Patient 383/GT/prostate`, both DICOM series.

    The folder above the patients, GE or Siemens, becomes the site. Slices that have no mask file hold no prostate.

    Raises:
        InputError: not this dataset.
    """
    root = find_root(
        path, lambda folder: bool(_patients(folder)), "I2CVB's folders such as 'Patient 383/T2W'"
    )
    cases = []
    for folder in _patients(root):
        image = subfolder(folder, ["t2w"])
        truth = subfolder(folder, ["gt"])
        mask = subfolder(truth, ["prostate"]) if truth else None
        assert image is not None
        scanner = folder.parent.name
        site = scanner if scanner.lower() in ("ge", "siemens") else "I2CVB"
        name = folder.name if folder.parent == root else f"{scanner}/{folder.name}"
        cases.append(Case(name, image, (mask,) if mask else (), group=name, site=site))
    return cases


def _patients(folder: Path) -> list[Path]:
    children = [child for child in folder.iterdir() if child.is_dir()]
    scanners = [child for child in children if child.name.lower() in ("ge", "siemens")]
    places = [*children, *(patient for scanner in scanners for patient in scanner.iterdir())]
    found = [place for place in places if place.is_dir() and subfolder(place, ["t2w"])]
    return sorted(found, key=lambda place: natural_key(str(place.relative_to(folder))))
