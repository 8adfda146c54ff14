"""The report's scores: tables per class and site, pooled ones, training curves and the distribution of Dice."""

from __future__ import annotations

from segdistill.metrics.cases import BOX_METRICS, LARGER_IS_BETTER, CaseResult
from segdistill.metrics.overlap import METRICS
from segdistill.report.charts import dice_distribution, training_curves
from segdistill.report.data import Report, StageReport
from segdistill.report.heads import (
    POOLED_HEADS,
    digits_of,
    head_of,
    is_distance,
    measured_extras,
    summary_metrics,
    value_of,
)
from segdistill.report.html import interval_cell, table, text
from segdistill.report.methods import cells_of
from segdistill.report.sections.cases import example_ids
from segdistill.report.sections.headline import stage_name, summary_of
from segdistill.stats.comparison import split_name
from segdistill.stats.summary import class_names, site_names, site_of
from segdistill.stats.text import number


def results_section(report: Report) -> str:
    """One table per class, all first: the metrics of every stage with intervals; then pooled, and the normal images."""
    if not report.stages:
        return "<p>none</p>"
    summaries = [summary_of(stage, report.seed) for stage in report.stages]
    classes = list(dict.fromkeys(name for summary in summaries for name in class_names(summary)))
    metrics = summary_metrics(scores for summary in summaries for scores in (summary.get("all", {}),))
    volumes = any(r.is_volume for stage in report.stages for r in stage.results)
    of = "volumes, each measured as a whole" if volumes else "images"
    parts = [
        f"<p>Means over {of} at their own size, of the foreground; small: the 95 % bootstrap interval "
        "of the mean, with groups (one patient, near-duplicates) drawn whole."
        f"{_explained(metrics)}</p>"
    ]
    for name in classes:
        rows = []
        for stage, summary in zip(report.stages, summaries, strict=True):
            scores = summary.get(name, {})
            count = scores.get("dice", {}).get("n", 0)
            cells = [
                interval_cell(scores.get(metric), digits_of(metric)) if count else "not measured"
                for metric in metrics
            ]
            if count or not any(other.get(name, {}).get("dice", {}).get("n") for other in summaries):
                rows.append([stage_name(report, stage), str(count), *cells])  # classifiers have no Dice
        title = "All cases with something to find" if name == "all" else f"Class: {text(name)}"
        parts.append(f"<h3>{title}</h3>" + table(["Network", "Cases", *(head_of(m) for m in metrics)], rows))
    parts.append(_pooled(report))
    normal = [
        (stage, s["normal"]) for stage, s in zip(report.stages, summaries, strict=True) if "normal" in s
    ]
    if normal:  # else the limits say so
        rows = []
        for stage, scores in normal:
            rate, area = scores["false_positive_rate"], scores["area"]
            cells = [str(rate["n"]), interval_cell(rate, 1, 100), interval_cell(area, 2, 100)]
            rows.append([stage_name(report, stage), *cells])
        parts.append("<h3>Normal images</h3>")
        parts.append(
            table(["Network", "Images", "With any false positive, %", "Area marked, % of the image"], rows)
        )
    return "\n".join(parts)


def _explained(metrics: list[str]) -> str:
    """What readers need to know of metrics that not all know."""
    extra = [metric for metric in metrics if metric not in METRICS]
    words = ""
    if any(is_distance(metric) for metric in extra):
        words += (
            " Distances are between the surfaces; a structure that was missed altogether counts with the image's "
            "diagonal. They are in pixels where the size of a voxel is not known."
        )
    if any(metric in BOX_METRICS for metric in extra):
        words += (
            " Boxes are the tightest around the largest marked region and around the reference; of a volume, the mean "
            "over the slices with a box in either."
        )
    if any(metric not in LARGER_IS_BETTER for metric in extra):
        words += " Of overlap errors, distances and RMSE smaller is better."
    return words


def _pooled(report: Report) -> str:
    measured = [stage for stage in report.stages if stage.pooled]
    if not measured:
        return ""
    rows = [
        [stage_name(report, stage), *(number(stage.pooled.get(name), 4) for name in POOLED_HEADS)]
        for stage in measured
    ]
    return (
        "<h3>Pooled over all pixels of the set</h3><p>One confusion table and one ranking of all pixels, as vessel "
        "papers report them; mIoU is the mean of background and foreground. Large images count more than small ones, "
        "and there is no interval.</p>" + table(["Network", *POOLED_HEADS.values()], rows)
    )


