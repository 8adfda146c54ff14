"""Charts as SVG text: the same numbers give the same bytes, and matplotlib's global state stays as it was."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from segdistill.errors import MissingExtra
from segdistill.files import sha256_text, shown_lines
from segdistill.metrics.calibration import Reliability
from segdistill.metrics.classification import Roc
from segdistill.records import Disturbance, Interval, Rung
from segdistill.stats.agreement import Agreement
from segdistill.stats.text import number, signed
from segdistill.stats.verdict import HELPS, HURTS, Verdict

# Okabe and Ito's colours, told apart by colour-blind readers and in grey print.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#7a5195", "#444444")
_INK, _GREY, _LINE = "#1d2329", "#6b7680", "#b6bec6"
_OUTCOMES = {HELPS: "#1c9c55", HURTS: "#e0620d"}
_NO_CURVE = re.compile(
    r"((grad_weight|set_weight)/.*|"
    r"epoch|steps?|seconds|time|eta|images(_per_second)?|wait(_share)?|memory_mb|best)$"
)
_SHARES = {
    "Judged to be a reference": ("discriminators/real", "discriminators/predicted"),
    "Accuracy of discriminators": ("discriminators/accuracy",),
    "Predicted area": ("area",),
}
"""Panels of shares from 0 to 1, and how the names of their curves begin."""
_WEIGHTS = "Weight of each teacher"
_GRADIENTS = {
    "grad/": "Gradient as a multiple of the supervised one",
    "grad_cosine/": "Cosine with the supervised gradient",
}
"""How the names of curves begin, and their panels."""
_UNITS = {"gamma": "gamma", "speckle": "standard deviation of the noise", "blur": "blur, pixels"}
_UNDISTURBED = {"gamma": 1.0}
"""Strength of a disturbance that changes nothing; 0 of the others."""
_STYLE = Path(__file__).parent / "templates" / "charts.mplstyle"


def _draw(width: float, height: float, title: str, paint: Callable[[Any], None]) -> str:
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtra("drawing charts", "report") from error
    with matplotlib.rc_context(fname=_STYLE):
        figure = Figure(figsize=(width, height))
        canvas: Any = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        # savefig would draw everything once more to lay it out
        ConstrainedLayoutEngine().execute(figure)
        for patch in (figure.patch, axes.patch):
            patch.set(facecolor="none", edgecolor="none")
        buffer = io.StringIO()
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    return _tidy(buffer.getvalue(), title)


def _tidy(svg: str, title: str) -> str:
    """Only what a page needs: no prologue, no metadata, ids only where referred to and unique to this chart."""
    svg = shown_lines(svg)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    prefix = "c" + sha256_text(title + svg)[:8]
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)
    size = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    points = float(size[1]) if size else 300.0
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="max-width:{points * 4 / 3:.0f}px"', svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1).strip()


def _safe(text: str) -> str:
    """Keeps matplotlib from reading a name as mathematics, or hiding one that begins with an underscore."""
    return re.sub(r"^_", " _", text.replace("$", r"\$"))


def _head(axes: Any, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=9)
    if x:
        axes.set_xlabel(x)
    if y:
        axes.set_ylabel(y)


def _rows(axes: Any, labels: Sequence[str]) -> None:
    """One line of the chart per label, from top to bottom."""
    axes.set_yticks(range(len(labels)), labels, color=_INK)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(False, axis="y")


def _square(axes: Any) -> None:
    """Both axes from 0 to 1, with the diagonal."""
    axes.plot([0, 1], [0, 1], color=_LINE, linewidth=0.9)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")


def _dots(axes: Any, bins: Sequence[Sequence[float]], colour: str, label: str, width: float) -> None:
    """One line of a reliability diagram."""
    if bins:
        x, y, _ = zip(*bins, strict=True)
        axes.plot(x, y, "o-", color=colour, markersize=3.4, linewidth=width, label=label)


def _beside(axes: Any, words: str, y: float, **style: Any) -> None:
    """Words to the right of the chart, at a height of its axis."""
    style |= {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    axes.annotate(words, (1, y), linespacing=1.05, **style)


def _numbers(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of one column, without NaN and infinity."""
    points = []
    for position, row in enumerate(rows, 1):
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            epoch = row.get("epoch", position)
            points.append((float(epoch if isinstance(epoch, int | float) else position), float(value)))
    return [p[0] for p in points], [p[1] for p in points]


