"""Charts as SVG text: the same numbers give the same bytes, and no global state of matplotlib is left
changed.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segdistill.errors import MissingExtra
from segdistill.files import sha256_text
from segdistill.metrics.calibration import Reliability
from segdistill.stats.agreement import Agreement
from segdistill.stats.classification import Roc
from segdistill.stats.text import number, signed
from segdistill.stats.verdict import HELPS, HURTS, Comparison

# Okabe and Ito's colours, told apart by colour-blind readers and in grey print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#7a5195", "#444444")
BOOKKEEPING = frozenset(
    (
        "epoch",
        "step",
        "steps",
        "seconds",
        "time",
        "eta",
        "images",
        "images_per_second",
        "wait",
        "wait_share",
        "memory_mb",
        "best",
    )
)
_SHARES = {
    "Judged to be a reference": ("discriminators/real", "discriminators/predicted"),
    "Accuracy of discriminators": ("discriminators/accuracy",),
    "Predicted area": ("area",),
}
"""Panels of shares from 0 to 1, and how the names of their curves begin."""
_WEIGHTS = "Weight of each teacher"
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 9,
    "text.color": "#1d2329",
    "axes.labelcolor": "#56606b",
    "axes.edgecolor": "#b6bec6",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#56606b",
    "ytick.color": "#56606b",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": True,
    "legend.framealpha": 0.75,
    "legend.edgecolor": "none",
    "legend.labelspacing": 0.25,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
}


def _draw(width: float, height: float, title: str, paint: Callable[[Any], None]) -> str:
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("drawing charts", "report") from error
    style: Any = {**_STYLE, "svg.hashsalt": "segdistill"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _tidy(buffer.getvalue(), title)


def _tidy(svg: str, title: str) -> str:
    """Leaves what a page needs: no prologue, no metadata, ids only where referred to and unique to this
    chart.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    prefix = "c" + sha256_text(title + svg)[:8]
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    size = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    points = float(size[1]) if size else 300.0
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="max-width:{points * 4 / 3:.0f}px"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and finite values of one key; rows without it are left out."""
    points = []
    for position, row in enumerate(rows, 1):
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            epoch = row.get("epoch", position)
            points.append((float(epoch if isinstance(epoch, int | float) else position), float(value)))
    return [p[0] for p in points], [p[1] for p in points]


def curve_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Sorts the keys of training rows into panels: "Loss", "Validation Dice", "Learning rate"; empty
    panels are left out.

    >>> curve_names([{"epoch": 1, "loss": 2.0, "kl": 0.5, "val_dice": 0.4, "lr": 1e-3}])
    {'Loss': ['loss', 'kl'], 'Validation Dice': ['val_dice'], 'Learning rate': ['lr']}
    """
    titles = ("Loss", "Validation Dice", "Learning rate", *_SHARES, _WEIGHTS)
    panels: dict[str, list[str]] = {title: [] for title in titles}
    for key in dict.fromkeys(key for row in rows for key in row):
        low = key.lower()
        if low in BOOKKEEPING or not _numbers(rows, key)[1]:
            continue
        share = next((name for name, starts in _SHARES.items() if low.startswith(starts)), None)
        if share is not None:
            panels[share].append(key)
        elif low.endswith("/weight"):
            panels[_WEIGHTS].append(key)
        elif low.startswith(("lr", "learning_rate")):
            panels["Learning rate"].append(key)
        elif low.startswith("val") and "dice" in low and "loss" not in low:
            panels["Validation Dice"].append(key)
        elif not low.startswith("val") or "loss" in low:
            panels["Loss"].append(key)
    return {title: keys for title, keys in panels.items() if keys}


def training_curves(rows: Sequence[Mapping[str, Any]], stage: str = "") -> dict[str, str]:
    """One SVG per panel of curve_names for the epochs of one stage; {} where there is nothing to draw.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> list(training_curves([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]))
    ['Loss']
    """
    return {title: _curve(rows, keys, title, stage) for title, keys in curve_names(rows).items()}


