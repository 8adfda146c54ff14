"""The forest plot: every method's difference to its baseline with its intervals, and the verdict beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segdistill.evaluation.figures import _draw, _safe
from segdistill.evaluation.html import signed
from segdistill.evaluation.verdict import HELPS, HURTS, Comparison

_COLOURS = {HELPS: "#1c9c55", HURTS: "#e0620d"}
_GREY = "#6b7680"


def forest_plot(comparisons: Sequence[Comparison], title: str, headed: bool = True) -> str:
    """One row per comparison: the mean difference, the interval over cases (thick), the one with trainings (thin), and
    one small mark per seed; the margin as a shaded band.

    Args:
        comparisons: of one metric, with at least one measured difference.
        title: what they are compared with.
        headed: whether the title is drawn; it names the picture in any case.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> from segdistill.evaluation.statistics import PairedDifference
    >>> found = PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.001)
    >>> forest_plot([Comparison("kd", "alone", "dice", found)], "alone")[:18]
    '<svg role="img" ar'
    """
    rows = [c for c in comparisons if c.difference.mean is not None]
    metric = rows[0].metric if rows else "dice"

    def paint(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        _grounds(axes, rows)
        for row, comparison in enumerate(rows):
            _row(axes, row, comparison)
        several = len({c.baseline for c in rows}) > 1
        axes.set_yticks(range(len(rows)), [_label(c, several) for c in rows], color="#1d2329")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(False, axis="y")
        if headed:
            axes.set_title(_safe(title), loc="left", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        better = "smaller is better" if rows and rows[0].smaller_is_better else "larger is better"
        axes.set_xlabel(f"difference in {'Dice' if metric == 'dice' else _safe(metric)} ({better})")

    return _draw(7.2, 0.8 + 0.38 * max(1, len(rows)), f"{title}: differences in {metric}", paint)


def _label(comparison: Comparison, several: bool) -> str:
    seeds = comparison.seeds
    against = f"\nagainst {_safe(comparison.baseline)}" if several else ""
    return f"{_safe(comparison.method)} ({seeds} seed{'s' * (seeds != 1)}){against}"


def _grounds(axes: Any, rows: Sequence[Comparison]) -> None:
    """Zero, and the losses that the margin would accept."""
    axes.axvline(0, color="#1d2329", linewidth=0.9)
    margin = rows[0].margin if rows else None
    if margin is not None:
        worse = (0, margin) if rows[0].smaller_is_better else (-margin, 0)
        axes.axvspan(*worse, color="#eef1f4", linewidth=0)


def _row(axes: Any, row: int, comparison: Comparison) -> None:
    of, colour = comparison.difference, _COLOURS.get(comparison.verdict, _GREY)
    if comparison.low is not None:
        axes.plot([comparison.low, comparison.high], [row, row], color=colour, linewidth=1)
        for end in (comparison.low, comparison.high):
            axes.plot([end, end], [row - 0.1, row + 0.1], color=colour, linewidth=1)
    if of.low is not None:
        axes.plot(
            [of.low, of.high], [row, row], color=colour, linewidth=3.6, solid_capstyle="butt", alpha=0.55
        )
    if len(comparison.per_seed) > 1:
        axes.plot(
            comparison.per_seed,
            [row + 0.26] * len(comparison.per_seed),
            "|",
            color=colour,
            markersize=5,
            alpha=0.9,
        )
    axes.plot([of.mean], [row], "D", color=colour, markersize=4.6)
    axes.annotate(
        f"{signed(of.mean)}   {comparison.words}".replace(", not", "\nnot"),
        (1, row),
        (8, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        color=colour if comparison.verdict in _COLOURS else "#1d2329",
        fontsize=8,
        linespacing=1.05,
    )
