from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.data.case import Case
from segdistill.data.duplicates import Pair, group_duplicates
from segdistill.data.leaks import leaks, require_no_shared_groups
from segdistill.data.splits import hold_out, k_fold, unstratified, without_foreground
from segdistill.errors import InputError


def singles(counts: dict[str, int], sites: int = 1) -> list[Case]:
    return [
        Case(f"{label}{i}", Path(f"{label}{i}.png"), label=label, site=f"s{i % sites}")
        for label, count in counts.items()
        for i in range(count)
    ]


@st.composite
def tables(draw: st.DrawFn) -> list[Case]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=12, max_size=60))
    labels = draw(st.lists(st.sampled_from("ab"), min_size=len(sizes), max_size=len(sizes)))
    labels[:10] = "ababababab"
    return [
        Case(f"{g}-{i}", Path("x"), group=f"g{g}" if size > 1 else "", label=labels[g], site=f"s{g % 3}")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]


def splits_of_groups(cases: list[Case]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        found[case.group_key].add(case.split)
    return found


@given(tables(), st.integers(0, 99), st.booleans())
@settings(deadline=None)
def test_hold_out_keeps_groups_whole_in_any_order(cases: list[Case], seed: int, stratify: bool) -> None:
    divided = hold_out(cases, seed=seed, stratify=stratify)
    assert [case.id for case in divided] == [case.id for case in cases]
    assert {case.split for case in divided} == {"train", "val", "test"}
    assert all(len(found) == 1 for found in splits_of_groups(divided).values())
    shuffled = random.Random(seed).sample(cases, len(cases))
    assert {case.id: case.split for case in hold_out(shuffled, seed=seed, stratify=stratify)} == {
        case.id: case.split for case in divided
    }
    largest = max(Counter(case.group_key for case in cases).values())
    for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert abs(sum(case.split == split for case in divided) - share * len(cases)) <= 2 * largest + 1
    assert not leaks(divided, pairs=())


@given(tables(), st.integers(2, 5), st.integers(0, 9))
@settings(deadline=None)
def test_folds_test_every_case_once(cases: list[Case], k: int, seed: int) -> None:
    tested: Counter[str] = Counter()
    for fold in range(1, k + 1):
        divided = k_fold(cases, k, fold, seed)
        assert all(len(found) == 1 for found in splits_of_groups(divided).values())
        assert {case.split for case in divided} <= {"train", "val", "test"}
        tested.update(case.id for case in divided if case.split == "test")
    assert tested == Counter(case.id for case in cases)


@given(st.integers(5, 300), st.integers(5, 300), st.integers(5, 300), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_shares_are_exact_per_label_and_in_all(a: int, b: int, c: int, sites: int) -> None:
    cases = singles({"a": a, "b": b, "c": c}, sites)
    divided = hold_out(cases)
    for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        assert abs(sum(case.split == split for case in divided) - share * len(cases)) < 3
        for label, count in (("a", a), ("b", b), ("c", c)):
            found = sum(case.split == split and case.label == label for case in divided)
            assert found >= 1
            assert abs(found - share * count) < 3


def test_busi_sized_split_is_exact() -> None:
    divided = hold_out(singles({"benign": 437, "malignant": 210, "normal": 133}))
    counts = Counter(case.split for case in divided)
    assert counts == {"train": 546, "val": 117, "test": 117}


def test_large_groups_are_spread() -> None:
    cases = [Case(f"{g}-{i}", Path("x"), group=f"g{g}") for g in range(40) for i in range(10)]
    assert Counter(case.split for case in hold_out(cases)) == {"train": 280, "val": 60, "test": 60}


def test_seed_matters() -> None:
    cases = singles({"a": 50})
    assert [c.split for c in hold_out(cases, seed=1)] != [c.split for c in hold_out(cases, seed=2)]


def test_small_class_is_an_error_or_left_unstratified() -> None:
    cases = singles({"a": 30, "b": 2})
    with pytest.raises(InputError, match="label 'b' has 2 group"):
        hold_out(cases)
    assert {case.split for case in hold_out(cases, stratify=False)} == {"train", "val", "test"}
    with pytest.raises(InputError, match="label 'b'"):
        k_fold(cases, 5, 1)
    three = hold_out(singles({"a": 30, "b": 3}))
    assert {case.split for case in three if case.label == "b"} == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: hold_out(c, {"train": 0.5, "test": 0.4}), "sum to 1"),
        (lambda c: hold_out(c, {"train": 0.5, "tset": 0.5}), "unknown split 'tset'"),
        (lambda c: hold_out(c, {"train": 1.5, "test": -0.5}), "between 0 and 1"),
        (lambda c: k_fold(c, 1, 1), "at least 2"),
        (lambda c: k_fold(c, 5, 6), "folds are 1 to 5"),
        (lambda c: unstratified(c, test=1.0), "between 0 and 1"),
        (lambda c: hold_out([*c, c[0]]), "two cases have the id"),
    ],
)
def test_bad_requests(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=words):
        call(singles({"a": 30}))


