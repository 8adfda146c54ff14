"""What the tests of the installed package share, made once for all test processes: sdist, wheel, a base-only venv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from tests.packaging.commands import output

ROOT = Path(__file__).parents[2]


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name`, which the first test process fills; the others wait for it."""
    top = factory.getbasetemp()
    top = top.parent if "PYTEST_XDIST_WORKER" in os.environ else top
    folder, done = top / name, top / f"{name}.done"
    with FileLock(top / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's files, without what builds and runs have left in it."""

    def copy(folder: Path) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)

    return once(tmp_path_factory, "source", copy)


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """The folder with the sdist and the wheel that was built from it."""

    def build(folder: Path) -> None:
        output(sys.executable, "-m", "build", "--outdir", folder, cwd=source)

    return once(tmp_path_factory, "distributions", build)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, distributions: Path) -> Path:
    """The bin folder of a venv with nothing but the wheel and its base dependencies."""
    programs = "Scripts" if os.name == "nt" else "bin"

    def install(folder: Path) -> None:
        output(sys.executable, "-m", "venv", folder, cwd=folder)
        (wheel,) = distributions.glob("*.whl")
        pip = (folder / programs / "python", "-m", "pip", "install", "-q")
        output(*pip, "-c", ROOT / "constraints.txt", wheel, cwd=folder)

    return once(tmp_path_factory, "base", install) / programs
