"""A summary of results as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segdistill.evaluation.results import Summary


def summary_lines(summary: Summary, cases: int, pooled: Mapping[str, Any] | None = None) -> list[str]:
    """A row per class and site, the normal images and the pooled measures in a line each, and what the numbers are.

    Args:
        summary: from results.summarise.
        cases: how many were measured.
        pooled: from Pool.metrics; None or empty: not measured.

    >>> rows = summary_lines({"all": {"dice": {"mean": 0.8, "low": 0.75, "high": 0.85, "n": 9}}}, 9)
    >>> rows[1].split()
    ['all', '9', '0.8000', '[0.750,', '0.850]']
    """
    names = list(summary.get("all", {}))
    lines = [f"{'':12}{'n':>5}  " + "".join(f"{name:>24}" for name in names)]
    for label, metrics in summary.items():
        if label != "normal":
            cells = "".join(f"{_cell(metrics.get(name, {})):>24}" for name in names)
            lines.append(f"{label:12}{next(iter(metrics.values()))['n']:>5}  {cells}")
    if normal := summary.get("normal"):
        lines.append("normal      " + ", ".join(f"{name} {_cell(value)}" for name, value in normal.items()))
    if pooled:
        shown = ", ".join(f"{name} {_cell(value)}" for name, value in pooled.items() if value is not None)
        lines.append(f"pooled      {shown}")
    return [*lines, f"{cases} cases; mean [bootstrap 95 % interval], groups resampled"]


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.4f}" if isinstance(value, float) else str(value)
    if value.get("mean") is None:
        return "-"
    if value.get("low") is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"
