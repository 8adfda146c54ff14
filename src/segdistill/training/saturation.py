"""Adversarial training that has stopped working, read off its curves: sure discriminators, collapsed predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

PATIENCE = 3
"""Epochs in a row that make a trouble: the first epochs often look like one."""
SURE = 0.99
"""Accuracy from which a discriminator tells everything."""
EMPTY, FULL, SAME = 0.0005, 0.995, 0.0005
"""Shares of the image: marked by nearly no or by nearly every prediction, and a spread that is none."""

Row = Mapping[str, float]


@dataclass(frozen=True)
class SaturationWarning:
    """What went wrong from one epoch to another one, both counted from 1 and both included."""

    what: str
    advice: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.what} in epochs {self.first} to {self.last}: {self.advice}"


def find_saturation(rows: Sequence[Row]) -> list[SaturationWarning]:
    """Every stretch of at least `PATIENCE` epochs in which a discriminator saturates or the predictions collapse.

    Args:
        rows: of curves.csv; those of other tasks hold nothing that is looked at.

    >>> rows = [{"epoch": e, "discriminators/accuracy_1": 1.0} for e in range(1, 5)]
    >>> [(warning.first, warning.last) for warning in find_saturation(rows)]
    [(1, 4)]
    >>> find_saturation([{"epoch": 1, "loss": 0.5}] * 9)
    []
    """
    found = []
    for what, advice, holds in _signs(rows):
        found += [SaturationWarning(what, advice, first, last) for first, last in _stretches(rows, holds)]
    return sorted(found, key=lambda warning: (warning.first, warning.what))


def new_warnings(rows: Sequence[Row]) -> list[SaturationWarning]:
    """Those that the last row has made one: what is told while training goes on, once each.

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
    """What is looked for: in words, what to do about it, and whether a row shows it."""

    def sure(name: str) -> Callable[[Row], bool]:
        return lambda row: row.get(name, 0.0) >= SURE

    accuracies = {name for row in rows for name in row if name.startswith("discriminators/accuracy_")}
    signs: list[tuple[str, str, Callable[[Row], bool]]] = [
        (
            f"discriminator {name.rpartition('_')[2]} tells every map",
            "its term hardly teaches any more; try gan: non_saturating, a smaller width or condition",
            sure(name),
        )
        for name in sorted(accuracies)
    ]
    less = "lower beta or the learning rate"
    return [
        *signs,
        ("predictions are all empty", less, lambda row: row.get("area", 1.0) <= EMPTY),
        ("predictions are all full", less, lambda row: row.get("area", 0.0) >= FULL),
        (
            "predictions are all of the same area",
            less,
            lambda row: EMPTY < row.get("area", 0.0) < FULL and row.get("area_spread", 1.0) <= SAME,
        ),
    ]


def _stretches(rows: Sequence[Row], holds: Callable[[Row], bool]) -> list[tuple[int, int]]:
    """First and last epoch of every run of rows that is long enough."""
    found: list[tuple[int, int]] = []
    first: int | None = None
    for position, row in enumerate([*rows, {}], 1):
        shown = position <= len(rows) and holds(row)
        epoch = int(row.get("epoch", position))
        if shown and first is None:
            first = epoch
        if not shown and first is not None:
            last = int(rows[position - 2].get("epoch", position - 1))
            if last - first + 1 >= PATIENCE:
                found.append((first, last))
            first = None
    return found
