"""The report's pictures: best, median and worst cases and the worst slices of volumes, with contours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from segdistill.imaging.contours import class_colour
from segdistill.metrics.cases import CaseResult
from segdistill.report.context import Context, Network
from segdistill.report.data import Report
from segdistill.report.examples import Example, choose_examples
from segdistill.report.panels import PREDICTION, REFERENCE, are_thin, choose_window, draw_case, png_data_uri
from segdistill.report.sections import Values, register_report_section
from segdistill.stats.text import number

_LARGE = 420  # longer side in pixels where structures are thin
_KEY = {"reference": f"rgb{REFERENCE}", "prediction": f"rgb{PREDICTION}"}

Panels = list[tuple[Network, Example]]
"""The networks that have a picture of one case."""


def example_ids(report: Report) -> dict[str, str]:
    """Case id -> HTML id of the block that shows it, for every case of which some stage stored an example.

    >>> example_ids(Report("none"))
    {}
    """
    cases = dict.fromkeys(example.case for stage in report.stages for example in stage.examples)
    return {case: f"case-{position}" for position, case in enumerate(cases)}


def _panels(context: Context, case: str, field: Literal["examples", "worst_slices"]) -> Panels:
    return [(n, e) for n in context.trainings for e in getattr(n.stage, field) if e.case == case]


def _colours(context: Context) -> dict[str, str]:
    """Class -> its colour, where masks have several."""
    names = dict.fromkeys(name for network in context.variants for name in network.summary.structures)
    return {name: f"rgb{class_colour(k)}" for k, name in enumerate(names, start=1)}


def _score(result: CaseResult | None) -> str:
    if result is None:
        return ""
    if result.normal:
        marked = number(100 * result.predicted_area, 1)
        return f"{marked} % marked" if result.predicted_area else "nothing marked"
    of = " of the volume" if result.is_volume else ""
    missed = "" if result.predicted_area else ", nothing marked"
    return f"Dice{of} {number(result.metrics['dice'])}{missed}"


def _slice_score(example: Example) -> str:
    marked = bool(example.prediction.any())
    if not example.reference.any():
        return "marked, but there is nothing" if marked else "nothing marked, correctly"
    return f"Dice of the slice {number(example.dice)}{'' if marked else ', nothing marked'}"


def _figures(context: Context, panels: Panels, scores: Sequence[str], thin: bool) -> list[dict[str, Any]]:
    shown = next((n for n, _ in panels if n is context.trained), panels[0][0])
    own = next(example for network, example in panels if network is shown)
    window = choose_window(own.reference, own.prediction) if thin else None
    longest = _LARGE if thin else 320
    figures: list[dict[str, Any]] = []
    if thin:
        whole = draw_case(own.pixels, own.reference, own.prediction, longest, line=1, box=window)
        words = f"with the contours of {shown.name}; the framed part is enlarged"
        figures.append({"picture": png_data_uri(whole), "network": None, "words": words, "of": own.case})
    for (network, example), score in zip(panels, scores, strict=True):
        drawn = draw_case(example.pixels, example.reference, example.prediction, longest, window)
        of = f"{example.case}: reference and prediction of {network.name}"
        figures.append({"picture": png_data_uri(drawn), "network": network, "words": score, "of": of})
    return figures


def _block(
    context: Context, title: str, panels: Panels, scores: Sequence[str], thin: bool, anchor: str = ""
) -> dict[str, Any]:
    figures = _figures(context, panels, scores, thin)
    width = (23 if thin else 17) * len(figures) - 1
    return {"title": title, "id": anchor, "width": width, "thin": thin, "figures": figures}


def _place(example: Example) -> str:
    parts = [f"slice {example.slice + 1} of {example.depth}"] if example.slice >= 0 else []
    return " · ".join([*parts, *([f"channel {example.channel}"] if example.channel else [])])


def _case_block(context: Context, case: str, anchor: str, thin: bool) -> dict[str, Any]:
    panels = _panels(context, case, "examples")
    results = [next((r for r in n.stage.results if r.case == case), None) for n, _ in panels]
    known = next((result for result in results if result is not None), None)
    parts = [case, *((known.label, known.site) if known else ()), _place(panels[0][1])]
    scores = [
        f"{_score(result)}; {_slice_score(example)}" if example.slice >= 0 else _score(result)
        for result, (_, example) in zip(results, panels, strict=True)
    ]
    return _block(context, " · ".join(part for part in parts if part), panels, scores, thin, anchor)


@register_report_section("cases", "Worst, median and best cases", template="cases.html", order=60)
def cases(context: Context) -> Values:
    """Worst, median and best cases by the headline network's Dice, the same image of every network side by side."""
    left = example_ids(context.report)
    examples = [example for network in context.trainings for example in network.stage.examples]
    thin = are_thin(example.reference for example in examples)
    chosen = choose_examples(context.trained.stage.results if context.trained else [])
    kinds = []
    for kind in ("worst", "median", "best"):
        blocks = [_case_block(context, case, left.pop(case), thin) for case in chosen[kind] if case in left]
        kinds += [(kind.capitalize(), blocks)] if blocks else []
    return {
        "key": _KEY,
        "classes": _colours(context),
        "kinds": kinds,
        "others": [_case_block(context, case, anchor, thin) for case, anchor in left.items()],
        "thin": thin,
        "slices": any(example.slice >= 0 for example in examples),
    }


@register_report_section("slices", "Worst slices", template="slices.html", order=70)
def slices(context: Context) -> Values:
    """The worst slices of volumes by the headline network, the same slice of every network side by side."""
    examples = [example for network in context.trainings for example in network.stage.worst_slices]
    if not examples or context.trained is None:
        return None
    thin, blocks = are_thin(example.reference for example in examples), []
    for case in dict.fromkeys(example.case for example in examples):
        panels = _panels(context, case, "worst_slices")
        scores = [_slice_score(example) for _, example in panels]
        blocks.append(_block(context, f"{case} · {_place(panels[0][1])}", panels, scores, thin))
    return {"key": _KEY, "classes": _colours(context), "blocks": blocks}
