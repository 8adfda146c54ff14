"""Tables from elsewhere: every stage is tested on them, and nothing is trained or selected on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segdistill.config.schema import DataRecipe, Recipe
from segdistill.data.case import Case, name_values, table_hash, with_channels
from segdistill.data.check import check_cases
from segdistill.data.datasets import create_dataset
from segdistill.data.duplicates import find_duplicates
from segdistill.data.levels import with_levels
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.files import require_text
from segdistill.imaging.classes import parse_classes
from segdistill.records import TableRecord


@dataclass(frozen=True)
class ExternalTable:
    """A table from elsewhere, checked.

    Attributes:
        name: that the recipe gives it.
        cases: all of its rows, as test cases.
        hash: of its content (`data.case.table_hash`).
        copies: one line for each picture that is a copy of one that the networks are trained or validated on.
    """

    name: str
    cases: tuple[Case, ...]
    hash: str
    copies: tuple[str, ...] = ()

    @property
    def without_reference(self) -> int:
        """The number of its cases that are not measured.

        >>> ExternalTable("clinic", (Case("a", Path("a.png")),), "").without_reference
        1
        """
        return sum(not case.has_reference for case in self.cases)

    def record(self) -> TableRecord:
        """What run.json holds of it."""
        return TableRecord(self.hash, len(self.cases), self.without_reference, list(self.copies))


def read_external(recipe: Recipe) -> tuple[ExternalTable, ...]:
    """Reads the external tables of a recipe, and checks all their files.

    Raises:
        InputError: names the table, and what cannot be used of it.

    >>> read_external(Recipe(name="r", stages={"net": {"model": {"name": "unet"}}}))
    ()
    """
    return tuple(_read(name, Path(place), recipe.data) for name, place in recipe.external.items())


def _read(name: str, place: Path, data: DataRecipe) -> ExternalTable:
    try:
        if not place.exists():
            raise InputError(f"no such case table or folder: {place}")
        found = create_dataset("folder", place) if place.is_dir() else read_cases(place)
        for case in found:
            for path in case.files:
                require_text(path)
            for text in (case.id, case.group, case.label, case.site):
                require_text(text)
        cases = [replace(case, split="test") for case in _as_at_home(found, data)]
        if not any(case.has_reference for case in cases):
            raise InputError(
                f"{place} has no case with a reference: nothing can be measured on it: add masks, or leave it out"
            )
        wrong = [one for one in check_cases(cases, require_reference=False) if one.level == "error"]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise InputError(wrong[0].message + more)
    except InputError as error:
        raise InputError(f"external table '{name}': {error}") from error
    return ExternalTable(name, tuple(cases), table_hash(cases))


def _as_at_home(cases: Sequence[Case], data: DataRecipe) -> list[Case]:
    """With the recipe's channels, its values of masks where the table names none, and levels of deep pictures."""
    named = [
        name_values([case], (), (), parse_classes(list(data.classes or ())))[0]  # with its own values
        if case.classes
        else case
        if case.foreground or case.background
        else name_values([case], data.foreground, data.background, data.mask_classes)[0]
        for case in cases
    ]
    named = [with_channels(case, data.channel_names or ()) for case in named]
    return with_levels(named) if data.intensity is None else named


def with_copies(table: ExternalTable, home: Sequence[Case]) -> ExternalTable:
    """The same table with its copies of pictures that networks are trained or validated on: its scores are too high.

    Args:
        table: from elsewhere.
        home: the cases of the run, with their splits.

    Raises:
        InputError: an image cannot be read.

    >>> with_copies(ExternalTable("clinic", (), ""), []).copies
    ()
    """
    seen = [replace(case, id=f"0 {case.id}") for case in home if case.split in ("train", "val")]
    theirs = [replace(case, id=f"1 {case.id}") for case in table.cases]
    by_id = {case.id: case for case in (*seen, *theirs)}
    copies = []
    for pair in find_duplicates([*seen, *theirs]):
        first, second = sorted((pair.first, pair.second))
        if first[0] != second[0]:
            known = by_id[first]
            copies.append(f"{pair.what}: {by_id[second].image} and {known.image} ({known.split})")
    return replace(table, copies=tuple(copies))


def external_lines(table: ExternalTable) -> list[str]:
    """What to tell of a table before training.

    >>> external_lines(ExternalTable("clinic", (Case("a", Path("a.png")),), ""))
    ["external table 'clinic': 1 cases, 1 without reference, which are skipped; only tested on"]
    """
    bare = table.without_reference
    skipped = f", {bare} without reference, which are skipped" if bare else ""
    lines = [f"external table '{table.name}': {len(table.cases)} cases{skipped}; only tested on"]
    if table.copies:
        count = f"{len(table.copies)} copies of training or validation images, whose scores are too high"
        shown = "; ".join(table.copies[:3]) + ("; ..." if len(table.copies) > 3 else "")
        lines.append(f"warning: external table '{table.name}': {count}: {shown}")
    return lines
