"""The report's cases: best, median and worst with contours, and the table of all of them."""

from __future__ import annotations

from segdistill.evaluation.html import number, text
from segdistill.evaluation.metrics import METRICS
from segdistill.evaluation.panels import PREDICTION, REFERENCE, draw_case, png_data_uri
from segdistill.evaluation.report_data import Report, choose_examples
from segdistill.evaluation.report_headline import stage_name
from segdistill.evaluation.report_results import HEADS
from segdistill.evaluation.results import CaseResult


def example_ids(report: Report) -> dict[str, str]:
    """Case id -> HTML id of the block that shows it, for every case of which some stage stored an example.

    >>> example_ids(Report("none"))
    {}
    """
    cases = dict.fromkeys(example.case for stage in report.stages for example in stage.examples)
    return {case: f"case-{position}" for position, case in enumerate(cases)}


def _result(report: Report, stage: str, case: str) -> CaseResult | None:
    return next((r for s in report.stages if s.name == stage for r in s.results if r.case == case), None)


def _score(result: CaseResult | None) -> str:
    if result is None:
        return ""
    if result.normal:
        return (
            f"{number(100 * result.predicted_area, 1)} % marked"
            if result.predicted_area
            else "nothing marked"
        )
    return f"Dice {number(result.metrics['dice'])}" + ("" if result.predicted_area else ", nothing marked")


def _block(report: Report, case: str, block: str) -> str:
    figures, label = [], ""
    for stage in report.stages:
        for example in stage.examples:
            if example.case != case:
                continue
            result = _result(report, stage.name, case)
            label = result.label if result else label
            source = png_data_uri(draw_case(example.pixels, example.reference, example.prediction))
            words = f"{case}: reference and prediction of {stage.name}"
            figures.append(
                f'<figure><img src="{source}" alt="{text(words)}">'
                f"<figcaption><b>{stage_name(report, stage)}</b><br>{text(_score(result))}"
                "</figcaption></figure>"
            )
    title = text(f"{case} · {label}" if label else case)
    panels = f'<div class="panels" id="{block}" data-title="{title}">{"".join(figures)}</div>'
    width = f"min(100%,{17 * len(figures) - 1}rem)"
    return f'<div style="width:{width}"><h4 class="soft">{title}</h4>{panels}</div>'


def examples_section(report: Report) -> str:
    """Worst, median and best cases by the headline stage's Dice, the same case in every stage side by
    side.
    """
    blocks = example_ids(report)
    if not blocks:
        return "<p>none: no example was stored.</p>"
    stage = report.headline()
    chosen = choose_examples(stage.results if stage else [])
    key = (
        f'<p><span class="key" style="background:rgb{REFERENCE}"></span>reference '
        f'<span class="key" style="background:rgb{PREDICTION};margin-left:1em"></span>prediction'
        f"{f'. Ordered by the Dice of “{text(stage.name)}”.' if stage else ''}</p>"
    )
    parts, left = [key], dict(blocks)
    for kind in ("worst", "median", "best"):
        shown = [_block(report, case, left.pop(case)) for case in chosen[kind] if case in left]
        if shown:
            parts.append(f'<h3>{kind.capitalize()}</h3><div class="cases">{"".join(shown)}</div>')
    if left:
        rest = "".join(_block(report, case, block) for case, block in left.items())
        summary = f"<summary>Other stored cases ({len(left)})</summary>"
        parts.append(f'<details>{summary}<div class="cases">{rest}</div></details>')
    return "\n".join(parts)


def table_section(report: Report) -> str:
    """Every case in one table that sorts by a click on a head; a row with a stored example opens it."""
    stage = report.headline()
    scored = [s for s in report.stages if s.results]
    if stage is None or not scored:
        return "<p>not measured</p>"
    stage = stage if stage.results else scored[-1]
    blocks = example_ids(report)
    others = [m for m in METRICS if m != "dice"]
    heads = [("Case", ""), ("Class", ""), *(("Dice", s.name) for s in scored)]
    heads += [*((HEADS[m], stage.name) for m in others), ("Area, %", "reference"), ("Area, %", stage.name)]
    lookup = {s.name: {r.case: r for r in s.results} for s in scored}
    order = sorted(
        stage.results,
        key=lambda r: (r.normal, r.metrics["dice"] if not r.normal else -r.predicted_area, r.case),
    )
    rows = []
    for result in order:
        own = None if result.normal else result
        values = [_value(lookup[s.name].get(result.case), "dice") for s in scored]
        values += [own.metrics[m] if own else None for m in others]
        cells = [_cell(v, 3) for v in values]
        cells += [_cell(100 * area, 2) for area in (result.reference_area, result.predicted_area)]
        opens = f' data-show="{blocks[result.case]}" tabindex="0"' if result.case in blocks else ""
        first = f'<th scope="row">{text(result.case)}</th><td>{text(result.label)}</td>'
        rows.append(f"<tr{opens}>{first}{''.join(cells)}</tr>")
    top = "".join(
        f'<th scope="col"><button type="button">{text(head)}<small>{text(of)}</small></button></th>'
        for head, of in heads
    )
    hint = " Underlined cases open with their contours." if blocks else ""
    return (
        f"<p>{len(rows)} cases, the worst of “{text(stage.name)}” first. A click on a head sorts.{hint}</p>"
        f'<div class="scroll"><table class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<dialog aria-label="case"><button type="button">Close</button><h3></h3>'
        '<div class="panels"></div></dialog>'
    )


def _value(result: CaseResult | None, metric: str) -> float | None:
    return None if result is None or result.normal else result.metrics[metric]


def _cell(value: float | None, digits: int) -> str:
    exact = "" if value is None else f"{value:.6f}"
    return f'<td data-value="{exact}">{number(value, digits)}</td>'
