"""The cases of an experiment: indexed or read, checked for near-duplicates, divided, and free of leaks."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from segdistill.config.schema import DataRecipe, SplitRecipe
from segdistill.data.case import Case, empty_references, name_values, select
from segdistill.data.check import large_groups
from segdistill.data.datasets import DATASETS, create_dataset
from segdistill.data.duplicates import Pair, find_duplicates, group_duplicates
from segdistill.data.leaks import Leak, leaks, require_no_shared_groups
from segdistill.data.levels import is_scaled, with_levels
from segdistill.data.phantom import write_phantom
from segdistill.data.splits import (
    hold_out,
    hold_out_counts,
    k_fold,
    leave_one_out,
    unstratified,
    without_foreground,
)
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.files import require_text

VARIABLE = "SEGDISTILL_DATA"


@dataclass(frozen=True)
class LoadedCases:
    """Cases with their splits, and the near-duplicates and leaks among them.

    Attributes:
        split: how they were divided, in words.
        empty: ids of the cases whose reference is empty.
        warnings: what to know before training.
    """

    name: str
    cases: list[Case]
    pairs: list[Pair]
    leaks: list[Leak]
    split: str
    empty: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def load_cases(data: DataRecipe, source: Path | None, folder: Path) -> LoadedCases:
    """Finds the cases and divides them.

    Args:
        data: the recipe's part on data.
        source: a cases.csv, or a folder to index; None takes the recipe's `table`, else the dataset's folder below
            $SEGDISTILL_DATA.
        folder: of the run; synthetic images are written into it.

    Raises:
        InputError: no such data, a site without cases, or one group in several of the table's own splits.

    Groups and splits that a table states are kept: a copy of a picture on the other side is a leak of the result.
    """
    source = Path(data.table) if source is None and data.table is not None else source
    name, found = _find(data, source, folder)
    cases = select(_as_read(found, data, name), sites=data.sites)
    for case in cases:
        for text in (case.id, case.group, case.label, case.site, case.image, *case.masks):
            require_text(text)
    pairs, empty = find_duplicates(cases), frozenset(empty_references(cases))
    divided, words = _divided(data, cases, source, name, pairs, empty)
    told = _leak_warnings(found_leaks := leaks(divided, pairs))
    told += [finding.message for finding in large_groups(cases, pairs)]
    told += without_foreground(divided, empty)
    return LoadedCases(name, divided, pairs, found_leaks, words, empty, tuple(told))


def _leak_warnings(found: list[Leak]) -> list[str]:
    return [f"{len(found)} leaks between the splits, such as {found[0]}"] if found else []


def _divided(
    data: DataRecipe,
    cases: list[Case],
    source: Path | None,
    name: str,
    pairs: list[Pair],
    empty: frozenset[str],
) -> tuple[list[Case], str]:
    """The cases with their splits, and how they were divided in one line."""
    method, split = _split_method(data, cases, source), data.split
    if method == "paper":
        words = f"as the paper: {split.test:.0%} test, unstratified, seed {split.seed}; duplicates not kept together"
        return unstratified(cases, test=split.test, seed=split.seed), words
    if method == "given":
        for needed in ("train", "test"):
            if not select(cases, split=needed):
                raise InputError(
                    f"{source or name}: no case has split '{needed}': fill in the column, or use another split.method"
                )
        require_no_shared_groups(cases)
        return cases, "as given in the case table"
    if source is not None and source.is_file():
        pairs = _not_separated(cases, pairs)
    divided, words = _divide(group_duplicates(cases, pairs), split, method, empty)
    if _has_split(cases):
        words += "; the table's own split is not used (data.split.method=given takes it)"
    return divided, words


def _not_separated(cases: list[Case], pairs: list[Pair]) -> list[Pair]:
    """Without the pairs that a table keeps apart, since both of their cases have a group in it and these differ."""
    groups = {case.id: case.group for case in cases}
    return [
        pair
        for pair in pairs
        if not groups[pair.first] or not groups[pair.second] or groups[pair.first] == groups[pair.second]
    ]


def _has_split(cases: list[Case]) -> bool:
    return {"train", "test"} <= {case.split for case in cases}


def _split_method(data: DataRecipe, cases: list[Case], source: Path | None) -> str:
    if data.split.method != "auto":
        return data.split.method
    splits = {case.split for case in cases} - {""}
    if splits and not _has_split(cases):
        raise InputError(
            f"the split column of {source} has {', '.join(sorted(splits))} only: fill in train and test, empty it, or "
            "choose with data.split.method"
        )
    return "given" if splits else "hold_out"


def _divide(
    cases: list[Case], split: SplitRecipe, method: str, empty: frozenset[str]
) -> tuple[list[Case], str]:
    """The cases with splits that keep groups whole, and how they were divided in one line."""
    if method == "k_fold":
        divided = k_fold(cases, split.folds, split.fold, split.seed, split.val, empty=empty)
        return divided, f"fold {split.fold} of {split.folds}, groups whole, stratified, seed {split.seed}"
    if method == "leave_one_out":
        divided = leave_one_out(cases, split.fold, split.seed)
        return divided, f"all groups but number {split.fold} train, seed {split.seed}"
    if method == "counts":
        counts = split.counts or {}
        listed = ", ".join(f"{count} {label}" for label, count in counts.items())
        words = f"test of {listed}, groups whole, {split.val:.0%} of the others val, seed {split.seed}"
        return hold_out_counts(cases, counts, split.val, split.seed), words
    train = 1 - split.test - split.val
    divided = hold_out(cases, {"train": train, "val": split.val, "test": split.test}, split.seed, empty=empty)
    shares = f"{train:.0%} / {split.val:.0%} / {split.test:.0%}"
    return divided, f"hold-out {shares}, groups whole, stratified, seed {split.seed}"


def _as_read(cases: list[Case], data: DataRecipe, name: str) -> list[Case]:
    """The cases with what decides how their files are read: the values of masks, and the levels of deep pictures."""
    named = name_values(cases, data.foreground, data.background)
    if data.intensity is None:
        return with_levels(named)
    if not any(is_scaled(case) for case in named):
        raise InputError(f"data.intensity is for volumes, and {name} holds pictures of 8 bits: remove it")
    return named


def _find(data: DataRecipe, source: Path | None, folder: Path) -> tuple[str, list[Case]]:
    if data.dataset is not None:
        DATASETS.find(data.dataset)  # an unknown name is the first thing to report
    if source is None and data.dataset == "phantom":
        # drawn again in every run: the same seed gives the same files
        return "phantom", write_phantom(
            _phantom_folder(data, folder), data.phantoms, size=_phantom_size(data)
        )
    if source is None and data.dataset is not None and os.environ.get(VARIABLE):
        source = Path(os.environ[VARIABLE]) / data.dataset
    if source is None:
        wanted = (
            f"the {data.dataset} folder"
            if data.dataset
            else "a cases.csv or a folder with images/ and masks/"
        )
        raise InputError(f"no data: give --data with {wanted}")
    if source.is_file():
        return source.stem, read_cases(source)
    if not source.exists():
        raise InputError(f"no such data: {source}")
    if data.dataset == "phantom":
        raise InputError(
            f"the dataset phantom draws its own images and takes none from {source}: remove --data, or name what the "
            "folder holds with --set dataset=folder"
        )
    name = data.dataset or "folder"
    cases = create_dataset(name, source)
    for case in cases:
        if not case.has_reference:
            raise InputError(
                f"{case.image}: image without mask: add the mask, label it normal if there is nothing to find, or give "
                f"a table made by 'segdistill data index {name} {source} --unlabelled'"
            )
    return DATASETS[name].summary, cases


def _phantom_folder(data: DataRecipe, folder: Path) -> Path:
    return folder / f"phantom-{data.phantoms}x{_phantom_size(data)}"


def _phantom_size(data: DataRecipe) -> int:
    return max(32, *data.height_width)


@contextmanager
def removing_phantoms_on_error(data: DataRecipe, folder: Path) -> Iterator[None]:
    """Removes the synthetic images that were drawn meanwhile if the recipe is refused.

    >>> with removing_phantoms_on_error(DataRecipe(), Path("runs/mine")):
    ...     pass
    """
    drawn = _phantom_folder(data, folder)
    before = drawn.exists()
    try:
        yield
    except InputError:
        if not before:
            shutil.rmtree(drawn, ignore_errors=True)
        raise


def training_cases(
    cases: list[Case],
    split: str,
    labels: list[str] | None,
    where: str,
    sites: list[str] | None = None,
    unlocated: bool = False,
) -> list[Case]:
    """Cases of a split, of some labels and sites, that have a reference; with `unlocated` a label is enough.

    Raises:
        InputError: none is left to train on, or one of the labels or sites has none.

    >>> training_cases([], "val", None, "stage net")
    []
    """
    found = [
        case
        for case in select(cases, split=split, labels=labels)
        if (case.has_reference or (unlocated and case.label)) and (sites is None or case.site in sites)
    ]
    if split != "train":
        return found
    for site in sites or []:
        if all(case.site != site for case in found):
            there = _counted([case.site for case in select(cases, split=split, labels=labels)], "none at all")
            raise InputError(
                f"{where}: no training case of site '{site}' has a mask (training cases: {there})"
            )
    missing = [
        f"with label '{label}' " for label in labels or [] if all(case.label != label for case in found)
    ]
    if missing or not any(case.is_located or unlocated for case in found):  # normal cases only teach nothing
        there = _counted([case.label for case in select(cases, split=split)], "no cases at all")
        raise InputError(
            f"{where}: no training case {''.join(missing[:1])}has a mask (training cases: {there})"
        )
    return found


def _counted(names: list[str], none: str) -> str:
    return ", ".join(f"{name or '(none)'}: {count}" for name, count in Counter(names).items()) or none


def absolute(cases: list[Case]) -> list[Case]:
    """The same cases with absolute paths: the table of a run is read from anywhere."""
    return [
        replace(case, image=case.image.absolute(), masks=tuple(mask.absolute() for mask in case.masks))
        for case in cases
    ]
