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
        "subgroups": list(dict.fromkeys(part.kind for part in context.by_subgroup if part.kind != "site")),
        "calibration": _calibration(context),
        "robustness": _robustness(context.trainings),
    }
    return parts if any(parts.values()) else None


def _agreement(context: Context) -> Mapping[str, Any]:
    """Bias and limits of agreement of the area: tables of all networks, a chart of a few."""
    measured = [network for network in context.trainings if network.agreement is not None]
    if not measured:
        return {}
    few = len(measured) <= 2 * SHOWN
    return {
        "charts": [bland_altman(n.agreement, n.name, n.colour) for n in context.shown if n.agreement],
        "first": [network for network in measured if few or network in context.shown],
        "others": [network for network in measured if not few and network not in context.shown],
    }


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


def _robustness(networks: Sequence[Network]) -> Mapping[str, Any]:
    """Dice on disturbed images against undisturbed ones."""
    rows = {network.name: network.stage.robustness for network in networks if network.stage.robustness}
    undisturbed = {network.name: network.undisturbed for network in networks if network.undisturbed}
    kinds = dict.fromkeys(row.kind for found in rows.values() for row in found)
    return (
        {"charts": [robustness_chart(rows, kind, undisturbed) for kind in kinds], "rows": rows}
        if rows
        else {}
    )
