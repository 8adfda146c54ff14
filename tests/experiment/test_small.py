"""A whole run on a handful of images: no crash, and no number that is none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.table import write_cases
from tests.experiment.tiny import RECIPE, segdistill, write_recipe


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    cases = write_phantom(tmp_path_factory.mktemp("small") / "data", 30, size=32)
    return [
        replace(case, label="benign", site="x", group="", split="")
        for case in cases
        if case.label == "benign"
    ]


def numbers(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from numbers(part)
    elif isinstance(content, float):
        yield content


@pytest.mark.parametrize(("count", "method"), [(2, "leave_one_out"), (3, "hold_out"), (4, "k_fold")])
def test_one_class_one_site_and_few_cases(drawn: list[Case], tmp_path: Path, count: int, method: str) -> None:
    table = tmp_path / "cases.csv"
    write_cases(drawn[:count], table)
    data = {"size": 32, "channels": 1, "split": {"method": method, "folds": count}}
    recipe = write_recipe(tmp_path, data=data, fit=RECIPE["fit"] | {"epochs": 1}, export=None)
    answer = segdistill("run", recipe, "--device", "cpu", "--data", table, "--out", tmp_path / "runs" / "r")
    assert answer.code == 0, answer.err
    for stage in ("teacher", "student"):
        found = list(
            numbers(json.loads((tmp_path / "runs" / "r" / "stages" / stage / "evaluation.json").read_text()))
        )
        assert found
        assert all(map(math.isfinite, found))
    page = (tmp_path / "runs" / "r" / "report.html").read_text()
    assert ">nan<" not in page.lower()
    assert "nan," not in page.lower()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_are_refused_in_one_line(drawn: list[Case], tmp_path: Path, count: int) -> None:
    table = tmp_path / "cases.csv"
    write_cases(drawn[:count], table)
    recipe = write_recipe(tmp_path, data={"size": 32, "channels": 1}, export=None)
    answer = segdistill("run", recipe, "--device", "cpu", "--data", table, "--out", tmp_path / "runs" / "r")
    assert answer.code == 2
    assert ("at least 2 groups" if count == 1 else "leave_one_out") in answer.line
