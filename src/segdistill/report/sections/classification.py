"""Classification of whole images: scores, ROC, reliability, confusion tables, Grad-CAM."""

from __future__ import annotations

from typing import Any

from segdistill.metrics.classification import LOCATION, SCORES, file_stem
from segdistill.report.charts import class_reliability_chart, roc_chart
from segdistill.report.context import REPEATED, TESTED, Classes, Context, Network
from segdistill.report.panels import data_uri
from segdistill.report.sections import Values, register_report_section

Found = list[tuple[Network, Classes]]


@register_report_section("classes", "Classes of images", template="classification.html", order=30)
def classification(context: Context) -> Values:
    """Tables and charts of the networks that classify."""
    found = [(network, network.classes) for network in context.trainings if network.classes is not None]
    if not found:
        return None
    repeated = {row.name for row in context.repetitions}
    members = [stage for v in context.variants if v.name in repeated for stage in v.trainings]
    shown = [(n, own) for n, own in found if not repeated or n in context.one_each]
    measured = {name for _, own in found for name in own.scores.scores}
    parts = [[name for name in names if name in measured] for names in (SCORES, LOCATION)]
    return {
        "heads": {metric.name: metric.label for metric in (*SCORES.values(), *LOCATION.values())},
        "repeated": REPEATED,
        "tested": [name for name in TESTED if any(name in row.p for row in context.repetitions)],
        "once": [(n, own) for n, own in found if not any(n.stage is stage for stage in members)],
        "found": found,
        "parts": [names for names in parts if names],
        "charts": _charts(context, shown),
        "activations": [(n.name, _activations(own)) for n, own in shown if own.report.pictures],
    }


def _charts(context: Context, found: Found) -> list[str]:
    places = {network.name: place for place, network in enumerate(context.trainings)}
    positive = found[0][1].scores.classes[0]
    two = all(len(own.scores.classes) == 2 and own.scores.classes[0] == positive for _, own in found)
    curves = {n.name: (places[n.name], own.roc) for n, own in found if own.roc is not None}
    reliable = {n.name: (places[n.name], own.reliability) for n, own in found}
    charts = [roc_chart(curves, positive)] if curves else []
    return [*charts, class_reliability_chart(reliable, positive if two else "the predicted class")]


def _activations(own: Classes) -> list[dict[str, Any]]:
    by_case = {file_stem(row.case): row for row in own.report.rows}
    found = []
    for case, picture in own.report.pictures.items():
        if row := by_case.get(case):
            predicted = own.report.classes[row.probability.index(max(row.probability))]
            found.append({"row": row, "predicted": predicted, "picture": data_uri(picture)})
    return found
