"""Partly labelled tables and test sets of exact counts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from segdistill.data.case import Case
from segdistill.data.datasets import create_dataset
from segdistill.data.duplicates import find_duplicates, group_duplicates
from segdistill.data.leaks import leaks
from segdistill.data.splits import hold_out_counts, keep_locations
from segdistill.errors import InputError


def table(count: int = 2000) -> list[Case]:
    splits = ("train", "train", "val", "test")
    cases = []
    for i in range(count):
        masks, box = ((Path("m.png"),), None) if i % 3 else ((), (0, 0, 2, 2))
        cases.append(Case(f"c{i}", Path("a.png"), masks, box=box, label="ab"[i % 2], split=splits[i % 4]))
    return cases


def kept(share: float, seed: int = 0) -> set[str]:
    return {
        case.id
        for case in keep_locations(table(), share, seed)
        if case.has_reference and case.split == "train"
    }


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_share_that_is_kept(share: float) -> None:
    """Of 1000 independent draws; four standard deviations are 0.06."""
    assert len(kept(share)) / 1000 == pytest.approx(share, abs=0.06)
    assert kept(share) != kept(share, seed=1)
    for before, after in zip(table(), keep_locations(table(), share), strict=True):
        assert (after.id, after.label, after.split) == (before.id, before.label, before.split)
        assert before.split == "train" or after == before


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    assert kept(0) == set()
    assert kept(0.25) < kept(0.5) < kept(0.75) < kept(1) == {c.id for c in table() if c.split == "train"}


def test_counts_are_exact_and_groups_whole() -> None:
    cases = [
        Case(
            f"{i}",
            Path(f"{i}.png"),
            label="benign" if i % 3 else "malignant",
            group=f"g{i // 6}" if i < 90 else "",
        )
        for i in range(240)
    ]
    for seed in range(5):
        drawn = hold_out_counts(cases, {"benign": 21, "malignant": 17}, val=0.2, seed=seed)
        counts = Counter((case.split, case.label) for case in drawn)
        assert counts["test", "benign"] == 21
        assert counts["test", "malignant"] == 17
        assert counts["val", "benign"] + counts["val", "malignant"] == pytest.approx(0.2 * 202, abs=6)
        where: dict[str, set[str]] = {}
        for case in drawn:
            where.setdefault(case.group_key, set()).add(case.split)
        assert all(len(found) == 1 for found in where.values())
    assert hold_out_counts(cases, {"benign": 9, "malignant": 9}) == hold_out_counts(
        cases, {"benign": 9, "malignant": 9}
    )


def test_counts_that_cannot_be_met() -> None:
    pairs = [Case(f"{i}", Path("a.png"), label="a", group=f"g{i // 2}") for i in range(20)]
    with pytest.raises(InputError, match="1 places of label 'a' cannot be filled by whole groups"):
        hold_out_counts(pairs, {"a": 5})
    with pytest.raises(InputError, match="20 test cases of label 'a' of 20: leave some to train on"):
        hold_out_counts(pairs, {"a": 20})
    with pytest.raises(InputError, match="of label 'b' of 0"):
        hold_out_counts(pairs, {"b": 1})


@pytest.mark.slow
def test_la_net_s_counts_of_busi_without_a_leak(data_root: Path) -> None:
    cases = create_dataset("busi", data_root / "busi")
    pairs = find_duplicates(cases)
    drawn = hold_out_counts(group_duplicates(cases, pairs), {"benign": 41, "malignant": 41})
    counts = Counter((case.split, case.label) for case in drawn)
    assert counts["test", "benign"] == counts["test", "malignant"] == 41
    assert counts["train", "benign"] + counts["val", "benign"] == 396
    assert counts["train", "malignant"] + counts["val", "malignant"] == 169
    assert not [leak for leak in leaks(drawn, pairs) if leak]
