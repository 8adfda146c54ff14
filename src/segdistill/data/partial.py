"""Partly labelled tables: a seeded share of the training cases keeps its location, the others keep their label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from segdistill.data.case import Case


def keep_locations(cases: Iterable[Case], share: float, seed: int = 0) -> list[Case]:
    """Each training case keeps mask and box with probability `share`, drawn for each alone; others are as they are.

    A smaller share keeps a part of what a larger one of the same seed keeps, so that their results differ by the added
    locations alone (Fan et al. 2023, section 4.1, draw each set anew).

    Args:
        cases: with their splits; only those of "train" change. Of a normal case the label says that there is nothing
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
        if case.split == "train" and case.has_reference and _draw(seed, case.id) >= share
        else case
        for case in cases
    ]


def _draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on nothing but seed and name."""
    digest = hashlib.sha256(f"locations\0{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
