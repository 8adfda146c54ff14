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

        for number, key in enumerate(keys):
            x, y = _numbers(rows, key)
            dashes = "--" if key.lower().startswith("val") and title == "Loss" else "-"
            colour = COLOURS[number % len(COLOURS)]
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
        for row, (number, stage) in enumerate((k, s) for k, s in enumerate(values) if s in shown):
            v, colour = shown[stage], COLOURS[number % len(COLOURS)]
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
