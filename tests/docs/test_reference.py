"""The tables of docs/reference/ are those of the code."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES: dict[str, str] = runpy.run_path(str(ROOT / "docs/site/generate.py"))["pages"]()


@pytest.mark.parametrize("name", PAGES)
def test_is_current(name: str) -> None:
    written = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert written == PAGES[name], "run python docs/site/generate.py"


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in PAGES["recipe.md"].splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_option_has_a_meaning() -> None:
    rows = [line for line in PAGES["cli.md"].splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []
