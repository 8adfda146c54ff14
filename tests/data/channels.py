"""Data of two channels: real images, and beside each a known transformation of it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

NAMES = ("T1", "inverse")


def inverse(values: np.ndarray) -> np.ndarray:
    """The second channel: bright becomes dark, and squared."""
    turned = float(values.max()) - np.asarray(values, np.float64)
    return np.rint(turned**2 / max(turned.max(), 1.0)).astype(np.int32)


def task(root: Path) -> Path:
    """The real task that volumes are taken from."""
    return root / "hippocampus" / "Task04_Hippocampus"


def volumes(root: Path, folder: Path, count: int = 3, layout: str = "nnunet") -> Path:
    """A task of `count` hippocampus volumes with two channels, as nnU-Net (two files) or the Decathlon (4-D) has it."""
    source = task(root)
    images = sorted(source.glob("imagesTr/hippocampus_*.nii.gz"))[:count]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for path in images:
        stem = path.name.removesuffix(".nii.gz")
        first = nibabel.load(path)
        values = np.asarray(first.dataobj).astype(np.int32)
        both = [values, inverse(values)]
        if layout == "nnunet":
            for k, each in enumerate(both):
                image = nibabel.Nifti1Image(each, first.affine)
                nibabel.save(image, folder / "imagesTr" / f"{stem}_{k:04d}.nii.gz")
        else:
            image = nibabel.Nifti1Image(np.stack(both, axis=-1), first.affine)
            nibabel.save(image, folder / "imagesTr" / path.name)
        shutil.copy(source / "labelsTr" / path.name, folder / "labelsTr" / path.name)
    if layout == "nnunet":
        content = {
            "channel_names": dict(zip("01", NAMES, strict=True)),
            "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
            "file_ending": ".nii.gz",
        }
    else:
        content = {
            "modality": dict(zip("01", NAMES, strict=True)),
            "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def pictures(root: Path, folder: Path, count: int = 6, side: int = 96) -> Path:
    """A table of BUSI pictures, smaller, with the negative of each as second channel."""
    source = root / "busi" / "Dataset_BUSI_with_GT"
    folder.mkdir(parents=True)
    rows = []
    images = sorted(p for p in source.glob("benign/*.png") if "_mask" not in p.name)[:count]
    for k, path in enumerate(images):
        grey = Image.open(path).convert("L").resize((side, side))
        mask = Image.open(path.with_name(f"{path.stem}_mask.png")).convert("L").resize((side, side), 0)
        grey.save(folder / f"{k}_us.png")
        Image.fromarray(255 - np.asarray(grey)).save(folder / f"{k}_neg.png")
        mask.save(folder / f"{k}_mask.png")
        split = "test" if k >= count - 2 else "val" if k == count - 3 else "train"
        image = f"us={k}_us.png;negative={k}_neg.png"
        rows.append({"id": f"c{k}", "image": image, "masks": f"{k}_mask.png", "split": split})
    with open(folder / "cases.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "cases.csv"
