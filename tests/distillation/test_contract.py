"""Every registered method has a class that inherits the contract."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from segdistill.distillation import METHODS
from tests.distillation.contract import MethodContract


def heirs(kind: type[MethodContract]) -> Iterator[type[MethodContract]]:
    for each in kind.__subclasses__():
        yield each
        yield from heirs(each)


def test_every_method_is_under_contract() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.distillation.{path.stem}")
    assert {each.name for each in heirs(MethodContract)} == set(METHODS)
