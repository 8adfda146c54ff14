"""report.html: the whole experiment on one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segdistill.data.case import Case
from segdistill.files import write_text
from segdistill.imaging.intensity import AnyIntensity
from segdistill.metrics.cases import Predict
from segdistill.report.context import Context, make_context
from segdistill.report.data import Report, StageReport, count_cases
from segdistill.report.examples import choose_examples, choose_slices, predict_shown, read_shown
from segdistill.report.opening import opening
from segdistill.report.render import render
from segdistill.report.sections import REPORT_SECTIONS

PICTURED = 8
"""Variants whose predictions are shown as pictures where trainings were repeated."""


def render_report(context: Context) -> str:
    """The page as HTML text; the same report gives the same text.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed.

    >>> "Research use only" in render_report(make_context(Report("demo")))
    True
    """
    sections: list[dict[str, Any]] = []
    for name in sorted(REPORT_SECTIONS, key=lambda name: int(REPORT_SECTIONS[name].facts["order"])):
        part = REPORT_SECTIONS[name]
        values = part.build(context)
        if values is not None:  # not every experiment has sites or slices
            content = render(part.facts["template"], **{**values, "context": context})
            sections.append({"name": name, "title": part.summary, "content": content})
    return render("report.html", **opening(context), context=context, sections=sections)


def write_report(context: Context, path: str | Path) -> None:
    """Writes report.html, whole or not at all: styles, script, charts and pictures inline, no request to anywhere.

    Raises:
        InputError: the file cannot be written. MissingExtra: matplotlib or Jinja2 is not installed.

    >>> import tempfile
    >>> write_report(make_context(Report("demo")), Path(tempfile.mkdtemp()) / "report.html")
    """
    write_text(path, render_report(context))


def finish_report(
    report: Report,
    table: Sequence[Case],
    evaluated: Sequence[Case],
    predictor_of: Callable[[StageReport], Predict],
    intensity: AnyIntensity,
    path: Path,
) -> Context:
    """Adds what every report shows of its cases, and writes it.

    Args:
        report: with its stages and their results, and the hash of its table.
        table: all cases of the experiment, which are counted.
        evaluated: those that the results are of.
        predictor_of: gives the network of a stage; called once for each that is pictured.
        intensity: how the values of volumes become 8 bits, that of the networks' preprocessing.
        path: of report.html.

    Returns:
        What the report shows, for the model card.

    Raises:
        InputError: an image cannot be read, or the file cannot be written.
        MissingExtra: matplotlib or Jinja2 is not installed.
    """
    counts, groups = count_cases(table)
    stages, first = list(report.stages), report.headline()
    if first is not None:
        chosen = choose_examples(first.results)
        ids = [case for kind in ("worst", "median", "best") for case in chosen[kind]]
        shown = read_shown(evaluated, ids, intensity)
        slices = choose_slices(first.results)
        worst = read_shown(evaluated, slices, intensity, slices)
        for k, stage in enumerate(stages):
            if any(stage is one for one in pictured_stages(report)):
                predict = predictor_of(stage)
                examples = predict_shown(shown, predict)
                stages[k] = replace(stage, examples=examples, worst_slices=predict_shown(worst, predict))
    context = make_context(
        replace(
            report,
            stages=stages,
            data=replace(report.data, counts=counts, groups=groups),
            date=datetime.now(UTC).date().isoformat(),
        )
    )
    write_report(context, path)
    return context


def pictured_stages(report: Report) -> list[StageReport]:
    """The stages with pictures: all that segment; where there are several seeds, one of each variant, PICTURED at most.

    >>> pictured_stages(Report("none"))
    []
    """
    repeated = any(len(cell) > 1 for cell in report.cells())
    shown = report.shown(PICTURED) if repeated else report.stages
    return [stage for stage in report.stages if stage.results and any(stage is one for one in shown)]