def curve_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of training rows by panel: "Loss", "Validation Dice", "Learning rate", ...; no empty panels.

    >>> curve_names([{"epoch": 1, "loss": 2.0, "kl": 0.5, "val_dice": 0.4, "lr": 1e-3}])
    {'Loss': ['loss', 'kl'], 'Validation Dice': ['val_dice'], 'Learning rate': ['lr']}
    """
    titles = ("Loss", "Validation Dice", "Learning rate", *_SHARES, _WEIGHTS, *_GRADIENTS.values())
    panels: dict[str, list[str]] = {title: [] for title in titles}
    for key in dict.fromkeys(key for row in rows for key in row):
        panel = _panel(key.lower())
        if panel and _numbers(rows, key)[1]:
            panels[panel].append(key)
    return {title: keys for title, keys in panels.items() if keys}


def _panel(name: str) -> str:
    """The panel of a column; "" for none."""
    if _NO_CURVE.match(name):
        return ""
    for title, starts in _SHARES.items():
        if name.startswith(starts):
            return title
    for start, title in _GRADIENTS.items():
        if name.startswith(start):
            return title
    if name.endswith("/weight"):
        return _WEIGHTS
    if name.startswith(("lr", "learning_rate")):
        return "Learning rate"
    if name.startswith("val") and "loss" not in name:
        return "Validation Dice" if "dice" in name else ""
    return "Loss"


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
            colour, marker = COLOURS[position % len(COLOURS)], "o" if len(x) == 1 else None
            axes.plot(x, y, dashes, color=colour, label=_safe(key), marker=marker, markersize=4)
            if title == "Validation Dice" and len(keys) == 1:
                _mark_best(axes, x, y, colour)
        _head(axes, title, "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if title == "Validation Dice" or title in _SHARES:
            axes.set_ylim(0, 1)
        elif title == _GRADIENTS["grad/"] and axes.dataLim.ymin > 0:
            axes.set_yscale("log")
        elif title == _GRADIENTS["grad_cosine/"]:
            axes.set_ylim(-1.05, 1.05)
        elif axes.dataLim.ymin >= 0:  # US-SEG's adversarial term is never above 0
            axes.set_ylim(bottom=0)
        if title == "Learning rate":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        if len(keys) > 1:
            axes.legend(loc="upper right" if title == "Loss" else "best")

    return _draw(3.5, 2.3, f"{title} of {stage}" if stage else title, paint)


def _mark_best(axes: Any, x: list[float], y: list[float], colour: str) -> None:
    """A dot and the value at the highest point: above it, where the chart has room."""
    top = int(np.argmax(y))
    axes.plot([x[top]], [y[top]], "o", color=colour, markersize=4)
    place = (0, 5 if y[top] < 0.9 else -12)
    axes.annotate(f"{y[top]:.3f}", (x[top], y[top]), place, textcoords="offset points", ha="center")


def case_distribution(
    values: Mapping[str, Sequence[float]],
    title: str,
    axis: str = "Dice",
    published: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """One line per stage that has values: every case as a dot, the box of quartiles, and the median.

    Args:
        values: stage -> the metric of each case.
        title: which cases, such as the class.
        axis: what the metric is.
        published: stage -> a mean that a paper prints: a diamond, and a white one for the mean of the cases.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> case_distribution({"student": [0.8, 0.9, 0.4]}, "benign")[:18]
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
        marks = [(published[stage], row) for row, stage in enumerate(shown) if stage in published]
        if marks:  # a mean stands beside a mean, not beside the median alone
            means = [(float(v.mean()), row) for row, v in enumerate(shown.values())]
            style: dict[str, Any] = {"color": _INK, "markersize": 5, "linestyle": "none", "marker": "D"}
            axes.plot(*zip(*marks, strict=True), label="mean in the paper", **style)
            axes.plot(*zip(*means, strict=True), label="our mean", **style | {"markerfacecolor": "white"})
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.12), borderpad=0, ncols=2)
        _rows(axes, [_safe(stage) for stage in shown])
        if max((v.max() for v in shown.values()), default=1) <= 1:
            axes.set_xlim(-0.02, 1.02)
        _head(axes, _safe(title), _safe(axis))

    return _draw(3.9, 0.85 + 0.42 * max(1, len(shown)), f"{axis} per case, {title}", paint)


