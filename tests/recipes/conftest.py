from __future__ import annotations

from pathlib import Path

import pytest

from recipes.tiny import tiny_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run; do not change its files."""
    return tiny_run(tmp_path_factory)
