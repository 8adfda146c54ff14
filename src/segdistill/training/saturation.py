"""Saturation warnings from the curves of adversarial training: perfect discriminators, collapsed predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

PATIENCE = 3
"""Epochs in a row before a warning: the first epochs often look saturated."""
PERFECT = 0.99
"""Accuracy from which a discriminator counts as perfect."""
EMPTY, FULL, SAME = 0.0005, 0.995, 0.0005
"""Mean area below and above which all predictions are empty or full, and spread below which all have one area."""

Row = Mapping[str, float]


@dataclass(frozen=True)
class SaturationWarning:
    """A problem from one epoch to another one, both counted from 1 and both included."""

    what: str
    advice: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.what} in epochs {self.first} to {self.last}: {self.advice}"


def find_saturation(rows: Sequence[Row]) -> list[SaturationWarning]:
    """Every run of at least `PATIENCE` epochs in which a discriminator is perfect or the predictions have collapsed.

    Args:
        rows: of curves.csv; those of other tasks have none of the columns that are read.

    >>> rows = [{"epoch": e, "discriminators/accuracy_1": 1.0} for e in range(1, 5)]
    >>> [(warning.first, warning.last) for warning in find_saturation(rows)]
    [(1, 4)]
    >>> find_saturation([{"epoch": 1, "loss": 0.5}] * 9)
    []
    """
    found = []
    for what, advice, holds in _signs(rows):
        found += [SaturationWarning(what, advice, first, last) for first, last in _runs(rows, holds)]
    return sorted(found, key=lambda warning: (warning.first, warning.what))


def new_warnings(rows: Sequence[Row]) -> list[SaturationWarning]:
    """The warnings that begin with the last row: for messages during training, once each.

    >>> rows = [{"epoch": e, "area": 0.0} for e in range(1, 5)]
    >>> len(new_warnings(rows[:3])), len(new_warnings(rows))
    (1, 0)
    """
    if not rows:
        return []
    now = int(rows[-1].get("epoch", len(rows)))
    return [
        warning for warning in find_saturation(rows) if warning.last == now == warning.first + PATIENCE - 1
    ]


def _signs(rows: Sequence[Row]) -> list[tuple[str, str, Callable[[Row], bool]]]:
    """Each possible problem: its description, what to do about it, and whether a row shows it."""

    def perfect(name: str) -> Callable[[Row], bool]:
        return lambda row: row.get(name, 0.0) >= PERFECT

    accuracies = {name for row in rows for name in row if name.startswith("discriminators/accuracy_")}
    signs: list[tuple[str, str, Callable[[Row], bool]]] = [
        (
            f"discriminator {name.rpartition('_')[2]} is perfect",
            "the network hardly learns from it; try gan: non_saturating, a smaller width or another condition",
            perfect(name),
        )
        for name in sorted(accuracies)
    ]
    lower = "lower beta or the learning rate"
    return [
        *signs,
        ("all predictions are empty", lower, lambda row: row.get("area", 1.0) <= EMPTY),
        ("all predictions are full", lower, lambda row: row.get("area", 0.0) >= FULL),
        (
            "all predictions have the same area",
            lower,
            lambda row: EMPTY < row.get("area", 0.0) < FULL and row.get("area_spread", 1.0) <= SAME,
        ),
    ]


def _runs(rows: Sequence[Row], holds: Callable[[Row], bool]) -> list[tuple[int, int]]:
    """First and last epoch of every run of at least `PATIENCE` rows."""
    found: list[tuple[int, int]] = []
    first: int | None = None
    for position, row in enumerate([*rows, {}], 1):
        shown = position <= len(rows) and holds(row)
        if shown and first is None:
            first = int(row.get("epoch", position))
        if not shown and first is not None:
            last = int(rows[position - 2].get("epoch", position - 1))
            if last - first + 1 >= PATIENCE:
                found.append((first, last))
            first = None
    return found