def sites_section(report: Report) -> str:
    """Every metric site by site, one table each with a row per stage; "" where there are fewer than two sites.

    >>> sites_section(Report("none"))
    ''
    """
    summaries = [summary_of(stage, report.seed) for stage in report.stages]
    sites = list(dict.fromkeys(site for summary in summaries for site in site_names(summary)))
    if not sites:
        return ""
    found = [[summary.get(site_of(site), {}) for site in sites] for summary in summaries]
    parts = [
        "<p>The same cases by hospital, device or source. A network that saw one site alone in training is best "
        "judged on the others.</p>"
    ]
    for metric in summary_metrics(scores for row in found for scores in row):
        rows = []
        for stage, summary, row in zip(report.stages, summaries, found, strict=True):
            cells = [interval_cell(scores.get(metric), digits_of(metric)) for scores in row]
            whole = interval_cell(summary["all"].get(metric), digits_of(metric))
            rows.append([stage_name(report, stage), *cells, whole])
        counts = [
            max(scores.get(metric, {}).get("n", 0) for scores in column)
            for column in zip(*found, strict=True)
        ]
        heads = [f"{text(site)}<small>n = {count}</small>" for site, count in zip(sites, counts, strict=True)]
        drawn = table(["Network", *heads, "All"], rows)
        if metric == "dice" or metric not in METRICS:
            parts.append(f"<h3>{head_of(metric)}</h3>{drawn}")
        else:
            parts.append(f"<details><summary>{head_of(metric)}</summary>{drawn}</details>")
    return "\n".join(parts)


def curves_section(report: Report) -> str:
    """Loss and its parts, validation Dice and learning rate, stage by stage; those of several seeds are folded away.

    "" for a model file, which holds none.
    """
    parts = []
    if report.settings_of == "model file":  # it holds none
        return ""
    for trainings in cells_of(report):
        drawn = "\n".join(_curves(report, stage) for stage in trainings)
        several = len(trainings) > 1
        summary = f"{text(split_name(trainings[0].name)[0])}: {len(trainings)} trainings"
        parts.append(f"<details><summary>{summary}</summary>{drawn}</details>" if several else drawn)
    return "\n".join(parts) or "<p>none</p>"


def _curves(report: Report, stage: StageReport) -> str:
    drawn = "".join(f"<div>{svg}</div>" for svg in training_curves(stage.curves, stage.name).values())
    charts = f'<div class="charts">{drawn}</div>' if drawn else "<p>not measured</p>"
    return f"<h3>{stage_name(report, stage)}</h3>\n{charts}"


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


def table_section(report: Report) -> str:
    """Every case in one table that sorts by a click on a head; a row with a stored example opens it."""
    stage = report.headline()
    scored = [s for s in report.stages if s.results]
    if stage is None or not scored:
        return "<p>not measured</p>"
    stage = stage if stage.results else scored[-1]
    blocks = example_ids(report)
    volumes = any(r.is_volume for r in stage.results)
    labels, sites = (any(getattr(r, name) for r in stage.results) for name in ("label", "site"))
    others = [*(m for m in METRICS if m != "dice"), *measured_extras(stage.results)]
    share = "Share, %" if volumes else "Area, %"
    heads = [("Case", "")] + [(name, "") for name, there in (("Class", labels), ("Site", sites)) if there]
    heads += [("Slices", "")] if volumes else []
    heads += [("Dice", s.name) for s in scored]
    heads += [(head_of(m), stage.name) for m in others]
    heads += [("Worst slice", "number"), ("Worst slice", "Dice")] if volumes else []
    heads += [(share, "reference"), (share, stage.name)]
    lookup = {s.name: {r.case: r for r in s.results} for s in scored}
    order = sorted(
        stage.results,
        key=lambda r: (r.normal, r.metrics["dice"] if not r.normal else -r.predicted_area, r.case),
    )
    rows = []
    for result in order:
        cells = [_words(result.label)] if labels else []
        cells += [_words(result.site)] if sites else []
        cells += [_cell(result.depth, 0)] if volumes else []
        cells += [_cell(_dice(lookup[s.name].get(result.case)), 3) for s in scored]
        cells += [_cell(None if result.normal else value_of(result, m), digits_of(m)) for m in others]
        if volumes:
            found = result.worst_slice >= 0
            cells += [_cell(result.worst_slice + 1 if found else None, 0)]
            cells += [_cell(result.worst_dice if found else None, 3)]
        cells += [_cell(100 * area, 2) for area in (result.reference_area, result.predicted_area)]
        opens = f' data-show="{blocks[result.case]}" tabindex="0"' if result.case in blocks else ""
        rows.append(f'<tr{opens}><th scope="row">{text(result.case)}</th>{"".join(cells)}</tr>')
    top = "".join(
        f'<th scope="col"{_left(head)}><button type="button">{text(head)}<small>{text(of)}</small></button></th>'
        for head, of in heads
    )
    hint = " Underlined cases open with their contours." if blocks else ""
    what = "volumes, each measured as a whole" if volumes else "cases"
    return (
        f"<p>{len(rows)} {what}, the worst of “{text(stage.name)}” first. A click on a head sorts.{hint}</p>"
        f'<div class="scroll"><table class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<dialog aria-label="case"><button type="button">Close</button><h3></h3>'
        '<div class="panels"></div></dialog>'
    )


def _left(head: str) -> str:
    return ' class="words"' if head in ("Class", "Site") else ""


def _words(value: str) -> str:
    return f'<td class="words">{text(value)}</td>'


def _dice(result: CaseResult | None) -> float | None:
    return None if result is None or result.normal else result.metrics["dice"]


def _cell(value: float | None, digits: int) -> str:
    exact = "" if value is None else f"{value:.6f}"
    return f'<td data-value="{exact}">{number(value, digits)}</td>'
