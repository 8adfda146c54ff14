"""What loading a model file leaves behind on the machine: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.runtime.small_model import save


def test_nothing_is_written_below_the_home_folder(tmp_path: Path) -> None:
    model, home = save(tmp_path / "m.onnx"), tmp_path / "home"
    home.mkdir()
    code = f"from segdistill.runtime.engine import Engine; Engine({str(model)!r})"
    without = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=without | {"HOME": str(home)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(home.rglob("*")) == []