def _box(axes: Any, values: Any, row: int, colour: str) -> None:
    """Quartiles, median and whiskers (to the last value within 1.5 interquartile ranges), horizontal."""
    from matplotlib.patches import Rectangle

    first, median, third = np.percentile(values, [25, 50, 75])
    inside = values[(values >= first - 1.5 * (third - first)) & (values <= third + 1.5 * (third - first))]
    box: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 1.2}
    axes.add_patch(Rectangle((first, row - 0.25), third - first, 0.5, **box))
    axes.plot([median, median], [row - 0.25, row + 0.25], color=colour, linewidth=2.4, solid_capstyle="butt")
    for start, end in ((first, inside.min(initial=first)), (third, inside.max(initial=third))):
        axes.plot([start, end], [row, row], color=colour, linewidth=1)


def grouped_bars(values: Mapping[str, Mapping[str, Interval | None]], title: str, axis: str) -> str:
    """A group of horizontal bars for each row, one bar, its interval and its number for each series that has a value.

    Args:
        values: row -> series -> value; all rows have the same series; rows without any value are not drawn.
        title: of the chart.
        axis: what the values are.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> grouped_bars({"ENet": {"paper": Interval(0.8, None, None, 0), "ours": None}}, "Fig. 2", "Dice")[:18]
    '<svg role="img" ar'
    """
    values = {
        row: found for row, found in values.items() if any(_mean(one) is not None for one in found.values())
    }
    known = {
        series: {row: found[series] for row, found in values.items() if _mean(found[series]) is not None}
        for series in dict.fromkeys(name for row in values.values() for name in row)
    }
    series = [name for name, rows in known.items() if rows]
    thick = 0.8 / max(1, len(series))
    places = {row: place for place, row in enumerate(values)}

    def paint(axes: Any) -> None:
        for k, name in enumerate(series):
            heights = [places[row] - 0.4 + (k + 0.5) * thick for row in known[name]]
            colour = COLOURS[list(known).index(name) % len(COLOURS)]
            scores = [score for score in known[name].values() if score is not None]
            means = [score.mean for score in scores]
            axes.barh(heights, means, thick * 0.9, color=colour, alpha=0.85, label=_safe(name))
            axes.errorbar(means, heights, xerr=_arms(scores), fmt="none", ecolor=_INK, elinewidth=0.9)
            for height, score in zip(heights, scores, strict=True):
                end = max(score.mean or 0.0, score.high or 0.0)
                style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 6.5}
                axes.annotate(f"{score.mean:.3f}", (end, height), (3, 0), **style)
        _rows(axes, [_safe(row) for row in values])
        axes.margins(x=0.2)
        _head(axes, _safe(title), _safe(axis))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return _draw(6.4, 0.9 + 0.2 * max(1, len(series)) * max(1, len(values)), title, paint)


def line_chart(
    values: Mapping[str, Mapping[str, Sequence[tuple[float, Interval]]]], title: str, x: str, axis: str
) -> str:
    """Means over a quantity, with a bar for each interval: a colour per line, whole for its last series, dashed before.

    Args:
        values: line -> series -> points (x, mean with its interval).
        title: of the chart.
        x: what the horizontal axis is.
        axis: what the values are.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> points = [(25, Interval(0.41, None, None, 0)), (50, Interval(0.42, 0.40, 0.44, 3))]
    >>> line_chart({"LA-Net": {"paper": points, "ours": []}}, "Fig. 9", "labels, %", "IoU")[:18]
    '<svg role="img" ar'
    """
    kinds = list(dict.fromkeys(name for found in values.values() for name in found))
    marks = {name: {"linestyle": "-" if name == kinds[-1] else "--", "marker": "o"} for name in kinds}

    def paint(axes: Any) -> None:
        for k, (line, found) in enumerate(values.items()):
            for name, points in (
                (name, sorted(points, key=lambda p: p[0])) for name, points in found.items()
            ):
                scores = [score for _, score in points]
                style: dict[str, Any] = marks[name] | {"color": COLOURS[k % len(COLOURS)], "linewidth": 1.3}
                if name != kinds[-1]:
                    style |= {"markerfacecolor": "white", "elinewidth": 0.8}
                label = _safe(f"{line}, {name}")
                if points:
                    at, means = [p[0] for p in points], [score.mean for score in scores]
                    axes.errorbar(
                        at, means, yerr=_arms(scores), markersize=4, capsize=2, label=label, **style
                    )
        axes.set_xticks(
            sorted({p[0] for found in values.values() for points in found.values() for p in points})
        )
        _head(axes, _safe(title), _safe(x), _safe(axis))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return _draw(6.4, 3.0, title, paint)


