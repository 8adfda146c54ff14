"""The house: rooms import from rooms above them, the torch-free ones stay so, and everything public is described."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "segdistill"
FILES = sorted(SOURCE.rglob("*.py"))
ROOMS = (
    "imaging",
    "runtime",
    "data",
    "models",
    "losses",
    "metrics",
    "stats",
    "distillation",
    "training",
    "report",
    "config",
    "experiment",
    "papers",
    "server",
    "cli",
)
GROUND = {"errors", "files", "options", "plugins", "registry", "kinds", "records"}  # below all rooms
OPTIONAL = {"server", "records"}  # come with a later version
FRONT_DOOR = {"__init__", "__main__"}  # they name functions of all rooms; __init__ for the type checker alone
TORCH_FREE = {"imaging", "runtime", "data", "metrics", "stats", "report", "server"}
MAY_USE_TORCH = {"data/views.py"}
TORCH = {"torch", "lightning_fabric", "monai", "albumentations", "safetensors"}
# one is read; two are switches of libraries that would write to or ask the outside, and have no other switch
ENVIRONMENT = {"SEGDISTILL_DATA", "NO_ALBUMENTATIONS_UPDATE", "ORT_DISABLE_TELEMETRY"}


def place(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else Path(parts[0]).stem


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also within functions; relative ones in full."""
    package = ["segdistill", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{name.name}") for name in node.names)


def test_rooms_import_only_from_rooms_above() -> None:
    wrong = []
    for path in FILES:
        here = room(path)
        if here in FRONT_DOOR:
            continue
        allowed = GROUND | set(ROOMS[: ROOMS.index(here) + 1]) if here in ROOMS else GROUND
        for line, module in imported(path):
            parts = module.split(".")
            known = GROUND | set(ROOMS)
            if parts[0] == "segdistill" and len(parts) > 1 and parts[1] in known and parts[1] not in allowed:
                wrong.append(f"{place(path)}:{line} imports {module}")
    assert wrong == []


def test_no_files_import_one_another_in_a_circle() -> None:
    """Imports within functions and for the type checker count, too."""
    files = {"segdistill." + place(path).removesuffix(".py").replace("/", "."): path for path in FILES}
    graph = {name: {module for _, module in imported(path)} & files.keys() for name, path in files.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert set(ROOMS) - OPTIONAL <= folders <= set(ROOMS) | {"recipes"}
    assert GROUND - OPTIONAL <= {path.stem for path in SOURCE.glob("*.py")} - FRONT_DOOR <= GROUND


def test_torch_free_rooms_never_import_torch() -> None:
    wrong = [
        f"{place(path)}:{line} imports {module}"
        for path in FILES
        if room(path) in TORCH_FREE and place(path) not in MAY_USE_TORCH
        for line, module in imported(path)
        if module.split(".")[0] in TORCH or module == "segdistill.data.views"
    ]
    assert wrong == []


def test_environment_variables() -> None:
    """Only these are used, by name or by a constant of the file."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        used = re.findall(r"os\.(?:environ(?:\.get|\.setdefault)?[\[(]|getenv\()\s*([\w\"']+)", text)
        names = {constants.get(word, word.strip("\"'")) for word in used}
        assert names <= ENVIRONMENT, f"{place(path)} uses {names - ENVIRONMENT}"
        assert len(used) == len(re.findall(r"os\.(?:environ|getenv)", text)), f"{place(path)}: another use"


def test_everything_public_is_described() -> None:
    missing = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and ast.get_docstring(tree) is None:
            missing.append(place(path))
        for node in _public(tree):
            if ast.get_docstring(node) is None:
                missing.append(f"{place(path)}:{node.lineno} {node.name}")
    assert missing == []


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if is_public and not any(getattr(each, "id", "") == "overload" for each in node.decorator_list):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def test_no_file_names_this_machine_or_a_package_index() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    hosts = (
        r"(?:https?://|index-url|find-links|trusted-host)\S*(?:pypi|pythonhosted|download\.pytorch|/simple\b)"
    )
    paths = rf"(?:{re.escape(str(Path.home()))}|{re.escape(str(ROOT))}|/(?:home|root|Users)/\w+)"
    wrong = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path == Path(__file__) or not path.is_file() or path.stat().st_size > 1_000_000:
            continue
        if (
            "server/assets" in name
        ):  # onnxruntime-web as it is published, whose file system in memory has a /home
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{name}: {match[0]}" for match in re.finditer(f"{hosts}|{paths}", text)]
    assert wrong == []


@pytest.mark.parametrize("module", ["segdistill", "segdistill.cli.main"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import {module}, sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )
    heavy = {
        "torch",
        "numpy",
        "PIL",
        "pydantic",
        "yaml",
        "onnxruntime",
        "scipy",
        "matplotlib",
        "nibabel",
        "pydicom",
    }
    assert heavy & set(json.loads(done.stdout)) == set()
