"""Commands that see what is installed, and not the clone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def output(*command: str | Path, cwd: Path) -> str:
    """What a command prints; PYTHONPATH would put the clone before what is installed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
