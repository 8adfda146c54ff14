"""The report's second look at the networks: agreement of areas, subgroups, calibration and robustness."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import Any

from segdistill.report.charts import bland_altman, reliability_chart, robustness_chart
from segdistill.report.data import Report, StageReport
from segdistill.report.html import interval_cell, table, text
from segdistill.report.methods import cells_of, is_repeated
from segdistill.report.sections.headline import colour_of
from segdistill.stats.agreement import area_agreement
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.comparison import split_name
from segdistill.stats.subgroups import subgroups
from segdistill.stats.text import number, signed

SHOWN, PICTURED = 4, 8


def shown_stages(report: Report, most: int = SHOWN) -> list[StageReport]:
    """The headline stage first, then its own baselines, its teachers and the rest; one of each cell, few enough to read.

    >>> shown_stages(Report("none"))
    []
    """
    first = report.headline()
    if first is None:
        return []
    size, taught = first.cost.get("parameters"), report.teachers_of(first)

    def rank(stage: StageReport) -> int:
        if stage is first:
            return 0
        same_student = stage.role == "baseline" and size is not None and stage.cost.get("parameters") == size
        return 1 if same_student else 2 if any(stage is teacher for teacher in taught) else 3

    cells: dict[str, StageReport] = {}
    for stage in sorted(report.stages, key=rank):
        if any(not r.normal for r in stage.results):
            cells.setdefault(split_name(stage.name)[0], stage)
    return list(cells.values())[:most]


def pictured_stages(report: Report) -> list[StageReport]:
    """The stages whose predictions are shown as pictures: all; where there are several seeds, one of each method, and
    not more than can be looked at.

    >>> pictured_stages(Report("none"))
    []
    """
    shown = shown_stages(report, PICTURED) if is_repeated(report) else report.stages
    return [stage for stage in report.stages if stage.results and any(stage is one for one in shown)]


def agreement_section(report: Report) -> str:
    """Bias and limits of agreement of the area: a table of all networks, a chart of a few."""
    measured = [s for s in report.stages if any(not r.normal for r in s.results)]
    if not measured:
        return ""
    shown = shown_stages(report)
    rows: dict[bool, list[list[str]]] = {True: [], False: []}
    for stage in measured:
        found = area_agreement(stage.results, report.seed)
        bias = found.bias
        span = "no interval" if bias.low is None else f"{signed(bias.low, 2)} to {signed(bias.high, 2)}"
        limits = "—" if found.low is None else f"{signed(found.low, 2)} to {signed(found.high, 2)}"
        if found.low_interval and found.high_interval:
            ends = (*found.low_interval, *found.high_interval)
            limits += "<small>ends {} to {}, {} to {}</small>".format(*(signed(end, 2) for end in ends))
        cells = [text(stage.name), f"{signed(bias.mean, 2)}<small>{span}</small>", limits, str(bias.n)]
        rows[any(stage is s for s in shown) or len(measured) <= 2 * SHOWN].append(cells)
    heads = ["Network", "Bias, %", "Limits of agreement, %", "Cases"]
    rest = (
        f"<details><summary>{len(rows[False])} more networks</summary>{table(heads, rows[False])}</details>"
    )
    charts = "".join(
        f"<div>{bland_altman(area_agreement(s.results, report.seed), s.name, colour_of(report, s))}</div>"
        for s in shown
    )
    return (
        "<p>Bland and Altman: predicted minus reference area of the cases with something to find, in percent of the "
        "image. 95 % of differences are expected between the limits of agreement; small: bootstrap intervals, groups "
        f'drawn whole.</p><div class="charts">{charts}</div>'
        + table(heads, rows[True])
        + (rest if rows[False] else "")
    )


def subgroups_section(report: Report) -> str:
    """Dice by class and size of the lesion, each with its number of cases and groups; sites have their own table."""
    stages = shown_stages(report)
    if not stages:
        return ""
    kinds: dict[str, list[list[str]]] = {}
    scored = [{(s.kind, s.name): s for s in subgroups(stage.results)} for stage in stages]
    for (kind, name), part in scored[0].items():
        if kind == "site":
            continue
        cells = [
            interval_cell(own[kind, name].score("dice", report.seed).to_dict())
            if (kind, name) in own
            else "—"
            for own in scored
        ]
        kinds.setdefault(kind, []).append(
            [
                text(name),
                f"{len(part.cases)}<small>{part.groups} group{'s' * (part.groups != 1)}</small>",
                *cells,
            ]
        )
    if not kinds:
        return ""
    heads = ["Cases", *(text(stage.name) for stage in stages)]
    parts = [
        "<p>Dice of the cases with something to find. Sizes are thirds by the share of the image that the reference "
        "covers. Small subgroups say little: look at n before the mean.</p>"
    ]
    parts += [table([kind.capitalize(), *heads], rows) for kind, rows in kinds.items()]
    return "\n".join(parts)


def calibration_section(report: Report) -> str:
    """Whether probabilities mean what they say; "" where they were not measured.

    >>> calibration_section(Report("none"))
    ''
    """
    measured = [s for s in report.stages if s.calibration]
    if not measured:
        return ""
    charts = [
        f"<div>{reliability_chart(stage.calibration, stage.name)}</div>"
        for stage in shown_stages(report)
        if stage.calibration
    ]
    distance = number(measured[0].calibration.get("distance_px"), 0)
    words = (
        "Of the pixels that got a probability of 0.7, seven in ten should be foreground. Far from any lesion that "
        f"is easy, so the pixels within {distance} pixels of the reference’s contour are shown apart. ECE: expected "
        "calibration error, 15 bins; Brier: mean squared difference. Smaller is better."
    )
    each = _calibrations([[stage] for stage in measured])
    if is_repeated(report):
        words += " Of a method with several seeds the mean."
        cells = [[stage for stage in cell if stage.calibration] for cell in cells_of(report)]
        folded = f"<details><summary>Each of the {len(measured)} trainings</summary>{each}</details>"
        each = _calibrations([cell for cell in cells if cell]) + folded
    return f'<p>{words}</p><div class="charts">{"".join(charts)}</div>{each}'


def _calibrations(cells: Sequence[Sequence[StageReport]]) -> str:
    """A row per cell: the means over its trainings."""
    rows = []
    for cell in cells:
        name = split_name(cell[0].name)[0] if len(cell) > 1 else cell[0].name
        row = [text(name)]
        for place, measure in product(("all", "boundary"), ("ece", "brier")):
            known = [s.calibration[place][measure] for s in cell if s.calibration[place][measure] is not None]
            row.append(number(fmean(known), 4) if known else "—")
        rows.append(row)
    return table(["Network", "ECE, all pixels", "Brier, all", "ECE, boundary", "Brier, boundary"], rows)


def robustness_section(report: Report) -> str:
    """Dice on disturbed images against clean ones; "" where it was not measured.

    >>> robustness_section(Report("none"))
    ''
    """
    measured = {s.name: s for s in report.stages if s.robustness}
    if not measured:
        return ""
    rows: dict[str, Any] = {name: list(stage.robustness) for name, stage in measured.items()}
    clean = {name: _clean(stage, report.seed) for name, stage in measured.items()}
    kinds = list(dict.fromkeys(row["kind"] for found in rows.values() for row in found))
    charts = "".join(f"<div>{robustness_chart(rows, kind, clean)}</div>" for kind in kinds)
    lines = []
    for name, found in rows.items():
        for row in found:
            change = row["difference"]
            span = (
                "no interval"
                if change["low"] is None
                else f"{signed(change['low'])} to {signed(change['high'])}"
            )
            cells = [
                interval_cell(row["score"]),
                f"{signed(change['mean'])}<small>{span}</small>",
                str(change["n"]),
            ]
            lines.append([text(f"{row['kind']} {row['strength']:g}"), text(name), *cells])
    return (
        "<p>The test images with something to find, changed before the network sees them: gamma (exponent on the grey "
        "levels), speckle (multiplicative noise of that standard deviation), blur (Gaussian of that many pixels at the "
        f'image’s own size). Differences are paired.</p><div class="charts">{charts}</div>'
        + table(["Disturbance", "Network", "Dice", "Against clean", "Cases"], lines)
    )


def _clean(stage: StageReport, seed: int) -> dict[str, Any]:
    rows = [r for r in stage.results if not r.normal]
    return bootstrap_mean([r.metrics["dice"] for r in rows], [r.group for r in rows], seed=seed).to_dict()


def trust_section(report: Report) -> str:
    """All of these, those that were measured; "" where nothing was."""
    parts = (
        ("Agreement of areas", agreement_section(report)),
        ("Subgroups", subgroups_section(report)),
        ("Calibration", calibration_section(report)),
        ("Robustness", robustness_section(report)),
    )
    return "\n".join(f"<h3>{title}</h3>\n{content}" for title, content in parts if content)
