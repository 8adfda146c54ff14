"""Charts of how far a network can be trusted: agreement of areas, calibration, robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segdistill.evaluation.agreement import Agreement
from segdistill.evaluation.figures import COLOURS, _draw, _safe
from segdistill.evaluation.html import number, signed

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