def test_two_splits_only() -> None:
    divided = hold_out(singles({"a": 20}), {"train": 0.8, "val": 0.0, "test": 0.2})
    assert Counter(case.split for case in divided) == {"train": 16, "test": 4}


@pytest.mark.parametrize(
    ("counts", "tested"), [({"benign": 437, "malignant": 210}, 98), ({"benign": 110, "malignant": 53}, 25)]
)
def test_the_papers_split(counts: dict[str, int], tested: int) -> None:
    cases = singles({**counts, "normal": 133})
    divided = unstratified(cases, seed=3)
    found = Counter(case.split for case in divided)
    assert found == {"test": tested, "train": sum(counts.values()) - tested, "": 133}
    assert tested == math.ceil(0.15 * sum(counts.values()))
    assert all(case.split == "" for case in divided if case.label == "normal")
    assert {c.id: c.split for c in unstratified(cases[::-1], seed=3)} == {c.id: c.split for c in divided}
    assert Counter(c.split for c in unstratified(cases, val=0.1))["val"] > 0


def test_leaks_are_named() -> None:
    cases = [
        Case("a", Path("a.png"), group="g", split="train"),
        Case("b", Path("b.png"), group="g", split="test"),
        Case("c", Path("c.png"), split="val"),
        Case("d", Path("d.png"), split=""),
    ]
    pairs = [Pair("a", "c", "near", 0.9), Pair("c", "d", "identical", 1.0)]
    found = leaks(cases, pairs)
    assert [(leak.kind, leak.first.id, leak.second.id) for leak in found] == [
        ("group", "a", "b"),
        ("near", "a", "c"),
    ]
    with pytest.raises(InputError, match=r"leaks \(1\): the same group in train and test: a\.png and b\.png"):
        require_no_shared_groups(cases)
    require_no_shared_groups(cases[2:])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_grouping_is_the_transitive_closure(links: list[tuple[int, int]]) -> None:
    cases = [Case(str(i), Path("x"), group="given" if i in (3, 4) else "") for i in range(10)]
    grouped = group_duplicates(cases, [Pair(str(i), str(j), "near", 0.9) for i, j in links])
    neighbours = {i: {i} for i in range(10)}
    for i, j in [*links, (3, 4)]:
        neighbours[i].add(j)
        neighbours[j].add(i)
    for start in range(10):
        reached, todo = set(), [start]
        while todo:
            here = todo.pop()
            if here not in reached:
                reached.add(here)
                todo += neighbours[here]
        same = {i for i in range(10) if grouped[i].group_key == grouped[start].group_key}
        assert same == reached


def test_a_split_without_foreground_is_told() -> None:
    mask = (Path("m.png"),)
    cases = [Case(f"{n}", Path(f"{n}.png"), masks=mask, split="train" if n < 6 else "test") for n in range(9)]
    assert without_foreground(cases, {"8"}) == []
    (line,) = without_foreground(cases, {"6", "7", "8"})
    assert line.startswith("none of the 3 test cases has any foreground")


def test_lesions_are_in_every_split() -> None:
    cases = [Case(f"{n}", Path(f"{n}.png"), masks=(Path("m.png"),)) for n in range(40)]
    empty = {f"{n}" for n in range(4, 40)}
    for seed in range(10):
        assert without_foreground(hold_out(cases, seed=seed, empty=empty), empty) == []
