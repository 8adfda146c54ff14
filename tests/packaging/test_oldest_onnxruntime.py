"""The oldest ONNX Runtime that pyproject.toml allows runs model files as the newest does, with the same limits."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_tests_of_model_files_pass_with_it(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest,) = (text.split(">=")[1] for text in project["dependencies"] if text.startswith("onnxruntime"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "old")]
    done = subprocess.run([*pip, f"onnxruntime=={oldest}.*"], capture_output=True, text=True, check=False)
    if done.returncode != 0 and sys.version_info >= (3, 13):
        pytest.skip(f"onnxruntime {oldest} is not made for this Python")
    assert done.returncode == 0, done.stderr
    places = os.pathsep.join([str(tmp_path / "old"), str(ROOT / "src"), str(ROOT)])
    shown = "import onnxruntime; print(onnxruntime.__version__)"
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    assert run("-c", shown).stdout.startswith(f"{oldest}.")
    tests = ("test_engine", "test_model_file", "test_hostile_models", "test_predictor")
    done = run("-m", "pytest", "-q", "-p", "no:xdist", *(f"tests/runtime/{name}.py" for name in tests))
    assert done.returncode == 0, done.stdout + done.stderr