def _mean(score: Interval | None) -> float | None:
    return None if score is None else score.mean


def _arms(scores: Sequence[Interval]) -> list[list[float]]:
    """Lengths of the error bars to both sides; 0 where there is no interval."""
    means = [score.mean or 0.0 for score in scores]
    lows = [mean - (mean if s.low is None else s.low) for mean, s in zip(means, scores, strict=True)]
    highs = [(mean if s.high is None else s.high) - mean for mean, s in zip(means, scores, strict=True)]
    return [lows, highs]


def forest_plot(comparisons: Sequence[Verdict], title: str, headed: bool = True) -> str:
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
    >>> forest_plot([Verdict("kd", "baseline", "dice", found)], "baseline")[:18]
    '<svg role="img" ar'
    """
    rows = [c for c in comparisons if c.difference.mean is not None]
    metric = rows[0].metric if rows else "dice"

    def paint(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        _zero_and_margin(axes, rows)
        for row, comparison in enumerate(rows):
            _row(axes, row, comparison)
        several = len({c.baseline for c in rows}) > 1
        _rows(axes, [_label(c, several) for c in rows])
        better = "smaller is better" if rows and not rows[0].higher_is_better else "larger is better"
        x = f"difference in {_safe(rows[0].label) if rows else 'Dice'} ({better})"
        _head(axes, _safe(title) if headed else "", x)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))

    return _draw(7.2, 0.8 + 0.38 * max(1, len(rows)), f"{title}: differences in {metric}", paint)


def _label(comparison: Verdict, several: bool) -> str:
    seeds = comparison.seeds
    kind = "training" if comparison.folds > 1 else "seed"
    against = f"\nagainst {_safe(comparison.baseline)}" if several else ""
    return (
        f"{_safe(comparison.variant)}{_safe(comparison.place)} ({seeds} {kind}{'s' * (seeds != 1)}){against}"
    )


def _zero_and_margin(axes: Any, rows: Sequence[Verdict]) -> None:
    axes.axvline(0, color=_INK, linewidth=0.9)
    margin = rows[0].accepted if rows else None
    if margin is not None:
        worse = (-margin, 0) if rows[0].higher_is_better else (0, margin)
        axes.axvspan(*worse, color="#eef1f4", linewidth=0)


def _row(axes: Any, row: int, c: Verdict) -> None:
    of, colour = c.difference, _OUTCOMES.get(c.outcome, _GREY)
    if c.low is not None:
        axes.plot([c.low, c.high], [row, row], color=colour, linewidth=1)
        for end in (c.low, c.high):
            axes.plot([end, end], [row - 0.1, row + 0.1], color=colour, linewidth=1)
    if of.low is not None:
        thick: dict[str, Any] = {"linewidth": 3.6, "solid_capstyle": "butt", "alpha": 0.55}
        axes.plot([of.low, of.high], [row, row], color=colour, **thick)
    if len(c.per_seed) > 1:
        axes.plot(c.per_seed, [row + 0.26] * len(c.per_seed), "|", color=colour, markersize=5, alpha=0.9)
    axes.plot([of.mean], [row], "D", color=colour, markersize=4.6)
    lines = c.words.removesuffix(", with this teacher").replace(", ", "\n")
    words = f"{signed(of.mean)}   {lines}"
    _beside(axes, words, row, xytext=(8, 0), color=_OUTCOMES.get(c.outcome, _INK), fontsize=8)


def roc_chart(curves: Mapping[str, tuple[int, Roc]], positive: str) -> str:
    """ROC curves for telling one class from the rest.

    Args:
        curves: stage -> (its place in the report, its curve).
        positive: name of the class that is found.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        _square(axes)
        _head(axes, _safe(f"ROC, {positive}"), "false positive rate", "true positive rate")
        for name, (place, curve) in curves.items():
            label, colour = f"{_safe(name)}, {number(curve.area)}", COLOURS[place % len(COLOURS)]
            axes.plot(curve.false_positive, curve.true_positive, color=colour, linewidth=1.3, label=label)
        axes.legend(loc="lower right")

    return _draw(3.6, 3.4, f"ROC curves for {positive}", paint)


