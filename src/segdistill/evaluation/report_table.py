"""The report's table of every case; of volumes with their slices, and distances with their unit."""

from __future__ import annotations

from segdistill.evaluation.html import number, text
from segdistill.evaluation.metrics import METRICS
from segdistill.evaluation.report_cases import example_ids
from segdistill.evaluation.report_data import Report
from segdistill.evaluation.report_heads import digits_of, head_of, measured_extras, value_of
from segdistill.evaluation.results import CaseResult


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
