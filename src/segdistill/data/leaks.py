"""Leaks: what train, val and test share although they must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from segdistill.data.case import Case
from segdistill.data.duplicates import Pair, find_duplicates
from segdistill.errors import InputError


@dataclass(frozen=True)
class Leak:
    """Two cases in different splits that belong together: `kind` is "group", "identical" or "near"."""

    kind: str
    first: Case
    second: Case

    def __str__(self) -> str:
        what = {"group": "the same group", "identical": "identical pixels", "near": "near-duplicates"}[
            self.kind
        ]
        return (
            f"{what} in {self.first.split} and {self.second.split}: "
            f"{self.first.image} and {self.second.image}"
        )


def leaks(cases: Sequence[Case], pairs: Sequence[Pair] | None = None) -> list[Leak]:
    """What is shared between train, val and test: groups, identical pixels, near-duplicates.

    Args:
        cases: the table with `split` set; cases of split "" take no part.
        pairs: from `find_duplicates`; None finds them, which decodes every image once; () looks at groups
            alone.

    Returns:
        One leak per group and pair of splits (with the first case of each), and one per pair of pictures.

    >>> from pathlib import Path
    >>> first = Case("a", Path("a"), group="patient 1", split="train")
    >>> second = Case("b", Path("b"), group="patient 1", split="test")
    >>> print(leaks([first, second], pairs=())[0])
    the same group in train and test: a and b
    """
    taking_part = [case for case in cases if case.split]
    if pairs is None:
        pairs = find_duplicates(taking_part)
    groups: dict[str, dict[str, Case]] = {}
    for case in taking_part:
        groups.setdefault(case.group_key, {}).setdefault(case.split, case)
    found = [
        Leak("group", first, second)
        for by_split in groups.values()
        for first, second in combinations(by_split.values(), 2)
    ]
    by_id = {case.id: case for case in taking_part}
    for pair in pairs:
        first, second = by_id.get(pair.first), by_id.get(pair.second)
        if first is not None and second is not None and first.split != second.split:
            found.append(Leak(pair.kind, first, second))
    return found


def leaks_line(found: Sequence[Leak]) -> str:
    """How many there are, with the first.

    >>> from dataclasses import replace
    >>> from pathlib import Path
    >>> case = Case("a", Path("a"), split="train")
    >>> leaks_line([Leak("group", case, replace(case, split="test", image=Path("b")))])
    '1 leaks between the splits, such as the same group in train and test: a and b'
    """
    return f"{len(found)} leaks between the splits, such as {found[0]}"


def require_no_shared_groups(cases: Sequence[Case]) -> None:
    """Raises InputError when a group has cases in several splits; it counts the groups and names the first files.

    Copies of pictures are not looked for: who gives a split may know better than a search.

    >>> require_no_shared_groups([])
    """
    found = leaks(cases, pairs=())
    if found:
        raise InputError(
            f"the split leaks ({len(found)}): {found[0]}: give all cases of a group one split, or empty the split "
            "column and let the recipe divide them"
        )
