"""A test set of exact counts per label, as papers with fixed lists have it; groups stay whole."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from segdistill.data.case import Case, require_unique
from segdistill.data.splits import hold_out
from segdistill.errors import InputError


def hold_out_counts(
    cases: Sequence[Case], counts: Mapping[str, int], val: float = 0.15, seed: int = 0
) -> list[Case]:
    """Draws a test set with exactly so many cases of each label; the rest of these labels becomes train and val.

    Groups are drawn in seeded order, each that still fits. Cases of other labels take no part (split ""), unless a
    group of the test set brings them along.

    Args:
        cases: the table; the result has its order.
        counts: label -> test cases, such as LA-Net's 41 benign and 41 malignant of BUSI.
        val: share of the other cases.
        seed: another seed gives another split.

    Raises:
        InputError: a label with too few cases, or groups that cannot fill the counts.

    >>> from pathlib import Path
    >>> table = [Case(str(i), Path(f"{i}.png"), label="ab"[i % 2]) for i in range(20)]
    >>> drawn = hold_out_counts(table, {"a": 3, "b": 2}, val=0.2)
    >>> sorted(Counter((case.split, case.label) for case in drawn if case.split == "test").items())
    [(('test', 'a'), 3), (('test', 'b'), 2)]
    """
    require_unique(cases)
    if not 0 <= val < 1:
        raise InputError(f"val={val} is not a share of the training cases: use 0 to below 1")
    there = Counter(case.label for case in cases)
    for label, count in counts.items():
        if not 0 < count < there[label]:
            raise InputError(
                f"split counts: {count} test cases of label '{label}' of {there[label]}: leave some to train on"
            )
    groups: dict[str, Counter[str]] = {}
    for case in cases:
        if case.label in counts:
            groups.setdefault(case.group_key, Counter())[case.label] += 1
    left = Counter(counts)
    tested: set[str] = set()
    for key in _ranked(groups, seed):
        if all(left[label] >= number for label, number in groups[key].items()):
            tested.add(key)
            left -= groups[key]
    if left:
        label, number = next(iter(left.items()))
        raise InputError(
            f"split counts: {number} places of label '{label}' cannot be filled by whole groups: use another seed or "
            "another count"
        )
    rest = [case for case in cases if case.label in counts and case.group_key not in tested]
    shares = {"train": 1 - val, "val": val}
    inner = {case.id: case.split for case in hold_out(rest, shares, seed + 1)} if val > 0 else {}
    split = {case.id: inner.get(case.id, "train") for case in rest}
    return [
        replace(case, split="test" if case.group_key in tested else split.get(case.id, "")) for case in cases
    ]


def _ranked(groups: Mapping[str, Counter[str]], seed: int) -> list[str]:
    """Group names in an order that depends on the seed and the names alone."""
    return sorted(groups, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
