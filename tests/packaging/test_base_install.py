"""The base alone: no torch, no scipy, no matplotlib, and a model file is used all the same."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=1200, check=False
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported (untrained) student."""
    import torch

    from segdistill.experiment.export import export_network
    from segdistill.imaging.postprocess import Postprocess
    from segdistill.imaging.preprocess import Preprocess
    from segdistill.models.registry import create_network
    from segdistill.runtime.model_file import ModelInfo

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    classes = ("background", "lesion")
    info = ModelInfo("student", 3, classes, Preprocess((64, 64)), Postprocess(classes=classes))
    export_network(create_network("simplified_unet"), info, path)
    return path


@pytest.mark.slow
def test_base_has_no_torch_and_predicts(base: Path, model: Path, tmp_path: Path) -> None:
    from segdistill.data.phantom import write_phantom

    for module in ("torch", "scipy", "matplotlib", "onnx", "albumentations"):
        assert run(base / "python", "-c", f"import {module}").returncode != 0, module
    write_phantom(tmp_path / "images", 4, size=96)
    pictures = sorted((tmp_path / "images" / "images").glob("*.png"))
    done = run(base / "segdistill", "predict", model, *pictures, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert len(rows) == 4
    assert len(list((tmp_path / "out").glob("*_overlay.png"))) == 4


@pytest.mark.slow
def test_base_evaluates_a_model_file_and_explains_what_training_needs(
    base: Path, model: Path, tmp_path: Path
) -> None:
    from segdistill.data.phantom import write_phantom

    write_phantom(tmp_path / "images", 6, size=64)
    table = tmp_path / "cases.csv"
    assert (
        run(base / "segdistill", "data", "index", "phantom", tmp_path / "images", "-o", table).returncode == 0
    )
    done = run(base / "segdistill", "evaluate", model, table, "--json")
    assert done.returncode == 0, done.stderr
    done = run(base / "segdistill", "run", "distill", "--data", table, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "needs the extra 'train'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