def class_reliability_chart(found: Mapping[str, tuple[int, Reliability]], what: str) -> str:
    """How often the class is as predicted, over the predicted probability, for each stage.

    Args:
        found: stage -> (its place in the report, its bins).
        what: what the probability is of.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        _square(axes)
        _head(axes, "Reliability", f"probability of {what}", "observed share")
        for name, (place, reliability) in found.items():
            label = f"{_safe(name)}, ECE {number(reliability.error)}"
            _dots(axes, reliability.to_dict()["bins"], COLOURS[place % len(COLOURS)], label, 1.1)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")

    return _draw(3.6, 3.4, f"Reliability diagram for {what}", paint)


def bland_altman(agreement: Agreement, title: str, colour: str = COLOURS[0]) -> str:
    """Difference over mean of predicted and reference area, a dot per case, with bias and limits of agreement.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        dots: dict[str, Any] = {"alpha": 0.5, "markersize": 3.4, "markeredgewidth": 0}
        axes.plot(agreement.means, agreement.differences, "o", color=colour, **dots)
        axes.axhline(0, color=_LINE, linewidth=0.9)
        lines = (
            ("+1.96 SD", agreement.high, "--"),
            ("bias", agreement.bias.mean, "-"),
            ("−1.96 SD", agreement.low, "--"),
        )
        known = [(words, value, style) for words, value, style in lines if value is not None]
        for _, value, style in known:
            axes.axhline(value, color=_INK, linewidth=1, linestyle=style)
        for words, value, _ in known:
            _beside(axes, f"{words}\n{signed(value, 2)}", value, xytext=(4, 0), fontsize=7.5)
        x = "mean of predicted and reference area, % of the image"
        _head(axes, _safe(title), x, "predicted − reference")
        ends = np.abs([*agreement.differences, agreement.low or 0, agreement.high or 0])
        reach = 1.12 * float(ends.max(initial=0.1))
        axes.set_ylim(-reach, reach)
        axes.set_xlim(left=0)

    return _draw(4.3, 2.7, f"Bland-Altman plot of the area, {title}", paint)


def reliability_chart(facts: Mapping[str, Any], title: str) -> str:
    """Share of foreground over the probability that was given, for all pixels and for those near the boundary.

    Args:
        facts: as Calibration.metrics gives them.
        title: of which network.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        _square(axes)
        places = {"all": "all pixels", "boundary": "near the boundary"}
        for (place, words), colour in zip(places.items(), COLOURS, strict=False):
            found = facts.get(place, {})
            _dots(axes, found.get("bins", []), colour, f"{words}, ECE {number(found.get('ece'))}", 1.3)
        _head(axes, _safe(title), "probability of foreground", "share of foreground")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper left")

    return _draw(3.3, 3.1, f"Reliability diagram, {title}", paint)


def robustness_chart(
    rows: Mapping[str, Sequence[Disturbance]],
    kind: str,
    undisturbed: Mapping[str, Interval],
    colours: Sequence[str] = COLOURS,
) -> str:
    """Mean Dice over the strength of one disturbance, one line per network, the undisturbed images included.

    Args:
        rows: network -> its Dice under each disturbance.
        kind: which disturbance.
        undisturbed: network -> Dice on the images as they are.
        colours: of the networks.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def paint(axes: Any) -> None:
        for position, (name, colour) in enumerate(zip(rows, colours, strict=False)):
            points = [(row.strength, row.score) for row in rows[name] if row.kind == kind]
            if name in undisturbed:
                points.append((_UNDISTURBED.get(kind, 0.0), undisturbed[name]))
            points = sorted((p for p in points if p[1].mean is not None), key=lambda p: p[0])
            if points:
                _band(axes, points, colour, _safe(name), 0.12 if position else 0.18)
        _head(axes, kind, _UNITS.get(kind, kind), "Dice")
        axes.set_ylim(0, 1)
        if len(rows) > 1:
            axes.legend(loc="lower left")

    return _draw(3.5, 2.5, f"Dice under {kind}", paint)


