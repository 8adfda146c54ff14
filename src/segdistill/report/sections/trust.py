"""Can the scores be trusted? Agreement of areas, subgroups, calibration and robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import Any

from segdistill.report.charts import bland_altman, reliability_chart, robustness_chart
from segdistill.report.context import SHOWN, Context, Network
from segdistill.report.data import StageReport
from segdistill.report.sections import Values, register_report_section


@register_report_section("trust", "Agreement, subgroups, calibration", template="trust.html", order=80)
def trust(context: Context) -> Values:
    """What of the four was measured; left away where nothing was."""
    parts = {
        "agreement": _agreement(context),
        "subgroups": list(dict.fromkeys(part.kind for part, _ in context.by_subgroup if part.kind != "site")),
        "calibration": _calibration(context),
        "robustness": _robustness(context),
    }
    return parts if any(parts.values()) else None


def _first(context: Context, measured: list[Network]) -> tuple[list[Network], list[Network]]:
    """The networks that are shown first, all or, where there are many, a few; and the others."""
    chosen = [n for n in measured if len(measured) <= SHOWN or n in context.shown]
    return chosen, [n for n in measured if n not in chosen]


def _agreement(context: Context) -> Mapping[str, Any]:
    """Bias and limits of agreement of the area: a chart and a table of a few networks, a table of the others."""
    first, others = _first(context, [n for n in context.trainings if n.agreement is not None])
    charts = [bland_altman(n.agreement, n.name, n.colour) for n in context.shown if n.agreement]
    return {"charts": charts, "first": first, "others": others} if first else {}


def _calibration(context: Context) -> Mapping[str, Any]:
    """Whether predicted probabilities are the observed shares; of a variant the means over its trainings."""
    measured = [network for network in context.trainings if network.stage.calibration]
    if not measured:
        return {}
    found = [(v.name, [t for t in v.trainings if t.calibration]) for v in context.variants]
    return {
        "charts": [
            reliability_chart(n.stage.calibration, n.name) for n in context.shown if n.stage.calibration
        ],
        "distance": measured[0].stage.calibration.get("distance_px"),
        "rows": [(name, _mean_calibration(trainings)) for name, trainings in found if trainings],
        "each": [(n.name, _mean_calibration([n.stage])) for n in measured] if context.is_repeated else [],
    }


def _mean_calibration(trainings: Sequence[StageReport]) -> list[float | None]:
    """ECE and Brier score, of all pixels and near the boundary."""
    means = []
    for place, measure in product(("all", "boundary"), ("ece", "brier")):
        values = [t.calibration[place][measure] for t in trainings]
        known = [value for value in values if value is not None]
        means.append(fmean(known) if known else None)
    return means


def _robustness(context: Context) -> Mapping[str, Any]:
    """Dice on disturbed and undisturbed images: charts and a table of a few networks, a table of the others."""
    first, others = _first(context, [n for n in context.trainings if n.stage.robustness])
    if not first:
        return {}
    rows = {network.name: network.stage.robustness for network in first}
    undisturbed = {network.name: network.undisturbed for network in first if network.undisturbed}
    colours = [network.colour for network in first]
    kinds = list(dict.fromkeys(row.kind for found in rows.values() for row in found))
    return {
        "charts": [robustness_chart(rows, kind, undisturbed, colours) for kind in kinds],
        "networks": [first, others] if others else [first],
    }
