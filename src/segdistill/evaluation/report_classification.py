"""The report's section on classes of whole images: scores, ROC, reliability, confusion tables, Grad-CAM."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from segdistill.evaluation.class_figures import class_reliability_chart, roc_chart
from segdistill.evaluation.class_report import ClassReport, file_stem
from segdistill.evaluation.classification import SCORES, roc_curve
from segdistill.evaluation.classification_results import (
    LOCATION,
    reliability_of,
    summarise_classification,
    truth_of,
)
from segdistill.evaluation.comparison import split_name
from segdistill.evaluation.html import interval_cell, number, table, text
from segdistill.evaluation.report_data import Report, StageReport
from segdistill.evaluation.report_repetitions import repetitions_table

_HEADS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auc": "AUC",
    "iou": "IoU of the map",
    "dice": "Dice of the map",
    "box_iou": "IoU of the boxes",
    "box_dice": "Dice of the boxes",
    "cam_inside": "Grad-CAM in the lesion",
}


def classification_section(report: Report) -> str:
    """Tables and charts of the stages that classify; "" where none does.

    >>> classification_section(Report("none"))
    ''
    """
    found = [(k, stage, stage.classes) for k, stage in enumerate(report.stages) if stage.classes is not None]
    if not found:
        return ""
    summaries = [summarise_classification(one.rows, one.classes, report.seed) for _, _, one in found]
    parts = [
        "<p>What each network says of the whole image. Precision, recall, F1 and AUC are means over the "
        "classes; small: the 95 % bootstrap interval, with groups drawn whole. IoU and Dice of the map are at "
        "the size of the network's input; boxes are those of its largest region.</p>"
    ]
    headline = report.headline()
    by_name = {stage.name: summary for (_, stage, _), summary in zip(found, summaries, strict=True)}
    repetitions = repetitions_table(by_name, headline.name if headline else "")
    cells = [split_name(stage.name)[0] for _, stage, _ in found]
    once = [k for k, cell in enumerate(cells) if cells.count(cell) == 1 or not repetitions]
    parts += [repetitions, _tables([found[k] for k in once], [summaries[k] for k in once])]
    one_each = [found[cells.index(cell)] for cell in dict.fromkeys(cells)] if repetitions else found
    parts.append(f'<div class="charts">{"".join(f"<div>{svg}</div>" for svg in _charts(one_each))}</div>')
    if repetitions:
        each = f"<summary>Each of the {len(found)} trainings</summary>{_tables(found, summaries)}"
        parts.append(f"<details>{each}</details>")
    parts += [_activations(stage, one) for _, stage, one in one_each if one.pictures]
    return "\n".join(part for part in parts if part)


Found = list[tuple[int, StageReport, ClassReport]]


def _tables(found: Found, summaries: list[dict[str, Any]]) -> str:
    """Scores of the classes, of the places, and the confusion tables; "" of no stage."""
    if not found:
        return ""
    parts = [_scores(found, summaries, SCORES)]
    if any(name in summary for summary in summaries for name in LOCATION):
        parts.append(_scores(found, summaries, LOCATION))
    parts.append("<h3>Confusion tables</h3>")
    for (_, stage, one), summary in zip(found, summaries, strict=True):
        rows = [
            [f"is {text(name)}", *map(str, counts)]
            for name, counts in zip(one.classes, summary["confusion"], strict=True)
        ]
        parts.append(table([text(stage.name), *(f"said {text(name)}" for name in one.classes)], rows, "left"))
    return "\n".join(parts)


def _scores(found: Found, summaries: list[dict[str, Any]], names: Sequence[str]) -> str:
    shown = [name for name in names if any(name in summary for summary in summaries)]
    rows = [
        [text(stage.name), str(len(one.rows)), *(interval_cell(summary.get(name)) for name in shown)]
        for (_, stage, one), summary in zip(found, summaries, strict=True)
    ]
    return table(["Network", "Cases", *(_HEADS[name] for name in shown)], rows)


def _charts(found: Found) -> list[str]:
    positive = found[0][2].classes[0]
    alike = [(k, stage, one) for k, stage, one in found if positive in one.classes]
    curves = {}
    for k, stage, one in alike:
        column = list(one.classes).index(positive)
        scores = [row.probability[column] for row in one.rows]
        curve = roc_curve(truth_of(one.rows, one.classes) == column, scores)  # type: ignore[arg-type]
        if curve is not None:
            curves[stage.name] = (k, curve)
    two = all(len(one.classes) == 2 and one.classes[0] == positive for _, _, one in found)
    reliable = {stage.name: (k, reliability_of(one.rows, one.classes)) for k, stage, one in found}
    charts = [roc_chart(curves, positive)] if curves else []
    return [*charts, class_reliability_chart(reliable, positive if two else "the answer")]


def _activations(stage: StageReport, one: ClassReport) -> str:
    by_case = {file_stem(row.case): row for row in one.rows}
    figures = []
    for case, picture in one.pictures.items():
        row = by_case.get(case)
        if row is None:
            continue
        said = one.classes[max(range(len(one.classes)), key=row.probability.__getitem__)]
        words = f"is {row.label}, said {said} ({number(max(row.probability), 2)})"
        if "cam_inside" in row.location:
            words += f", {row.location['cam_inside']:.0%} of the map in the lesion"
        source = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
        figures.append(
            f'<figure><img src="{source}" alt="Grad-CAM of {text(row.case)}" loading="lazy">'
            f"<figcaption><b>{text(row.case)}</b><br>{text(words)}</figcaption></figure>"
        )
    return f'<h3>Grad-CAM: {text(stage.name)}</h3><div class="panels">{"".join(figures)}</div>'
