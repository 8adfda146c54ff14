"""Files that state the same fact agree: versions, pins, extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import segdistill

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == segdistill.__version__
    assert citation["license"] == project()["license"]
    assert citation["repository-code"] == project()["urls"]["Homepage"]


def test_the_changelog_has_this_version() -> None:
    assert f"## [{segdistill.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_pinned() -> None:
    lists = [project()["dependencies"], *project()["optional-dependencies"].values()]
    names = {normal(re.match(r"[\w.-]+", entry)[0]) for entries in lists for entry in entries}
    assert names - pins().keys() == {"segdistill"}


def test_hooks_of_commits_have_the_pinned_versions() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    named = {
        entry
        for repository in config["repos"]
        for hook in repository["hooks"]
        for entry in hook.get("additional_dependencies", [])
        if entry.split("==")[0] in pins()
    }
    assert named == {f"ruff=={pins()['ruff']}"}
