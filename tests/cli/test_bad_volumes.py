"""What users get wrong with volumes, series, sites and teachers: one line, exit code 2, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml

from segdistill.data.table import read_cases, write_cases
from tests.experiment.tiny import segdistill, snapshot
from tests.experiment.volumes_and_vessels import volume, volume_recipe, volumes
from tests.imaging.volumes import dicom_slice, write_itk, write_series


def mask_of(root: Path, **how: Any) -> None:
    """Case03's mask, written otherwise than its image."""
    _, ball = volume(3)
    array = how.pop("array", ball)
    write_itk(root / "Case03_segmentation.mhd", array, **({"spacing": (0.5, 0.6, 3.0)} | how))


def series_of(root: Path, damage: Callable[[Path], object]) -> None:
    """Case03 as a DICOM series that is damaged; its mask as NIfTI would be as long."""
    voxels, _ = volume(3)
    folder = write_series(root / "series", voxels)
    damage(folder)
    cases = read_cases(root / "cases.csv")
    write_cases([replace(c, image=folder) if c.id == "Case03" else c for c in cases], root / "cases.csv")


def four_dimensions(root: Path) -> None:
    path = root / "Case03.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 24, 5, 2), np.int16), np.eye(4)), path)
    cases = read_cases(root / "cases.csv")
    write_cases([replace(c, image=path) if c.id == "Case03" else c for c in cases], root / "cases.csv")


def remove_one(folder: Path) -> None:
    named = {path.name: path for path in folder.iterdir()}
    named["IM0004.dcm"].unlink()  # the third of five slices


def double_one(folder: Path) -> None:
    voxels, _ = volume(3)
    dicom_slice(voxels[2], 26.0).save_as(folder / "again.dcm", enforce_file_format=True)


def other_size(folder: Path) -> None:
    dicom_slice(np.zeros((12, 12), np.int16), 35.0).save_as(folder / "small.dcm", enforce_file_format=True)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "mask of another size": (
        lambda root: mask_of(root, array=volume(3)[1][:, :-2]),
        "image and mask have 5 x 24 x 20 against 5 x 22 x 20 voxels",
    ),
    "mask of another spacing": (
        lambda root: mask_of(root, spacing=(0.7, 0.6, 3.0)),
        "a spacing of 3 x 0.6 x 0.5 against 3 x 0.6 x 0.7 mm",
    ),
    "mask of another orientation": (
        lambda root: mask_of(root, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
        "an orientation of SPL against SAR",
    ),
    "labels beyond the classes": (
        lambda root: mask_of(root, array=volume(3)[1] * 3),
        "holds the label 3, but 2 classes are declared",
    ),
    "a slice is missing": (lambda root: series_of(root, remove_one), "1 slice(s) are missing between"),
    "a slice is there twice": (lambda root: series_of(root, double_one), "are slices in the same place"),
    "slices of mixed sizes": (lambda root: series_of(root, other_size), "slices of mixed sizes"),
    "four dimensions": (four_dimensions, "has 4 dimensions, 20 x 24 x 5 x 2: a volume has three"),
}


def write(tmp_path: Path, recipe: dict[str, Any]) -> Path:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return tmp_path / "r.yaml"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_volumes_stop_a_run(damage: str, tmp_path: Path) -> None:
    table = volumes(tmp_path / "data")
    break_it, message = DAMAGE[damage]
    break_it(table.parent)
    recipe = write(tmp_path, volume_recipe())
    before = snapshot(tmp_path)
    answer = segdistill("run", recipe, "--data", table, "--device", "cpu", "--out", tmp_path / "runs" / "r")
    assert answer.code == 2
    assert message in answer.line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": {"size": 16, "channels": 1, "sites": ["A", "D"]}},
            "no case is of the site 'D': known: A, B, C",
        ),
        ({"sites": ["D"]}, "stage teacher_a: no training case of site 'D' has a mask (training cases: A: 2"),
        ({"methods": {"attention_transfer": {"layers": ["enc4"]}}}, "enc4"),
        ({"data": {"size": 24, "channels": 1, "patches": {"count": 2, "size": 16}}}, "or remove size"),
        (
            {"data": {"channels": 1, "patches": {"count": 1, "size": 16}}},
            "1 patches of 16 do not cover a side of 24",
        ),
        ({"data": {"channels": 1, "patches": {"count": 2, "size": 32}}}, "is shorter than a patch of 32"),
    ],
)
def test_recipes_that_do_not_fit_the_volumes(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = volume_recipe()
    for key, value in change.items():
        place = recipe["stages"]["student"] if key == "methods" else recipe["stages"]["teacher_a"]
        (recipe if key == "data" else place)[key] = value
    table = volumes(tmp_path / "data")
    path = write(tmp_path, recipe)
    before = snapshot(tmp_path)
    answer = segdistill("run", path, "--data", table, "--device", "cpu", "--out", tmp_path / "runs" / "r")
    assert answer.code == 2
    assert message in answer.line
    assert snapshot(tmp_path) == before


def test_a_teacher_without_the_feature_says_what_it_has(tmp_path: Path) -> None:
    recipe = volume_recipe()
    recipe["stages"]["student"]["methods"] = {"attention_transfer": {"layers": ["bottom"]}}
    answer = segdistill(
        "run", write(tmp_path, recipe), "--data", volumes(tmp_path / "data"), "--out", tmp_path / "r"
    )
    assert answer.code == 2
    assert "'bottom'" in answer.line
    for feature in ("encoder", "decoder"):
        assert feature in answer.line
    assert not (tmp_path / "r").exists()