def _curve(rows: Sequence[Mapping[str, Any]], keys: list[str], title: str, stage: str) -> str:
    def paint(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        for position, key in enumerate(keys):
            x, y = _numbers(rows, key)
            dashes = "--" if key.lower().startswith("val") and title == "Loss" else "-"
            colour = COLOURS[position % len(COLOURS)]
            axes.plot(
                x,
                y,
                dashes,
                color=colour,
                label=_safe(key),
                marker="o" if len(x) == 1 else None,
                markersize=4,
            )
            if title == "Validation Dice" and len(keys) == 1:
                top = int(np.argmax(y))
                axes.plot([x[top]], [y[top]], "o", color=colour, markersize=4)
                axes.annotate(
                    f"{y[top]:.3f}",
                    (x[top], y[top]),
                    (0, 5 if y[top] < 0.9 else -12),  # above the highest point, where the chart has room
                    textcoords="offset points",
                    ha="center",
                )
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if title == "Validation Dice" or title in _SHARES:
            axes.set_ylim(0, 1)
        elif axes.dataLim.ymin >= 0:  # the printed adversarial term is never above 0
            axes.set_ylim(bottom=0)
        if title == "Learning rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        if len(keys) > 1:
            axes.legend(loc="upper right" if title == "Loss" else "best")

    return _draw(3.5, 2.3, f"{title} of {stage}" if stage else title, paint)


def _safe(text: str) -> str:
    """Keeps matplotlib from reading a name as mathematics, or hiding one that begins with an underscore."""
    return re.sub(r"^_", " _", text.replace("$", r"\$"))


def dice_distribution(values: Mapping[str, Sequence[float]], title: str, metric: str = "Dice") -> str:
    """One line per stage: every case as a dot, the box of quartiles and median; stages without values are
    left out.

    Args:
        values: stage -> one value in [0, 1] per case.
        title: which cases, such as the class.
        metric: name of what is shown.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> dice_distribution({"student": [0.8, 0.9, 0.4]}, "benign")[:18]
    '<svg role="img" ar'
    """
    shown = {stage: np.asarray(v, dtype=np.float64) for stage, v in values.items() if len(v)}

    def paint(axes: Any) -> None:
        rng = np.random.default_rng(0)
        for row, (position, stage) in enumerate((k, s) for k, s in enumerate(values) if s in shown):
            v, colour = shown[stage], COLOURS[position % len(COLOURS)]
            jitter = rng.uniform(-0.3, 0.3, len(v)) if len(v) > 1 else np.zeros(1)
            axes.plot(v, row + jitter, "o", color=colour, alpha=0.45, markersize=3, markeredgewidth=0)
            _box(axes, v, row, colour)
        axes.set_yticks(range(len(shown)), [_safe(stage) for stage in shown], color="#1d2329")
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(False, axis="y")
        axes.set_title(_safe(title), loc="left", fontsize=9)
        axes.set_xlabel(metric)

    return _draw(3.9, 0.85 + 0.42 * max(1, len(shown)), f"{metric} per case, {title}", paint)


def _box(axes: Any, values: Any, row: int, colour: str) -> None:
    """Quartiles, median and whiskers (to the last value within 1.5 interquartile ranges), lying on its
    side.
    """
    from matplotlib.patches import Rectangle

    first, median, third = np.percentile(values, [25, 50, 75])
    inside = values[(values >= first - 1.5 * (third - first)) & (values <= third + 1.5 * (third - first))]
    axes.add_patch(
        Rectangle((first, row - 0.25), third - first, 0.5, fill=False, edgecolor=colour, linewidth=1.2)
    )
    axes.plot([median, median], [row - 0.25, row + 0.25], color=colour, linewidth=2.4, solid_capstyle="butt")
    for start, end in ((first, inside.min(initial=first)), (third, inside.max(initial=third))):
        axes.plot([start, end], [row, row], color=colour, linewidth=1)


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

    >>> from segdistill.stats.bootstrap import PairedDifference
    >>> found = PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.001)
    >>> forest_plot([Comparison("kd", "baseline", "dice", found)], "baseline")[:18]
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


def _square(axes: Any, title: str) -> None:
    axes.plot([0, 1], [0, 1], color="#b6bec6", linewidth=0.9)
    axes.set_title(_safe(title), loc="left", fontsize=9)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")


def roc_chart(curves: Mapping[str, tuple[int, Roc]], positive: str) -> str:
    """ROC curves for telling one class from the rest.

    Args:
        curves: stage -> (its place in the report, its curve).
        positive: name of the class that is found.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        _square(axes, f"ROC, {positive}")
        for name, (place, curve) in curves.items():
            label = f"{_safe(name)}, {number(curve.area)}"
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(curve.false_positive, curve.true_positive, color=colour, linewidth=1.3, label=label)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right")

    return _draw(3.6, 3.4, f"ROC curves for {positive}", paint)


def class_reliability_chart(found: Mapping[str, tuple[int, Reliability]], what: str) -> str:
    """How often what was stated with a probability is so, for each stage.

    Args:
        found: stage -> (its place in the report, its bins).
        what: what the probability is of.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        _square(axes, "Reliability")
        for name, (place, reliability) in found.items():
            bins = reliability.to_dict()["bins"]
            if bins:
                stated, seen, _ = zip(*bins, strict=True)
                label = f"{_safe(name)}, ECE {number(reliability.error)}"
                colour = COLOURS[place % len(COLOURS)]
                axes.plot(stated, seen, "o-", color=colour, markersize=3.4, linewidth=1.1, label=label)
        axes.set_xlabel(f"probability of {what}")
        axes.set_ylabel("share that is so")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")

    return _draw(3.6, 3.4, f"Reliability diagram for {what}", paint)


