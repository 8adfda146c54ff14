"""Few cases, one class, one site: a split that can be trained on, or one line that says why not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from segdistill.data.case import Case
from segdistill.data.splits import hold_out, in_folds, k_fold, leave_one_out
from segdistill.errors import InputError

SPLITS: dict[str, Callable[[Sequence[Case]], list[Case]]] = {
    "hold_out": hold_out,
    "hold_out without val": lambda cases: hold_out(cases, {"train": 0.5, "test": 0.5}),
    "k_fold": lambda cases: k_fold(cases, 5, 1),
    "two folds": lambda cases: k_fold(cases, 2, 2),
    "leave one out": lambda cases: leave_one_out(cases, 1),
}


def table(
    count: int, labels: Sequence[str] = ("",), sites: Sequence[str] = ("",), group: int = 1
) -> list[Case]:
    return [
        Case(
            f"c{i}",
            Path(f"{i}.png"),
            group=f"g{i // group}",
            label=labels[i % len(labels)],
            site=sites[i % len(sites)],
        )
        for i in range(count)
    ]


TABLES = {
    f"{count} cases, {len(labels)} labels, {len(sites)} sites, groups of {group}": table(
        count, labels, sites, group
    )
    for count, labels, sites, group in itertools.product(
        range(7), [("",), ("a",), ("a", "b"), ("a", "b", "c")], [("x",), ("x", "y")], (1, 2)
    )
}


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("cases", TABLES.values(), ids=TABLES)
def test_a_sound_split_or_one_line(cases: list[Case], how: str) -> None:
    try:
        divided = SPLITS[how](cases)
    except InputError as refusal:
        words = str(refusal)
    else:
        words = ""
        assert_sound(cases, divided)
    assert "\n" not in words


def assert_sound(cases: list[Case], divided: list[Case]) -> None:
    assert [case.id for case in divided] == [case.id for case in cases]
    parts = {name: [case for case in divided if case.split == name] for name in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(cases)
    assert parts["train"], "nothing to train on"
    assert parts["test"], "nothing to test on"
    groups = [{case.group_key for case in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)), "a group is in two splits"


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_leaving_one_out_tests_every_group_once(count: int) -> None:
    cases = table(count, ("a", "b"), group=1)
    tested = [
        case.id for fold in range(1, count + 1) for case in leave_one_out(cases, fold) if case.split == "test"
    ]
    assert sorted(tested) == sorted(case.id for case in cases)
    assert all(case.split != "val" for case in leave_one_out(cases, 1)), "too few to validate on"


def test_leaving_one_out_keeps_groups_whole() -> None:
    cases = table(6, group=2)
    tested = {case.id for case in leave_one_out(cases, 2) if case.split == "test"}
    assert len(tested) == 2
    with pytest.raises(InputError, match="fold 4 does not exist: with 3 groups folds are 1 to 3"):
        leave_one_out(cases, 4)


@pytest.mark.parametrize("count", [0, 1])
def test_one_group_cannot_be_divided(count: int) -> None:
    for split in (hold_out, lambda cases: leave_one_out(cases, 1), lambda cases: k_fold(cases, 2, 1)):
        with pytest.raises(InputError, match=r"at least 2 groups|no cases"):
            split(table(count))


def test_what_to_do_about_too_few_is_said() -> None:
    with pytest.raises(InputError, match=r"data\.split\.method=leave_one_out"):
        hold_out(table(2))
    with pytest.raises(InputError, match=r"data\.split\.method=leave_one_out"):
        k_fold(table(4), 5, 1)
    with pytest.raises(InputError, match="3 groups of cases make no 4 folds: use 3 folds"):
        in_folds(table(3), 4)


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("cases", TABLES.values(), ids=TABLES)
def test_no_fold_is_empty(cases: list[Case], folds: int) -> None:
    if len({case.group_key for case in cases}) < folds:
        with pytest.raises(InputError):
            in_folds(cases, folds)
        return
    found = in_folds(cases, folds)
    assert set(found.values()) == set(range(1, folds + 1))
