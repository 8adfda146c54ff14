"""Tiny volumes of three hospitals and tiny angiograms, each learnt in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segdistill.data.case import Case
from segdistill.data.table import write_cases
from tests.imaging.volumes import ORGAN, write_itk

SPLITS = ("train", "train", "val", "test")
SITES = ("A", "B", "C")
NETWORK = {"name": "simplified_unet", "widths": [4, 8, 8]}
FIT = {
    "epochs": 10,
    "batch_size": 4,
    "precision": "fp32",
    "checkpoint_seconds": 0.0,
    "workers": 0,
    "optimizer": {"name": "adam", "lr": 0.01},
}


def volume(seed: int, shape: tuple[int, int, int] = (5, 24, 20)) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise, empty at both ends."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    middle = (shape[0] // 2, *rng.integers(9, 12, 2))
    ball = ((z - middle[0]) * 3.0) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2 < 25
    voxels = rng.normal(100, 20, shape) + 200 * ball
    return voxels.astype(np.int16), ball.astype(np.uint8)


def volumes(root: Path, spacing: tuple[float, float, float] = (0.5, 0.6, 3.0)) -> Path:
    """cases.csv of twelve volumes, four of each site: two to train, one to validate, one to test."""
    cases = []
    for k in range(12):
        voxels, ball = volume(k)
        image = write_itk(root / f"Case{k:02}.mhd", voxels, spacing=spacing)
        mask = write_itk(root / f"Case{k:02}_segmentation.mhd", ball, spacing=spacing)
        cases.append(
            Case(f"Case{k:02}", image, (mask,), site=SITES[k // 4], split=SPLITS[k % 4], classes=ORGAN)
        )
    write_cases(cases, root / "cases.csv")
    return root / "cases.csv"


def vessels(root: Path, count: int = 8, side: int = 120) -> Path:
    """cases.csv of angiograms: two thin dark lines on grey noise."""
    root.mkdir(parents=True, exist_ok=True)
    cases = []
    for k in range(count):
        rng = np.random.default_rng(100 + k)
        mask = Image.new("L", (side, side))
        pen = ImageDraw.Draw(mask)
        for _ in range(2):
            pen.line(
                [tuple(point) for point in rng.integers(4, side - 4, (3, 2)).tolist()], fill=255, width=2
            )
        pixels = rng.normal(170, 8, (side, side)) - 120 * (np.asarray(mask) > 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{k}.png")
        mask.save(root / f"{k}_gt.png")
        split = "test" if k >= count - 2 else "val" if k == count - 3 else "train"
        cases.append(Case(str(k), root / f"{k}.png", (root / f"{k}_gt.png",), split=split))
    write_cases(cases, root / "cases.csv")
    return root / "cases.csv"


def volume_recipe() -> dict[str, Any]:
    """Two site teachers and a student, as AMTD's multi-teacher experiment."""
    return {
        "name": "tiny-volumes",
        "data": {"size": 16, "channels": 1, "intensity": "mr", "skip_empty": True},
        "fit": FIT,
        "stages": {
            "teacher_a": {"role": "teacher", "model": NETWORK, "sites": ["A"]},
            "teacher_b": {"role": "teacher", "model": NETWORK, "sites": ["B", "C"], "seed": 5},
            "student": {
                "role": "student",
                "task": "distillation",
                "model": NETWORK | {"widths": [2, 4, 4]},
                "teachers": {"teacher_a": {}, "teacher_b": {}},
                "weighting": "score",
                "combine": "predictions",
                "methods": {"soft_prediction": {}},
            },
        },
        "evaluation": {"metrics": ["voe_emkd", "hd95"], "pooled": True, "threshold": 0.4},
        "export": "student",
    }


def vessel_recipe() -> dict[str, Any]:
    """One network on patches of an angiogram."""
    return {
        "name": "tiny-vessels",
        "data": {"channels": 1, "patches": {"count": 3, "size": 48}},
        "fit": FIT | {"augment": "vessel", "batch_size": 9},
        "stages": {"net": {"model": NETWORK, "loss": {"name": "cross_entropy"}}},
        "evaluation": {"pooled": True},
        "export": "net",
    }


def without_sites(cases: list[Case]) -> list[Case]:
    return [replace(case, site="") for case in cases]