_INK = "#1d2329"
_PLACES = {"all": "all pixels", "boundary": "near the boundary"}


def bland_altman(agreement: Agreement, title: str, colour: str = COLOURS[0]) -> str:
    """Difference over mean of predicted and reference area, a dot per case, with bias and limits of agreement.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        axes.plot(
            agreement.means,
            agreement.differences,
            "o",
            color=colour,
            alpha=0.5,
            markersize=3.4,
            markeredgewidth=0,
        )
        axes.axhline(0, color="#b6bec6", linewidth=0.9)
        lines = ((agreement.high, "--"), (agreement.bias.mean, "-"), (agreement.low, "--"))
        for value, style in lines:
            if value is not None:
                axes.axhline(value, color=_INK, linewidth=1, linestyle=style)
        _name_lines(axes, agreement)
        axes.set_title(_safe(title), loc="left", fontsize=9)
        axes.set_xlabel("mean of predicted and reference area, % of the image")
        axes.set_ylabel("predicted − reference")
        reach = float(
            np.abs([*agreement.differences, agreement.low or 0, agreement.high or 0]).max(initial=0.1)
        )
        axes.set_ylim(-1.12 * reach, 1.12 * reach)
        axes.set_xlim(left=0)

    return _draw(4.3, 2.7, f"Bland-Altman plot of the area, {title}", paint)


def _name_lines(axes: Any, agreement: Agreement) -> None:
    named = (("+1.96 SD", agreement.high), ("bias", agreement.bias.mean), ("-1.96 SD", agreement.low))
    for words, value in named:
        if value is not None:
            axes.annotate(
                f"{words.replace('-', '−')}\n{signed(value, 2)}",
                (1, value),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                linespacing=1.05,
            )


def reliability_chart(facts: Mapping[str, Any], title: str) -> str:
    """Share of foreground over the probability that was given, for all pixels and for those near the boundary.

    Args:
        facts: as Calibration.metrics gives them.
        title: of which network.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="#b6bec6", linewidth=0.9)
        for (place, words), colour in zip(_PLACES.items(), COLOURS, strict=False):
            bins = facts.get(place, {}).get("bins", [])
            if bins:
                x, y, _ = zip(*bins, strict=True)
                label = f"{words}, ECE {number(facts[place]['ece'])}"
                axes.plot(x, y, "o-", color=colour, markersize=3.4, linewidth=1.3, label=label)
        axes.set_title(_safe(title), loc="left", fontsize=9)
        axes.set_xlabel("probability of foreground")
        axes.set_ylabel("share of foreground")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")

    return _draw(3.3, 3.1, f"Reliability diagram, {title}", paint)


_UNITS = {"gamma": "gamma", "speckle": "standard deviation of the noise", "blur": "blur, pixels"}
_CLEAN = {"gamma": 1.0}


def robustness_chart(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, clean: Mapping[str, Mapping[str, Any]]
) -> str:
    """Mean score over the strength of one disturbance, one line per network, the clean images included.

    Args:
        rows: network -> results as Disturbed.to_dict gives them.
        kind: which disturbance.
        clean: network -> interval of the score on clean images, as Interval.to_dict gives it.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        for position, (name, colour) in enumerate(zip(rows, COLOURS, strict=False)):
            points = [(row["strength"], row["score"]) for row in rows[name] if row["kind"] == kind]
            if clean.get(name, {}).get("mean") is not None:
                points.append((_CLEAN.get(kind, 0.0), clean[name]))
            points = sorted((p for p in points if p[1]["mean"] is not None), key=lambda p: float(p[0]))
            if not points:
                continue
            x, means = [p[0] for p in points], [p[1]["mean"] for p in points]
            axes.plot(x, means, "o-", color=colour, markersize=3.4, linewidth=1.3, label=_safe(name))
            if all(p[1]["low"] is not None for p in points):
                lows, highs = [p[1]["low"] for p in points], [p[1]["high"] for p in points]
                axes.fill_between(x, lows, highs, color=colour, alpha=0.12 if position else 0.18, linewidth=0)
        axes.set_title(kind, loc="left", fontsize=9)
        axes.set_xlabel(_UNITS.get(kind, kind))
        axes.set_ylabel("Dice")
        axes.set_ylim(0, 1)
        if len(rows) > 1:
            axes.legend(loc="lower left")

    return _draw(3.5, 2.5, f"Dice under {kind}", paint)
