"""The report's pictures: best, median and worst cases and the worst slices of volumes, with contours."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.metrics.cases import CaseResult
from segdistill.metrics.overlap import dice
from segdistill.report.data import Report
from segdistill.report.examples import Example, choose_examples
from segdistill.report.html import text
from segdistill.report.methods import is_repeated
from segdistill.report.panels import PREDICTION, REFERENCE, are_thin, choose_window, draw_case, png_data_uri
from segdistill.report.sections.headline import stage_name
from segdistill.stats.text import number

_LARGE = 420  # longer side in pixels where structures are thin

Panels = list[tuple[str, Example]]  # name of the stage, and what it made of the image


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
    of = " of the volume" if result.is_volume else ""
    return f"Dice{of} {number(result.metrics['dice'])}" + (
        "" if result.predicted_area else ", nothing marked"
    )


def _slice_score(example: Example) -> str:
    if not example.reference.any():
        return "marked, where there is nothing" if example.prediction.any() else "nothing marked, rightly"
    missed = "" if example.prediction.any() else ", nothing marked"
    return f"Dice of the slice {number(dice(example.prediction, example.reference))}{missed}"


def _of_case(report: Report, case: str, field: str) -> Panels:
    """What every stage made of a case; `field` is where StageReport keeps it."""
    return [(s.name, e) for s in report.stages for e in getattr(s, field) if e.case == case]


def _figure(picture: object, head: str, words: str, alternative: str) -> str:
    return (
        f'<figure><img src="{picture}" alt="{text(alternative)}">'
        f"<figcaption><b>{head}</b><br>{text(words)}</figcaption></figure>"
    )


def _figures(report: Report, panels: Panels, scores: Sequence[str], thin: bool) -> list[str]:
    stages = {stage.name: stage for stage in report.stages}
    headline = report.headline()
    own = next((e for name, e in panels if headline is not None and name == headline.name), panels[0][1])
    window = choose_window(own.reference, own.prediction) if thin else None
    longest = _LARGE if thin else 320
    figures = []
    if thin:
        whole = draw_case(own.pixels, own.reference, own.prediction, longest, line=1, box=window)
        named = headline.name if headline is not None else panels[0][0]
        words = f"as seen by {named}; the frame is shown large"
        figures.append(_figure(png_data_uri(whole), "whole picture", words, f"{own.case}: the whole picture"))
    for (name, example), score in zip(panels, scores, strict=True):
        drawn = draw_case(example.pixels, example.reference, example.prediction, longest, window)
        words = f"{example.case}: reference and prediction of {name}"
        figures.append(_figure(png_data_uri(drawn), stage_name(report, stages[name]), score, words))
    return figures


def _block(report: Report, title: str, figures: list[str], thin: bool, block: str = "") -> str:
    place = f' id="{block}" data-title="{text(title)}"' if block else ""
    kind = "panels large" if thin else "panels"
    width = f"min(100%,{(23 if thin else 17) * len(figures) - 1}rem)"
    return (
        f'<div style="width:{width}"><h4 class="soft">{text(title)}</h4>'
        f'<div class="{kind}"{place}>{"".join(figures)}</div></div>'
    )


def _place(example: Example) -> str:
    return f"slice {example.slice + 1} of {example.depth}" if example.slice >= 0 else ""


def _case_block(report: Report, case: str, block: str, thin: bool) -> str:
    panels = _of_case(report, case, "examples")
    found = [_result(report, name, case) for name, _ in panels]
    known = next((result for result in found if result is not None), None)
    parts = [case, *((known.label, known.site) if known else ()), _place(panels[0][1])]
    scores = [
        f"{_score(result)}; {_slice_score(example).lower()}" if example.slice >= 0 else _score(result)
        for result, (_, example) in zip(found, panels, strict=True)
    ]
    title = " · ".join(part for part in parts if part)
    return _block(report, title, _figures(report, panels, scores, thin), thin, block)


def _key() -> str:
    return (
        f'<span class="key" style="background:rgb{REFERENCE}"></span>reference '
        f'<span class="key" style="background:rgb{PREDICTION};margin-left:1em"></span>prediction'
    )


def examples_section(report: Report) -> str:
    """Worst, median and best cases by the headline stage's Dice, the same image in every stage side by side."""
    blocks = example_ids(report)
    if not blocks:
        return "<p>none: no example was stored.</p>"
    stage = report.headline()
    chosen = choose_examples(stage.results if stage else [])
    shown = [example for s in report.stages for example in s.examples]
    thin = are_thin(example.reference for example in shown)
    ordered = f". Ordered by the Dice of “{text(stage.name)}”." if stage else "."
    if any(example.slice >= 0 for example in shown):
        ordered += " Of every volume the slice in which the reference is largest."
    if is_repeated(report):
        ordered += " Of trainings with several seeds one is shown."
    if thin:
        ordered += " Thin structures: of every picture the part with most errors, enlarged."
    parts, left = [f"<p>{_key()}{ordered}</p>"], dict(blocks)
    for kind in ("worst", "median", "best"):
        drawn = [_case_block(report, case, left.pop(case), thin) for case in chosen[kind] if case in left]
        if drawn:
            parts.append(f'<h3>{kind.capitalize()}</h3><div class="cases">{"".join(drawn)}</div>')
    if left:
        rest = "".join(_case_block(report, case, block, thin) for case, block in left.items())
        summary = f"<summary>Other stored cases ({len(left)})</summary>"
        parts.append(f'<details>{summary}<div class="cases">{rest}</div></details>')
    return "\n".join(parts)


def slices_section(report: Report) -> str:
    """The worst slices of volumes by the headline stage, the same slice in every stage side by side; "" for pictures.

    >>> slices_section(Report("none"))
    ''
    """
    cases = dict.fromkeys(example.case for stage in report.stages for example in stage.worst_slices)
    stage = report.headline()
    if not cases or stage is None:
        return ""
    thin = are_thin(example.reference for s in report.stages for example in s.worst_slices)
    blocks = []
    for case in cases:
        panels = _of_case(report, case, "worst_slices")
        title = f"{case} · {_place(panels[0][1])}"
        scores = [_slice_score(example) for _, example in panels]
        blocks.append(_block(report, title, _figures(report, panels, scores, thin), thin))
    words = (
        f"{_key()}. The slice of lowest Dice of “{text(stage.name)}” among those with any foreground, of the "
        f"{len(cases)} volumes where it is lowest. A small structure that is missed at either end of an organ gives 0."
    )
    return f'<p>{words}</p><div class="cases">{"".join(blocks)}</div>'
