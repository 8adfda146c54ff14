"""The cases of an experiment: indexed or read, checked for near-duplicates, divided, and free of leaks."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from segdistill.config.schema import DataRecipe
from segdistill.data.case import Case, select
from segdistill.data.datasets import DATASETS, index_dataset
from segdistill.data.duplicates import Pair, find_duplicates, group_duplicates
from segdistill.data.leaks import Leak, leaks, require_no_leaks
from segdistill.data.phantom import write_phantom
from segdistill.data.splits import hold_out, hold_out_counts, k_fold, leave_one_out, unstratified
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.registry import near_names

VARIABLE = "SEGDISTILL_DATA"


@dataclass(frozen=True)
class LoadedCases:
    """Cases with their splits, and what was found about them."""

    name: str
    cases: list[Case]
    pairs: list[Pair]
    leaks: list[Leak]
    split: str


def load_cases(data: DataRecipe, source: Path | None, folder: Path) -> LoadedCases:
    """Finds the cases and divides them.

    Args:
        data: what the recipe says of them.
        source: a cases.csv, or a folder to index; None takes the dataset's folder below $SEGDISTILL_DATA.
        folder: of the run; synthetic images are written into it.

    Raises:
        InputError: no such data, a site without cases, or a leak that the split method does not allow.
    """
    name, found = _find(data, source, folder)
    cases = select(found, sites=data.sites)
    if data.intensity is not None and not any(case.is_volume for case in cases):
        raise InputError(f"data.intensity is for volumes, and {name} holds pictures: leave it out")
    pairs = find_duplicates(cases)
    method = data.split.method
    splits = {case.split for case in cases} - {""}
    has_split = {"train", "test"} <= splits
    if method == "auto" and splits and not has_split:
        raise InputError(
            f"the split column of {source} has {', '.join(sorted(splits))} only: fill in train and test, empty it, or "
            "choose with data.split.method"
        )
    if method == "auto":
        method = "given" if has_split else "hold_out"
    if method == "paper":
        divided = unstratified(cases, test=data.split.test, seed=data.split.seed)
        words = (
            f"as the paper: {data.split.test:.0%} test, unstratified, seed {data.split.seed}; "
            "duplicates not kept together"
        )
        return LoadedCases(name, divided, pairs, leaks(divided, pairs), words)
    grouped = group_duplicates(cases, pairs)
    if method == "given":
        divided, words = cases, "as given in the case table"
        for split in ("train", "test"):
            if not select(cases, split=split):
                raise InputError(
                    f"{source or name}: no case has split '{split}': fill in the column, or use another split.method"
                )
    elif method == "k_fold":
        divided = k_fold(grouped, data.split.folds, data.split.fold, data.split.seed, data.split.val)
        words = f"fold {data.split.fold + 1} of {data.split.folds}, groups whole, stratified, seed {data.split.seed}"
    elif method == "leave_one_out":
        divided = leave_one_out(grouped, data.split.fold, data.split.seed)
        words = f"all groups but number {data.split.fold + 1} train, seed {data.split.seed}"
    elif method == "counts":
        counts = data.split.counts or {}
        divided = hold_out_counts(grouped, counts, data.split.val, data.split.seed)
        told = ", ".join(f"{count} {label}" for label, count in counts.items())
        words = (
            f"test of {told}, groups whole, {data.split.val:.0%} of the others val, seed {data.split.seed}"
        )
    else:
        train = 1 - data.split.test - data.split.val
        shares = {"train": train, "val": data.split.val, "test": data.split.test}
        divided = hold_out(grouped, shares, data.split.seed)
        words = (
            f"hold-out {train:.0%} / {data.split.val:.0%} / {data.split.test:.0%}, groups whole, stratified, "
            f"seed {data.split.seed}"
        )
    require_no_leaks(divided, pairs)
    if has_split and method != "given":
        words += "; the table's own split is not used (data.split.method=given takes it)"
    return LoadedCases(name, divided, pairs, [], words)


def _find(data: DataRecipe, source: Path | None, folder: Path) -> tuple[str, list[Case]]:
    if data.dataset is not None and data.dataset not in DATASETS:
        raise InputError(f"unknown dataset '{data.dataset}': {near_names(data.dataset, DATASETS)}")
    if source is None and data.dataset == "phantom":
        return "phantom", _phantom(data, folder)
    if source is None and data.dataset is not None and os.environ.get(VARIABLE):
        source = Path(os.environ[VARIABLE]) / data.dataset
    if source is None:
        known = (
            f"the {data.dataset} folder"
            if data.dataset
            else "a cases.csv or a folder with images/ and masks/"
        )
        raise InputError(f"no data: give --data with {known}")
    if source.is_file():
        return source.stem, read_cases(source)
    if not source.exists():
        raise InputError(f"no such data: {source}")
    if data.dataset == "phantom":
        raise InputError(
            f"the dataset phantom draws its own images and takes none from {source}: leave --data out, or name what "
            "the folder holds with --set dataset=folder"
        )
    name = data.dataset or "folder"
    cases = index_dataset(name, source)
    for case in cases:
        if not case.has_reference:
            raise InputError(
                f"{case.image}: image without mask: add the mask, label it normal if there is nothing to find, or give "
                f"a table made by 'segdistill data index {name} {source} --unlabelled'"
            )
    return DATASETS[name].title, cases


def _phantom(data: DataRecipe, folder: Path) -> list[Case]:
    """Pictures drawn anew in every run: the same seed gives the same files."""
    return write_phantom(_drawn(data, folder), data.phantoms, size=_drawn_size(data))


def _drawn(data: DataRecipe, folder: Path) -> Path:
    return folder / f"phantom-{data.phantoms}x{_drawn_size(data)}"


def _drawn_size(data: DataRecipe) -> int:
    return max(32, *data.height_width)


@contextmanager
def drawn_in_vain(data: DataRecipe, folder: Path) -> Iterator[None]:
    """Where what follows refuses the recipe, the synthetic images that were drawn for it meanwhile are removed again.

    >>> with drawn_in_vain(DataRecipe(), Path("runs/mine")):
    ...     pass
    """
    drawn = _drawn(data, folder)
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
    """Cases of a split, of some labels and sites, that have a reference; with `unlocated` a label will do.

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
    absent = [site for site in sites or [] if all(case.site != site for case in found)]
    if absent:
        by_site = Counter(case.site or "(none)" for case in select(cases, split=split, labels=labels))
        listed = ", ".join(f"{site}: {count}" for site, count in sorted(by_site.items())) or "none at all"
        raise InputError(
            f"{where}: no training case of site '{absent[0]}' has a mask (training cases: {listed})"
        )
    missing = [label for label in labels or [] if all(case.label != label for case in found)]
    located = any(case.is_located or unlocated for case in found)  # normal ones alone teach nothing
    if missing or not located:
        there = Counter(case.label or "(none)" for case in select(cases, split=split))
        counts = ", ".join(f"{label}: {count}" for label, count in there.items()) or "no cases at all"
        wanted = f"with label '{missing[0]}' " if missing else ""
        raise InputError(f"{where}: no training case {wanted}has a mask (training cases: {counts})")
    return found


def absolute(cases: list[Case]) -> list[Case]:
    """The same cases with absolute paths, so that the table of a run can be read from anywhere."""
    return [
        replace(case, image=case.image.absolute(), masks=tuple(mask.absolute() for mask in case.masks))
        for case in cases
    ]
