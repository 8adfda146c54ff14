"""Charts of classifiers of whole images: ROC curves and a reliability diagram, every stage in its colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segdistill.evaluation.calibration import Reliability
from segdistill.evaluation.classification import Roc
from segdistill.evaluation.figures import COLOURS, _draw, _safe
from segdistill.evaluation.html import number


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
