"""Every example of the documentation fits the product: commands, options, recipes, keys, files, imports."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.docs.pages import PAGES, ROOT, Example, commands, examples, is_placeholder

import segdistill
from segdistill.cli.main import app
from segdistill.cli.shared import names
from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe, RecipeFile
from segdistill.data.datasets import DATASETS
from segdistill.experiment.check import check_parts
from segdistill.kinds import KINDS, find_kind
from segdistill.metrics.base import METRICS
from segdistill.models.registry import NETWORKS
from segdistill.papers.tables import published_papers, read_paper
from segdistill.plugins import load_plugins

COMMANDS = typer.main.get_command(app)
OTHERS = (
    *("pip", ".", "export", "tensorboard", "ruff", "mypy", ".venv/bin/pre-commit", "actionlint"),
    *("nnUNetv2_predict", "nnUNetv2_train", "TotalSegmentator"),
)
"""Programs that are not ours; what they do is not checked."""
BROUGHT = {
    *("my-images", "cases.csv", "picture.png", "pictures", "folder-with-pictures", "busi.csv", "cases/"),
    *("Dataset_BUSI_with_GT", "BUSI", "STU-Hospital", "promise12", "prostate", "TrainingData", "DukeSpleen"),
    *(
        "Task04_Hippocampus",
        "Task09_Spleen",
        "Angios_40_training",
        "DRIVE",
        "CHASEDB1",
        "scans",
        "resnet18.pth",
    ),
}
"""What the reader has before a page begins: images, datasets, a case table, weights."""
MADE_BEFORE = {
    "docs/how-to/export-and-predict.md": "runs/distill",
    "docs/how-to/engines-and-speed.md": "runs/distill",
    "docs/how-to/in-a-browser.md": "runs/distill",
    "docs/how-to/use-from-python.md": "runs/distill",
    "docs/concepts/verdicts.md": "runs/distill",
    "docs/how-to/write-a-plugin.md": "runs/mine",
    "docs/examples/segdistill-example-plugin/README.md": "runs/mine",
    "docs/how-to/resume-and-clusters.md": "runs/mine",
}
"""Runs of other pages that a page uses."""
NOT_INSTALLED = {"pandas", "my_package"}


@dataclass
class Page:
    """What a reader of a page has at some point of it.

    Attributes:
        folder: where the files that the page shows are written.
        made: files and folders that exist.
        runs: folder of a run -> its recipe.
    """

    folder: Path
    made: set[str] = field(default_factory=lambda: set(BROUGHT))
    runs: dict[str, Recipe] = field(default_factory=dict)

    def require(self, path: str) -> None:
        """Fails for a path that neither the repository nor the page has."""
        path = path.rstrip("/")
        above = [path, *(str(parent) for parent in Path(path).parents)]
        assert (
            is_placeholder(path)
            or any(each in self.made for each in above)
            or (ROOT / path).exists()
            or (self.folder / path).exists()
        ), f"{path}: neither in the repository nor made by an earlier command"

    def recipe_of(self, run: str) -> Recipe | None:
        """The recipe of a run that the page has made."""
        return self.runs.get(run.partition(":")[0])


@pytest.fixture(autouse=True)
def _no_part_stays() -> Iterator[None]:
    """Plugins of the pages are gone after the test."""
    for kind in KINDS.values():
        kind.registry().names()  # loads those of the package, which stay
    before = {kind.name: dict(kind.registry()._parts) for kind in KINDS.values()}
    yield
    for kind in KINDS.values():
        kind.registry()._parts.clear()
        kind.registry()._parts.update(before[kind.name])


def parse(command: list[str], partial: bool = False) -> tuple[str, dict[str, Any]]:
    """Name and values of a command of segdistill; no values where `partial` allows that arguments are missing.

    Raises:
        Exception: as the command line does, for an unknown command or option.
    """
    group, words, name = COMMANDS, command[1:], ""
    while hasattr(group, "commands"):
        if not words or words[0].startswith("-"):
            assert words in ([], ["--help"], ["--version"]), f"unknown option {words}"
            return name, {}
        name, group, words = f"{name} {words[0]}".strip(), group.commands[words[0]], words[1:]
    known = {option for parameter in group.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = {word for word in words if word.startswith("-")} - known - {"--help"}
    assert not unknown, f"{name} has no option {', '.join(unknown)}"
    if "--help" in words or (partial and not [word for word in words if not word.startswith("-")]):
        return name, {}
    return name, dict(group.make_context(name, words).params)


def check_run(page: Page, values: dict[str, Any]) -> None:
    if is_placeholder(values["recipe"]):
        return
    plugins = list(values["plugins"] or [])
    changes = [*(values["changes"] or []), *(values["more"] or [])]
    changes = [change for change in changes if not change.endswith("...")]
    folder, here = page.folder, Path.cwd()
    os.chdir(folder)
    try:
        load_plugins(plugin for plugin in plugins if not is_placeholder(plugin))
        recipe = load_recipe(values["recipe"], changes)
        stages = names(values["stages"])
        chosen = recipe.chosen(None if stages == ["all"] else stages)
        check_parts(recipe, [name for name in chosen if recipe.stages[name].model.pretrained is None])
    finally:
        os.chdir(here)
    for path in [values["data"]] if values["data"] else []:
        page.require(str(path))
    out = str(values["out"] or f"runs/{recipe.name}")
    page.made.add(out)
    page.runs[out] = recipe


def check_model(page: Page, values: dict[str, Any]) -> None:
    """evaluate, export and predict: model or run, its stage, and what is read."""
    model = str(values.get("model") or values["run"])
    page.require(model)
    recipe = page.recipe_of(model)
    if recipe is not None and values["stage"] is not None:
        assert recipe.named(values["stage"]), f"{model} has no stage {values['stage']}"
    for path in (*([values["table"]] if values.get("table") else ()), *(values.get("inputs") or ())):
        page.require(str(path))
    load_plugins(str(page.folder / each) for each in values["plugins"] or [] if (page.folder / each).exists())
    if values.get("metrics"):
        METRICS.optional(names(values["metrics"]))
    if values["out"]:
        page.made.add(str(values["out"]))


def check_compare(page: Page, values: dict[str, Any]) -> None:
    for run in values["runs"]:
        if not is_placeholder(run):
            page.require(run.partition(":")[0])
        recipe = page.recipe_of(run)
        for variant in (*names(values["stages"]), *names(values["baseline"])):
            assert recipe is None or recipe.named(variant), f"{run} has no variant {variant}"
    assert values["metric"] in METRICS
    if values["out"]:
        page.made.add(str(values["out"]))


def check_list(page: Page, values: dict[str, Any]) -> None:
    kind, name = values["kind"], values["name"]
    if is_placeholder(kind):
        return
    if kind == "recipes":
        if name and not is_placeholder(name):
            load_recipe(name)
        return
    registry = find_kind(kind).registry()
    load_plugins(str(page.folder / each) for each in values["plugins"] or [] if (page.folder / each).exists())
    if name and not is_placeholder(name) and not name.startswith("example_"):
        registry.describe(name)


def check_index(page: Page, values: dict[str, Any]) -> None:
    if is_placeholder(values["dataset"]):
        return
    if values["dataset"] != "auto":
        DATASETS.find(values["dataset"])
    if values["dataset"] == "phantom":
        page.made.add(str(values["path"]))
    page.require(str(values["path"]))
    page.made.add(str(values["out"]))


def check_table(page: Page, values: dict[str, Any]) -> None:
    page.require(str(values["table"]))
    if values.get("out"):
        page.made.add(str(values["out"]))


def check_complexity(page: Page, values: dict[str, Any]) -> None:
    assert values["name"] == "all" or values["name"] in NETWORKS


def check_reproduce(page: Page, values: dict[str, Any]) -> None:
    if values["paper"] and not is_placeholder(values["paper"]):
        paper = read_paper(values["paper"])
        assert values["paper"] in published_papers()
        assert values["table"] in (None, *paper.tables), f"{values['paper']} has no table {values['table']}"


CHECKS: dict[str, Callable[[Page, dict[str, Any]], None]] = {
    "run": check_run,
    "evaluate": check_model,
    "export": check_model,
    "predict": check_model,
    "compare": check_compare,
    "list": check_list,
    "data index": check_index,
    "data show": check_table,
    "data check": check_table,
    "data pack": check_table,
    "complexity": check_complexity,
    "reproduce": check_reproduce,
}


def check_python(page: Page, command: list[str]) -> None:
    """python FILE --options, python -m MODULE."""
    words = command[1:]
    if words[:1] == ["-c"]:
        check_code(page, words[1])
    elif words[:1] == ["-m"]:
        assert words[1] in ("venv", "pip", "pytest") or importlib.util.find_spec(words[1]), words
    elif not is_placeholder(words[0]) and not is_placeholder(Path(words[0]).name):
        page.require(words[0])
        if (file := ROOT / words[0]).exists():
            text = file.read_text(encoding="utf-8") + (ROOT / "benchmarks/common.py").read_text(
                encoding="utf-8"
            )
            for option in (word for word in words if word.startswith("--")):
                assert f'"{option}"' in text, f"{words[0]} has no option {option}"


def check_command(page: Page, command: list[str], partial: bool) -> None:
    program = command[0]
    if program == "segdistill":
        if len(command) > 1 and is_placeholder(command[1]):
            return
        if "..." in command:
            return
        name, values = parse(command, partial)
        if values and name in CHECKS:
            CHECKS[name](page, values)
    elif program in ("python", "python3"):
        check_python(page, command)
    elif program == "make":
        text = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", text, re.MULTILINE) for target in command[1:]), command
    elif program == "pytest":
        page.require(command[1])
    else:
        assert program in OTHERS, f"unknown program {program}"


def check_code(page: Page, text: str) -> None:
    """Python: it parses, and what it imports and takes from segdistill exists."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [(each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [(node.module or "", each.name) for each in node.names]
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "segdistill"
        ):
            modules = [("segdistill", node.attr)]
        else:
            continue
        for module, name in modules:
            if module.partition(".")[0] in NOT_INSTALLED:
                continue
            found = importlib.import_module(module)
            assert not name or hasattr(found, name), f"{module} has no {name}"
    page.made.update(re.findall(r"\"(runs/[\w/-]+)\"", text))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "segdistill.run" and call.args:
            given = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
            stated = set(inspect.signature(segdistill.run).parameters)
            changes = {**given.pop("set", {}), **{k: v for k, v in given.items() if k not in stated}}
            recipe = load_recipe(ast.literal_eval(call.args[0]), changes)
            check_parts(recipe, recipe.chosen(None))
            page.runs[given.get("out", f"runs/{recipe.name}")] = recipe


