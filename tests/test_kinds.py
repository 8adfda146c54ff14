"""One table of the kinds of parts: the front door, the registries and `segdistill list` come from it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import segdistill
from segdistill.cli.listing import LISTS
from segdistill.errors import InputError
from segdistill.kinds import FUNCTIONS, KINDS, find_kind
from segdistill.registry import Registry
from tests.experiment.tiny import segdistill as command

SOURCE = Path(segdistill.__file__)


@pytest.mark.parametrize("name", KINDS)
def test_registry_and_functions_of_a_kind_belong_together(name: str) -> None:
    kind = KINDS[name]
    registry = kind.registry()
    assert isinstance(registry, Registry)
    assert registry.kind.replace(" ", "_").endswith(name.split("_")[-1])
    assert registry.extra == kind.extra
    assert len(registry) > 0
    create, register, names = (getattr(segdistill, function) for function in kind.functions)
    assert callable(create)
    assert names() == sorted(registry)

    def part() -> None:
        """A part of this test."""

    with pytest.raises(InputError, match=f"unknown {registry.kind} 'no_such_part'"):
        create("no_such_part", *([SOURCE.parent] if name == "dataset" else []))
    facts = {"metric": {"higher_is_better": True}, "report_section": {"template": "", "order": 1}}.get(
        name, {}
    )
    with pytest.raises(InputError, match="is registered by segdistill"):
        register(names()[0], "again", **facts)(part)


def test_the_front_door_is_the_table() -> None:
    (checked,) = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    imported = {
        name.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert imported == {name: module for name, (module, _) in FUNCTIONS.items()}
    assert sorted(segdistill.__all__) == sorted([*FUNCTIONS, "__version__"])
    assert dir(segdistill) == segdistill.__all__
    for name in FUNCTIONS:
        assert getattr(segdistill, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        segdistill.trian  # noqa: B018


def test_list_knows_every_kind() -> None:
    assert (*(kind.plural for kind in KINDS.values()), "recipes") == LISTS
    assert find_kind("networks") is KINDS["network"]
    answer = command("list", "network")
    assert answer.line == "unknown kind 'network': did you mean 'networks'?"


def test_functions_that_need_torch_name_the_extra() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning_fabric'): sys.modules[name] = None\n"
        "import segdistill\n"
        "from segdistill.errors import MissingExtra\n"
        "assert segdistill.list_datasets() and segdistill.list_metrics()\n"
        "for name in ('run', 'create_loss', 'create_method'):\n"
        "    try: getattr(segdistill, name)\n"
        "    except MissingExtra as error: print(error)\n"
        "try: segdistill.list_networks()\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("pip install 'segdistill[train]'" in line for line in lines)
