"""Every benchmark runs at a tiny size and prints its one object; what it measured means nothing there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = {
    "views": ["--rounds", "2", "--size", "32"],
    "targets_by_case": ["--rounds", "2", "--size", "32"],
    "distillation_step": ["--rounds", "2", "--size", "32", "--batch-size", "2"],
    "lite_unet": ["--sizes", "32", "--rounds", "2"],
    "loss_scale": ["--sizes", "16", "32", "--volume-sizes", "16"],
    "data_wait": ["--epochs", "2", "--size", "32", "--dataset", "phantom", "--phantoms", "40"],
    "distillation_cost": [
        "--rounds",
        "2",
        "--size",
        "32",
        "--images",
        "8",
        "--depth",
        "18",
        "--others",
        "fitnet",
    ],
    "matrix_cost": ["--size", "32", "--images", "40", "--epochs", "1", "--views", "1"],
    "calls": [],
    "verdict_power": ["--studies", "1"],
    "jobs": ["--size", "32", "--images", "40", "--epochs", "1", "--rounds", "1"],
    "batches": ["--rounds", "1", "--size", "32", "--pictures", "4"],
    "cold_start": ["--rounds", "1", "--size", "32", "--image-size", "64"],
}
LOOP = [
    "--dataset",
    "phantom",
    "--phantoms",
    "40",
    "--size",
    "32",
    "--measure-steps",
    "2",
    "--measure-epochs",
    "1",
]


def call(name: str, *arguments: str) -> str:
    """What a benchmark prints; one thread, since tests run beside one another."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(name: str, *arguments: str) -> dict[str, Any]:
    """The object, which is all that stands on stdout."""
    printed: dict[str, Any] = json.loads(call(name, *arguments, "--json"))
    assert list(printed) == ["name", "figure", "bar", "holds", "details"]
    assert printed["name"] == name
    assert "processor" in printed["details"]["machine"]
    return printed


LONG = {"matrix_cost", "calls", "jobs"}  # two dozen trainings; a whole run under a profiler; eight trainings


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in TINY]
)
def test_prints_one_object(name: str) -> None:
    found = result(name, *TINY[name])
    assert found["figure"] >= 0
    # the two sides of a distillation step compute the same
    assert found["details"].get("largest_loss_difference", 0.0) < 1e-3


@pytest.mark.slow  # ten processes, each of which imports torch
def test_plain_loop_compares_and_goes_on(tmp_path: Path) -> None:
    arguments = [*LOOP, "--epochs", "1", "--seeds", "1", "--out", str(tmp_path / "kept")]
    first = result("plain_loop", *arguments)
    trainings = first["details"]["trainings"]
    assert [training["side"] for training in trainings] == ["plain", "ours"]
    assert all(training["train_s"] > 0 for training in trainings)
    difference = first["details"]["difference"]
    assert difference["n"] == first["details"]["cases"]["test"]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*-seed*")}
    assert made  # nothing of a call is removed at its end
    assert result("plain_loop", *arguments)["details"]["difference"] == difference
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("*-seed*")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_choosing_reads_no_test_case(tmp_path: Path) -> None:
    out = tmp_path / "kept"
    printed = call("plain_loop", *LOOP, "--choose", "--minutes", "0.001", "--seeds", "1", "--out", str(out))
    assert all(line.startswith("val Dice") for line in printed.splitlines())
    assert list(out.glob("*-val-*.csv"))
    assert not list(out.glob("*-test-*"))