def check_yaml(page: Page, text: str) -> None:
    """A whole recipe, or a part of one on top of `distill`."""
    content = yaml.safe_load(text)
    assert set(content) <= set(RecipeFile.model_fields), f"unknown keys in {sorted(content)}"
    if "plugins" in content:
        return  # loaded by the command that runs it
    stages = content.get("stages") or {}
    whole = "base" in content or "matrix" in content or any("model" in stage for stage in stages.values())
    recipe = load_recipe(content if whole else {"base": "distill", **content})
    check_parts(recipe, list(recipe.stages))


def file_name(text: str) -> str:
    # the name in a comment at the end of the first line, such as "# mine.yaml"
    found = re.search(r"# (\w[\w-]*\.(?:yaml|py))$", text.split("\n", 1)[0])
    return found[1] if found else ""


def check(page: Page, example: Example) -> None:
    if example.language in ("sh", "console", "inline"):
        for command in commands(example.text):
            check_command(page, command, example.language == "inline")
    elif example.language == "python":
        check_code(page, example.text)
    elif example.language == "yaml":
        check_yaml(page, example.text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples(path: Path, tmp_path: Path) -> None:
    page = Page(tmp_path)
    if "example-plugin" in str(path):
        load_plugins(str(file) for file in path.parent.rglob("l*.py"))
    before = MADE_BEFORE.get(path.relative_to(ROOT).as_posix())
    if before:
        page.made.add(before)
    found = examples(path)
    for example in found:
        if name := file_name(example.text):
            (tmp_path / name).write_text(example.text, encoding="utf-8")
    if "Save this as `own_networks.py`" in path.read_text(encoding="utf-8"):
        page.made.add("own_networks.py")
    faults = []
    for example in found:
        try:
            check(page, example)
        except Exception as error:  # all of a page at once
            faults.append(f"{example.text.strip()}\n    {type(error).__name__}: {error or example.text}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        "segdistill runn distill",
        "segdistill run distill --no-such-option",
        "segdistill run distill --data cases.csv --set stages.student.knowledge=1",
        "segdistill run distill --data cases.csv --set stages.student.methods.soft_prediction.heat=1",
        "segdistill run no-such-recipe",
        "segdistill run distill --stages student_alone",
        "segdistill predict runs/absent/model.onnx cases.csv",
        "segdistill list knowledge",
        "segdistill data index no-such-dataset my-images",
        "segdistill evaluate cases.csv cases.csv --metrics no_such_metric",
        "segdistill reproduce usseg --table 99",
        "python benchmarks/absent.py",
        "make no-such-target",
        "no-such-program",
    ],
)
def test_faults_are_found(text: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".*"):
        check(Page(tmp_path), Example("sh", text))


def test_every_page_has_commands() -> None:
    assert sum(len(examples(page)) for page in PAGES) > 150


@pytest.mark.slow
def test_get_started_runs(tmp_path: Path) -> None:
    """Its third and fourth part, as they are: the installation and the demo are tested elsewhere."""
    script = ["set -e", f'segdistill() {{ "{sys.executable}" -m segdistill.cli.main "$@"; }}']
    for example in examples(ROOT / "docs/get-started.md"):
        if example.language == "sh" and not re.search(r"make|pip|demo", example.text):
            script.append(example.text)
        elif example.language == "python":
            (tmp_path / "example.py").write_text(example.text, encoding="utf-8")
            script.append(f'"{sys.executable}" example.py')
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no verdict" not in done.stdout
    assert (tmp_path / "predictions" / "predictions.csv").exists()
    assert (tmp_path / "sheet.png").exists()