def _band(axes: Any, points: Sequence[tuple[float, Interval]], colour: str, label: str, alpha: float) -> None:
    """Means as a line, and their intervals as a band."""
    x, scores = [p[0] for p in points], [p[1] for p in points]
    axes.plot(x, [s.mean for s in scores], "o-", color=colour, markersize=3.4, linewidth=1.3, label=label)
    if all(s.low is not None for s in scores):
        lows, highs = [s.low for s in scores], [s.high for s in scores]
        axes.fill_between(x, lows, highs, color=colour, alpha=alpha, linewidth=0)


def ladder_chart(
    rungs: Sequence[Rung],
    axis: Literal["ms", "mb"],
    *,
    reference: str = "",
    margin: float | None = None,
    teacher: Interval | None = None,
    chosen: str = "",
    unit: str = "image",
) -> str:
    """Dice over milliseconds or megabytes: a line with a teacher and one without, their intervals, the choice marked.

    Args:
        rungs: those that have been measured; others are not drawn.
        axis: which cost, on a logarithmic axis.
        reference: the rung that all are compared with; the band below its Dice is the margin.
        margin: the accepted loss.
        teacher: its Dice, as a line across.
        chosen: the rung that is marked.
        unit: what the milliseconds are of.

    Raises:
        MissingExtra: matplotlib is not installed.

    >>> one = Rung("tiny", {}, 20_000, 1.1, 0.1, distilled=Interval(0.7, 0.6, 0.8, 90))
    >>> ladder_chart([one], "ms", chosen="tiny")[:18]
    '<svg role="img" ar'
    """

    def paint(axes: Any) -> None:
        base = next((rung.plain for rung in rungs if rung.name == reference), None)
        if base is not None and base.mean is not None and margin is not None:
            axes.axhspan(base.mean - margin, base.mean, color="#eef1f4", linewidth=0)
        if teacher is not None and teacher.mean is not None:
            axes.axhline(teacher.mean, color=_GREY, linewidth=1.1, linestyle="--", label="the teacher")
        for key, colour, label in (
            ("distilled", COLOURS[0], "with a teacher"),
            ("plain", COLOURS[1], "without"),
        ):
            _ladder_line(axes, [(getattr(rung, axis), getattr(rung, key)) for rung in rungs], colour, label)
        for rung in rungs:
            score = rung.distilled or rung.plain
            if score is not None and score.mean is not None:
                _name_rung(axes, rung, getattr(rung, axis), score, rung.name == chosen)
        axes.set_xscale("log")
        _plain_ticks(axes, [getattr(rung, axis) for rung in rungs])
        words = {"ms": f"milliseconds per {unit}, one thread", "mb": "model file, MB"}
        _head(axes, "", words[axis], "Dice")
        axes.legend(loc="lower right")

    return _draw(5.2, 3.2, f"Dice over {'milliseconds' if axis == 'ms' else 'megabytes'}", paint)


def _ladder_line(axes: Any, points: Sequence[tuple[float, Interval | None]], colour: str, label: str) -> None:
    """A line through means with a bar for each interval."""
    known = sorted(
        ((x, score) for x, score in points if score is not None and score.mean is not None),
        key=lambda point: point[0],
    )
    if not known:
        return
    axes.plot(
        [x for x, _ in known],
        [s.mean for _, s in known],
        "o-",
        color=colour,
        markersize=4,
        linewidth=1.3,
        label=label,
    )
    for x, score in known:
        if score.low is not None:
            axes.plot([x, x], [score.low, score.high], color=colour, linewidth=1, alpha=0.7)


def _name_rung(axes: Any, rung: Rung, x: float, score: Interval, chosen: bool) -> None:
    """The rung's name above its point; a ring around the chosen one."""
    if chosen:
        axes.plot(
            [x],
            [score.mean],
            "o",
            markersize=12,
            fillstyle="none",
            color=_OUTCOMES[HELPS],
            markeredgewidth=1.8,
        )
    top = score.mean if score.high is None else score.high
    weight = "bold" if chosen else "normal"
    axes.annotate(
        _safe(rung.name),
        (x, top),
        (0, 4),
        textcoords="offset points",
        ha="left",
        rotation=30,
        rotation_mode="anchor",
        fontsize=7,
        weight=weight,
        color=_INK if chosen else _GREY,
    )


def _plain_ticks(axes: Any, values: Sequence[float]) -> None:
    """The numbers 1, 2 and 5 of every decade, as they are written, and room for names at both ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xlim(0.7 * min(values), 2.2 * max(values))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
