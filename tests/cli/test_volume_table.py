"""Volumes and spacings that cannot be used, from the command line: one line, exit code 2."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.experiment.test_shrink_volumes import table
from tests.experiment.tiny import segdistill


def changed(source: Path, column: str, value: str) -> Path:
    """The table with another value in its first row."""
    with open(source, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = value
    with open(source, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return source


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--set", "data.spacing=[1, 0, 1]"),
            "data.spacing: give [slice, row, column], three numbers of mm above 0 and below 1000, such as [2, 1, 1], "
            "not [1, 0, 1]",
        ),
        (
            ("--set", "data.spacing=[1, 1, 1]", "--set", "data.dimensions=2"),
            "data.spacing is [1.0, 1.0, 1.0], which is for volumes: remove it, or dimensions: 2",
        ),
        (
            ("--set", "data.size=[16, 16, 12]"),
            "image size 16x16x12 is not a multiple of 8; use size=16",
        ),
    ],
)
def test_settings_of_volumes(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    answer = segdistill("run", "distill", "--data", table(tmp_path), "--out", tmp_path / "run", *words)
    assert answer.code == 2
    assert line in answer.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_empty_volumes_and_a_spacing_of_0(tmp_path: Path, command: str) -> None:
    words = ("run", "distill", "--data") if command == "run" else ("data", "plan")
    last = ("--out", tmp_path / "run") if command == "run" else ()
    nothing = tmp_path / "nothing.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 16, 0), np.int16), np.eye(4)), nothing)
    source = changed(table(tmp_path), "image", str(nothing))
    answer = segdistill(*words, source, *last)
    assert answer.code == 2
    assert "nothing.nii.gz: claims 16 x 16 x 0 voxels, so it is empty" in answer.line
    answer = segdistill(*words, changed(table(tmp_path), "spacing_mm", "0 1 1"), *last)
    assert answer.code == 2
    assert "spacing_mm" in answer.line
