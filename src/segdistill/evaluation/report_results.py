"""The report's scores: tables per class, training curves and the distribution of Dice."""

from __future__ import annotations

from segdistill.evaluation.figures import dice_distribution, training_curves
from segdistill.evaluation.html import interval_cell, table, text
from segdistill.evaluation.metrics import METRICS
from segdistill.evaluation.report_data import Report
from segdistill.evaluation.report_headline import stage_name, summary_of

HEADS = {"dice": "Dice", "iou": "IoU", "precision": "Precision", "recall": "Recall", "accuracy": "Accuracy"}


def results_section(report: Report) -> str:
    """One table per class, all first: the metrics of every stage with intervals; then the normal images."""
    if not report.stages:
        return "<p>none</p>"
    summaries = [summary_of(stage, report.seed) for stage in report.stages]
    classes = list(dict.fromkeys(name for summary in summaries for name in summary if name != "normal"))
    parts = [
        "<p>Means over images at their own size, of the foreground; small: the 95 % bootstrap interval "
        "of the mean, with groups (one patient, near-duplicates) drawn whole.</p>"
    ]
    for name in classes:
        rows = []
        for stage, summary in zip(report.stages, summaries, strict=True):
            scores = summary.get(name, {})
            count = scores.get("dice", {}).get("n", 0)
            cells = [interval_cell(scores.get(metric)) if count else "not measured" for metric in METRICS]
            rows.append([stage_name(report, stage), str(count), *cells])
        title = "All cases with something to find" if name == "all" else f"Class: {text(name)}"
        parts.append(f"<h3>{title}</h3>" + table(["Network", "Cases", *(HEADS[m] for m in METRICS)], rows))
    parts.append("<h3>Normal images</h3>")
    normal = [
        (stage, s["normal"]) for stage, s in zip(report.stages, summaries, strict=True) if "normal" in s
    ]
    if not normal:
        parts.append("<p>none: false positives on images without a finding were not measured.</p>")
    else:
        rows = []
        for stage, scores in normal:
            rate, area = scores["false_positive_rate"], scores["area"]
            cells = [str(rate["n"]), interval_cell(rate, 1, 100), interval_cell(area, 2, 100)]
            rows.append([stage_name(report, stage), *cells])
        parts.append(
            table(["Network", "Images", "With any false positive, %", "Area marked, % of the image"], rows)
        )
    return "\n".join(parts)


def curves_section(report: Report) -> str:
    """Loss and its parts, validation Dice and learning rate, stage by stage."""
    parts = []
    for stage in report.stages:
        panels = training_curves(stage.curves, stage.name)
        drawn = "".join(f"<div>{svg}</div>" for svg in panels.values())
        parts.append(f"<h3>{stage_name(report, stage)}</h3>")
        parts.append(f'<div class="charts">{drawn}</div>' if drawn else "<p>not measured</p>")
    return "\n".join(parts) or "<p>none</p>"


def distribution_section(report: Report) -> str:
    """One chart per class: every case a dot, one line per stage."""
    lesions = {stage.name: [r for r in stage.results if not r.normal] for stage in report.stages}
    labels = sorted({r.label for rows in lesions.values() for r in rows if r.label})
    charts = []
    for label in ["", *(labels if len(labels) > 1 else [])]:
        values = {
            name: [r.metrics["dice"] for r in rows if not label or r.label == label]
            for name, rows in lesions.items()
        }
        if any(values.values()):
            charts.append(f"<div>{dice_distribution(values, label or 'all')}</div>")
    if not charts:
        return "<p>not measured</p>"
    note = "<p>Every dot is a case; the box holds the middle half, its thick line is the median.</p>"
    return f'{note}<div class="charts">{"".join(charts)}</div>'
