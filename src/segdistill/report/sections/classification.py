"""The report's section on classes of whole images: scores, ROC, reliability, confusion tables, Grad-CAM."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from segdistill.report.charts import class_reliability_chart, roc_chart
from segdistill.report.data import Report, StageReport
from segdistill.report.html import interval_cell, table, text
from segdistill.stats.classification import (
    LOCATION,
    SCORES,
    ClassReport,
    file_stem,
    reliability_of,
    roc_curve,
    summarise_classification,
    truth_of,
)
from segdistill.stats.comparison import split_name
from segdistill.stats.repetitions import better_p, repeated
from segdistill.stats.text import number

SHOWN = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "auc": "AUC",
    "iou": "IoU of the map",
    "dice": "Dice of the map",
}
TESTED = ("auc", "iou")
"""What the paper tests: AUC for classes, IoU for places."""


def repetitions_table(summaries: Mapping[str, Mapping[str, Any]], shown: str) -> str:
    """Mean and 95 % t-interval over the repetitions of each method, and p of the one-sided test that the shown one is
    better; "" where nothing was repeated.

    Args:
        summaries: stage -> its classification summary.
        shown: the stage in the headline; its method is tested against each other one.

    >>> made = {f"net@{k}": {"auc": {"mean": value}} for k, value in enumerate((0.8, 0.9, 1.0))}
    >>> "0.900±0.248" in repetitions_table(made, "net@0")
    True
    >>> repetitions_table({"net": {"auc": {"mean": 0.8}}}, "net")
    ''
    """
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for stage, summary in summaries.items():
        method, at, seed = stage.rpartition("@")
        if at and seed.isdecimal():
            methods.setdefault(method, []).append(summary)
    methods = {name: found for name, found in methods.items() if len(found) > 1}
    if not methods:
        return ""
    ours = methods.get(shown.rpartition("@")[0])
    tested = [name for name in TESTED if ours and _values(ours, name)]
    rows = []
    for method, found in methods.items():
        cells = [text(method), str(len(found))]
        for name in SHOWN:
            values = _values(found, name)
            cells.append(str(repeated(values)) if values else "—")
        for name in tested:
            against = _values(found, name)
            p = None if found is ours or not against else better_p(_values(ours or [], name), against)
            cells.append(number(p, 3))
        rows.append(cells)
    heads = ["Variant", "Repetitions", *SHOWN.values(), *(f"p, {SHOWN[name]}" for name in tested)]
    words = (
        "<h3>Repetitions</h3><p>Mean and 95 % interval of Student's t over trainings with other seeds, on the same "
        "test cases: they tell how much training varies, not how much patients do. p is of the one-sided independent "
        "t-test that the method in the headline is not better.</p>"
    )
    return words + table(heads, rows)


def _values(summaries: list[Mapping[str, Any]], name: str) -> list[float]:
    """The metric in every repetition; empty where one lacks it."""
    values = [summary.get(name, {}).get("mean") for summary in summaries]
    return [] if any(value is None for value in values) else [float(value) for value in values]


_HEADS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "CachedTargets",
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
        targets = one.classes[max(range(len(one.classes)), key=row.probability.__getitem__)]
        words = f"is {row.label}, said {targets} ({number(max(row.probability), 2)})"
        if "cam_inside" in row.location:
            words += f", {row.location['cam_inside']:.0%} of the map in the lesion"
        source = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
        figures.append(
            f'<figure><img src="{source}" alt="Grad-CAM of {text(row.case)}" loading="lazy">'
            f"<figcaption><b>{text(row.case)}</b><br>{text(words)}</figcaption></figure>"
        )
    return f'<h3>Grad-CAM: {text(stage.name)}</h3><div class="panels">{"".join(figures)}</div>'
