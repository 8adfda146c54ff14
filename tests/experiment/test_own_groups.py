"""Groups and splits that the user's table states are kept, and what they leak is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segdistill.config.schema import DataRecipe
from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.experiment.cases import LoadedCases, load_cases


def loaded(cases: list[Case], folder: Path) -> LoadedCases:
    write_cases(cases, folder / "own.csv")
    return load_cases(DataRecipe(), folder / "own.csv", folder)


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Pictures, of which the last is a copy of the first."""
    found = [replace(case, split="", label="") for case in write_phantom(tmp_path / "drawn", 24, size=64)]
    copy = found[-1]
    copy.image.write_bytes(found[0].image.read_bytes())
    return found


def test_copies_without_groups_are_kept_together(cases: list[Case], tmp_path: Path) -> None:
    found = loaded(cases, tmp_path)
    splits = {case.id: case.split for case in found.cases}
    assert splits[cases[0].id] == splits[cases[-1].id]
    assert not found.leaks


def test_own_groups_are_kept(cases: list[Case], tmp_path: Path) -> None:
    found = loaded([replace(case, group=f"patient {case.id}") for case in cases], tmp_path)
    assert [case.group for case in found.cases] == [f"patient {case.id}" for case in cases]


def test_own_splits_are_kept(cases: list[Case], tmp_path: Path) -> None:
    own = [replace(case, split="train" if n < 16 else "test") for n, case in enumerate(cases)]
    found = loaded(own, tmp_path)
    assert [case.split for case in found.cases] == [case.split for case in own]
    assert len(found.leaks) == 1
    assert cases[-1].image.name in found.warnings[0]
    same = [replace(case, group="one patient") if n in (0, 23) else case for n, case in enumerate(own)]
    with pytest.raises(InputError, match="the same group in train and test"):
        loaded(same, tmp_path)
