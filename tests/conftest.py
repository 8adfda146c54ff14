"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.splits import hold_out
from tests.experiment.tiny import tiny_run


def pytest_collection_finish() -> None:
    """Python's search for garbage passes over the thousands of tests and modules that stay to the end anyway."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real datasets; tests that need it are skipped where there is none."""
    folder = os.environ.get("SEGDISTILL_DATA")
    if not folder:
        pytest.skip("SEGDISTILL_DATA is not set: it names the folder of real datasets")
    if not Path(folder).is_dir():
        pytest.skip(f"SEGDISTILL_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def phantom_cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Forty synthetic cases of 64x64 pixels, split 70/15/15; do not change their files."""
    cases = write_phantom(tmp_path_factory.mktemp("phantom") / "cases", count=40, size=64, seed=7)
    return hold_out(cases, seed=0)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; do not change its files."""
    return tiny_run(tmp_path_factory)
