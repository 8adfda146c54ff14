"""Splits that keep groups whole and classes balanced: seeded, and the same in whatever order the table is."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from segdistill.data.case import Case, require_unique
from segdistill.errors import InputError

FRACTIONS: Mapping[str, float] = {"train": 0.7, "val": 0.15, "test": 0.15}


def hold_out(
    cases: Sequence[Case],
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    stratify: bool = True,
    empty: Collection[str] = (),
) -> list[Case]:
    """Train, val and test by whole groups, stratified by label, site and whether there is anything to find.

    Args:
        cases: the table; the result has its order.
        fractions: share of every split; sums to one. A share of 0 leaves that split out.
        seed: another seed gives another split.
        stratify: False ignores labels and sites (groups stay whole).
        empty: ids of the cases whose reference is empty (`case.empty_references`).

    Returns:
        The same cases with `split` set. Counts are within one group of the exact share, in all and per label.

    Raises:
        InputError: fractions that do not sum to one, or a label with fewer groups than splits.

    >>> from pathlib import Path
    >>> table = [Case(str(i), Path(f"{i}.png"), label="benign" if i < 14 else "malignant") for i in range(20)]
    >>> sorted(Counter(case.split for case in hold_out(table)).items())
    [('test', 3), ('train', 14), ('val', 3)]
    """
    _check_fractions(fractions)
    _require_two({case.group_key for case in cases})
    parts = {name: share for name, share in fractions.items() if share > 0}
    chosen = _allocate(cases, parts, seed, stratify, empty=empty)
    return [replace(case, split=chosen[case.group_key]) for case in cases]


def without_foreground(cases: Sequence[Case], empty: Collection[str]) -> list[str]:
    """One line for the test split and for the validation split if they have cases, but none with any foreground.

    >>> from pathlib import Path
    >>> without_foreground([Case("a", Path("a.png"), masks=(Path("m.png"),), split="test")], {"a"})
    ['none of the 1 test cases has any foreground, so Dice cannot be measured on them: choose another seed or split']
    """
    lines = []
    for split, lost in (("test", "Dice cannot be measured"), ("val", "the best epoch cannot be found")):
        members = [case for case in cases if case.split == split]
        if members and not any(case.is_located and case.id not in empty for case in members):
            lines.append(
                f"none of the {len(members)} {split} cases has any foreground, so {lost} on them: "
                "choose another seed or split"
            )
    return lines


def require_folds(k: int, fold: int, val: float) -> None:
    """Refuses numbers that are no fold of a cross-validation.

    >>> require_folds(5, 6, 0.1)
    Traceback (most recent call last):
    segdistill.errors.InputError: fold 6 does not exist: with k=5 folds are 1 to 5
    """
    if k < 2:
        raise InputError(f"k-fold needs k of at least 2, not {k}: use hold-out for a single split")
    if not 1 <= fold <= k:
        raise InputError(f"fold {fold} does not exist: with k={k} folds are 1 to {k}")
    if not 0 <= val < 1:
        raise InputError(f"val={val} is not a share of the training cases: use 0 to below 1")


def k_fold(
    cases: Sequence[Case],
    k: int,
    fold: int,
    seed: int = 0,
    val: float = 0.15,
    stratify: bool = True,
    empty: Collection[str] = (),
) -> list[Case]:
    """Fold `fold` of `k`, counted from 1: it becomes test, and the share `val` of the other cases becomes val.

    Over all folds every case is tested exactly once. Groups stay whole, labels and sites are stratified.

    Raises:
        InputError: fold outside 1..k, k below 2, or a label with fewer groups than folds.

    >>> from pathlib import Path
    >>> table = [Case(str(i), Path(f"{i}.png")) for i in range(10)]
    >>> tested = [case.id for fold in range(1, 6) for case in k_fold(table, 5, fold) if case.split == "test"]
    >>> sorted(tested) == sorted(case.id for case in table)
    True
    """
    require_folds(k, fold, val)
    _require_two({case.group_key for case in cases})
    folds = _allocate(cases, {str(number): 1 / k for number in range(k)}, seed, stratify, empty=empty)
    rest = [case for case in cases if folds[case.group_key] != str(fold - 1)]
    shares = {"train": 1 - val, "val": val} if val > 0 else {"train": 1.0}
    inner = _allocate(rest, shares, seed + fold, stratify, strict=False, empty=empty)
    return [replace(case, split=inner.get(case.group_key, "test")) for case in cases]


def leave_one_out(cases: Sequence[Case], fold: int, seed: int = 0) -> list[Case]:
    """Group number `fold`, counted from 1, becomes test, all others train: for very small tables.

    Over all folds, one for each group, every case is tested exactly once. There is no val: the last weights are kept.

    Raises:
        InputError: fewer than two groups, or a fold that is none.

    >>> from pathlib import Path
    >>> [case.split for case in leave_one_out([Case(str(i), Path(f"{i}.png")) for i in range(3)], 1)].count("test")
    1
    """
    require_unique(cases)
    groups = sorted({case.group_key for case in cases}, key=lambda key: _draw(seed, key))
    _require_two(groups)
    if not 1 <= fold <= len(groups):
        raise InputError(
            f"fold {fold} does not exist: with {len(groups)} groups folds are 1 to {len(groups)}"
        )
    return [replace(case, split="test" if case.group_key == groups[fold - 1] else "train") for case in cases]


def _require_two(groups: Collection[str]) -> None:
    if len(groups) < 2:
        raise InputError(
            f"{len(groups)} group(s) of cases cannot be divided into train and test: give at least 2 groups"
        )


def in_folds(cases: Sequence[Case], folds: int, seed: int = 0) -> dict[str, int]:
    """Case -> its fold, counted from 1: groups whole, labels and sites as even as they can be.

    Raises:
        InputError: fewer groups than folds.

    >>> from pathlib import Path
    >>> table = [Case(str(i), Path(f"{i}.png")) for i in range(6)]
    >>> sorted(Counter(in_folds(table, 3).values()).items())
    [(1, 2), (2, 2), (3, 2)]
    """
    groups = len({case.group_key for case in cases})
    if groups < folds:
        raise InputError(
            f"{groups} groups of cases make no {folds} folds: use {max(groups, 2)} folds, or add cases"
        )
    parts = _allocate(
        cases, {str(fold): 1 / folds for fold in range(1, folds + 1)}, seed, stratify=True, strict=False
    )
    return {case.id: int(parts[case.group_key]) for case in cases}


def unstratified(cases: Sequence[Case], test: float = 0.15, seed: int = 0, val: float = 0.0) -> list[Case]:
    """The LightBTSeg paper's split: ceil(test x n) cases drawn blindly; labels and groups are ignored.

    With 647 BUSI images it tests 98, with 163 of Dataset B 25. Cases labelled "normal" take no part (split
    ""). The paper names no validation set; `val` draws that share of the training cases. Leaks are likely:
    see `leaks`.

    >>> from pathlib import Path
    >>> table = [Case(str(i), Path(f"{i}.png"), label="benign") for i in range(647)]
    >>> Counter(case.split for case in unstratified(table))["test"]
    98
    """
    require_unique(cases)
    if not 0 < test < 1 or not 0 <= val < 1:
        raise InputError(f"test={test} and val={val} must be shares between 0 and 1")
    taking_part = [case.id for case in cases if not case.is_normal]
    order = sorted(taking_part, key=lambda name: _draw(seed, name))
    tested = math.ceil(round(test * len(order), 9))
    validated = math.ceil(round(val * (len(order) - tested), 9))
    split = dict.fromkeys(order, "train")
    split.update(dict.fromkeys(order[:tested], "test"))
    split.update(dict.fromkeys(order[tested : tested + validated], "val"))
    return [replace(case, split=split.get(case.id, "")) for case in cases]


def _check_fractions(fractions: Mapping[str, float]) -> None:
    unknown = set(fractions) - {"train", "val", "test"}
    if unknown:
        raise InputError(f"unknown split '{sorted(unknown)[0]}': the splits are train, val and test")
    if any(not 0 <= share <= 1 for share in fractions.values()) or not math.isclose(
        sum(fractions.values()), 1.0
    ):
        raise InputError(f"fractions {dict(fractions)} must be between 0 and 1 and sum to 1")


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _allocate(
    cases: Sequence[Case],
    shares: Mapping[str, float],
    seed: int,
    stratify: bool,
    strict: bool = True,
    empty: Collection[str] = (),
) -> dict[str, str]:
    """Group -> part, so that every part gets its share of every stratum and of the whole.

    Strata are gone through in order, and what a part got too little or too much of is handed to the next
    stratum, so rounding never adds up. Within a stratum large groups go first, each to the part that has most
    of its share left.
    """
    require_unique(cases)
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group_key, []).append(case)
    strata: dict[tuple[str, str, bool], list[str]] = {}
    for key, members in groups.items():
        nothing = all(case.id in empty for case in members)
        strata.setdefault((*_stratum(members), nothing) if stratify else ("", "", False), []).append(key)
    chosen: dict[str, str] = {}
    carry = dict.fromkeys(shares, 0.0)
    for _, keys in sorted(strata.items()):
        keys.sort(key=lambda key: (-len(groups[key]), _draw(seed, key)))
        total = sum(len(groups[key]) for key in keys)
        due = {part: share * total + carry[part] for part, share in shares.items()}
        owed = dict(due)
        for key in keys:
            part = _next_part(owed, due, len(groups[key]))
            chosen[key] = part
            owed[part] -= len(groups[key])
        carry = owed
    if stratify:
        _fill_empty(chosen, groups, list(shares), seed, strict)
        full = {
            key: members for key, members in groups.items() if any(case.id not in empty for case in members)
        }
        if 0 < len(full) < len(groups):  # a part without anything to find measures nothing
            _fill_empty(chosen, full, list(shares), seed, strict=False)
    return chosen


def _stratum(members: Sequence[Case]) -> tuple[str, str]:
    counts = Counter((case.label, case.site) for case in members)
    return min(counts, key=lambda key: (-counts[key], key))


def _next_part(owed: Mapping[str, float], due: Mapping[str, float], size: int) -> str:
    room = [part for part in owed if owed[part] >= size]
    if (
        size > 1 and room
    ):  # a large group: to the part with most of its share left, not always to the largest part
        return max(room, key=lambda part: (owed[part] / max(due[part], 1e-9), owed[part], part))
    return max(owed, key=lambda part: (owed[part], part))


def _fill_empty(
    chosen: dict[str, str], groups: Mapping[str, list[Case]], parts: Sequence[str], seed: int, strict: bool
) -> None:
    """Gives every part at least one group of every label, moving the smallest from where there are most."""
    by_label: dict[str, list[str]] = {}
    for key, members in groups.items():
        by_label.setdefault(_stratum(members)[0], []).append(key)
    for label, keys in sorted(by_label.items()):
        if len(keys) < len(parts):
            if strict:
                raise InputError(
                    f"label '{label}' has {len(keys)} group(s) for {len(parts)} splits: add cases, "
                    f"drop the label, "
                    "use fewer splits, split without stratification, or data.split.method=leave_one_out"
                )
            continue
        for part in parts:
            counts = Counter(chosen[key] for key in keys)
            if counts[part] == 0:
                donor = max(counts, key=lambda name: (counts[name], name))
                movable = [key for key in keys if chosen[key] == donor]
                chosen[min(movable, key=lambda key: (len(groups[key]), _draw(seed, key)))] = part


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


def keep_locations(cases: Iterable[Case], share: float, seed: int = 0) -> list[Case]:
    """Each training case keeps mask and box with probability `share`, drawn for each alone; others are as they are.

    A smaller share keeps a part of what a larger one of the same seed keeps, so that their results differ by the added
    locations alone (Fan et al. 2023, section 4.1, draw each set independently).

    Args:
        cases: with their splits; only those of "train" change. The label of a normal case means that there is nothing
            to find: it has a reference with or without its mask.
        share: 0 to 1.
        seed: another seed keeps others.

    >>> from pathlib import Path
    >>> table = [Case(str(i), Path("a.png"), (Path("m.png"),), split="train") for i in range(400)]
    >>> sum(case.has_reference for case in keep_locations(table, 0.5))
    190
    """
    if share >= 1:
        return list(cases)
    return [
        replace(case, masks=(), box=None)
        if case.split == "train" and case.has_reference and _draw_located(seed, case.id) >= share
        else case
        for case in cases
    ]


def _draw_located(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on nothing but seed and name."""
    digest = hashlib.sha256(f"locations\0{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
