"""What tiny runs of the bundled recipes compute is, to the bit, what was recorded at commit 23e17f9."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "unchanged.py"
RECORD = ROOT / "docs" / "results" / "data" / "house.json"
PARTS = runpy.run_path(str(SCRIPT))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PARTS["RECIPES"])
def test_nothing_changed(name: str) -> None:
    if others := PARTS["elsewhere"](RECORD):
        pytest.skip(f"recorded on another machine, where bits may differ: {'; '.join(others)}")
    command = [sys.executable, str(SCRIPT), "--check", str(RECORD), "--recipe", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip().endswith("unchanged")
