"""The cells of a matrix as a table: Dice over seeds, and what is missing. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from segdistill.evaluation.comparison import split_name
from segdistill.recipes.results import RUN_FILE, SUMMARY_FILE, read_json


def cells_table(folder: Path, stages: Sequence[str]) -> list[str]:
    """One line per cell: its mean Dice with the spread over seeds, each seed's, and how many there are.

    Args:
        folder: of the run.
        stages: its cells with their seeds, such as "kd@0".

    >>> for line in cells_table(Path("nowhere"), ["kd@0", "kd@1"]):
    ...     print(line)
    cell      Dice  over seeds  seeds
    kd           -           -  0 of 2 seeds
    """
    cells: dict[str, list[str]] = {}
    for stage in stages:
        cells.setdefault(split_name(stage)[0], []).append(stage)
    facts = read_json(folder / RUN_FILE)
    failed, reported = facts.get("failed", {}), facts.get("stages", [])
    width = max(8, *map(len, cells))
    lines = [f"{'cell':{width}}  Dice  over seeds  seeds"]
    for cell, names in cells.items():
        found = {name: _dice(folder / "stages" / name) for name in names if name in reported}
        known = [dice for dice in found.values() if dice is not None]
        mean = f"{fmean(known):.3f}" if known else "-"
        spread = f"±{stdev(known):.3f}" if len(known) > 1 else "-"
        lost = [name for name in names if name in failed]
        words = f"{len(found)} of {len(names)} seeds"
        words += f" ({', '.join(f'{dice:.3f}' for dice in known)})" if known else ""
        words += f", failed: {', '.join(lost)}" if lost else ""
        lines.append(f"{cell:{width}} {mean:>5}  {spread:>10}  {words}")
    return lines


def _dice(stage: Path) -> float | None:
    mean = read_json(stage / SUMMARY_FILE).get("summary", {}).get("all", {}).get("dice", {}).get("mean")
    return float(mean) if isinstance(mean, int | float) else None
