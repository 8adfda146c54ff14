"""report.html: the whole experiment on one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from segdistill.data.case import Case
from segdistill.files import write_text
from segdistill.imaging.intensity import Intensity
from segdistill.metrics.cases import Predict
from segdistill.report.data import Report, StageReport, count_cases
from segdistill.report.examples import (
    choose_examples,
    choose_slices,
    predict_shown,
    read_shown,
)
from segdistill.report.html import page, text
from segdistill.report.methods import over_seeds
from segdistill.report.sections.cases import examples_section, slices_section
from segdistill.report.sections.classification import classification_section
from segdistill.report.sections.context import (
    RESEARCH_ONLY,
    cost_section,
    data_section,
    environment_section,
    limits_section,
    settings_section,
)
from segdistill.report.sections.glance import glance
from segdistill.report.sections.headline import headline
from segdistill.report.sections.results import (
    curves_section,
    distribution_section,
    results_section,
    sites_section,
    table_section,
)
from segdistill.report.sections.trust import pictured_stages, trust_section
from segdistill.report.sections.verdict import verdict_section


@dataclass(frozen=True)
class _Section:
    """A part of the page: its title, what writes it, and what it writes of where methods have several trainings."""

    title: str
    write: Callable[[Report], str]
    of: Literal["trainings", "methods", "both"] = "trainings"

    def html(self, methods: Report, trainings: Report) -> str:
        """The part; of both kinds of rows those of all trainings are folded away."""
        if self.of == "trainings":
            return self.write(trainings)
        written = self.write(methods)
        if self.of == "methods" or methods is trainings or not written:
            return written
        each = f"Each of the {len(trainings.stages)} trainings"
        return f"{written}\n<details><summary>{each}</summary>{self.write(trainings)}</details>"


SECTIONS = {
    "verdict": _Section("Did distillation help?", verdict_section),
    "results": _Section("Results", results_section, "both"),
    "classes": _Section("Classes of images", classification_section),
    "sites": _Section("Site by site", sites_section, "both"),
    "distribution": _Section("Distribution of Dice", distribution_section, "methods"),
    "cases": _Section("Worst, median and best cases", examples_section),
    "slices": _Section("Worst slices", slices_section),
    "trust": _Section("Agreement, subgroups, calibration", trust_section),
    "table": _Section("All cases", table_section, "methods"),
    "curves": _Section("Training curves", curves_section),
    "cost": _Section("Cost", cost_section, "both"),
    "data": _Section("Data and split", data_section),
    "settings": _Section("Settings", settings_section, "methods"),
    "environment": _Section("Environment", environment_section),
    "limits": _Section("Limits", limits_section),
}


def render_report(report: Report) -> str:
    """The page as HTML text; the same report gives the same text.

    Raises:
        MissingExtra: matplotlib is not installed and there is something to draw.

    >>> "Research use only" in render_report(Report("demo"))
    True
    """
    methods = over_seeds(report)
    written = {name: (section.title, section.html(methods, report)) for name, section in SECTIONS.items()}
    written = {
        name: part for name, part in written.items() if part[1]
    }  # not every experiment has sites or slices
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in written.items())
    opening = "\n".join(part for part in (headline(methods, report), glance(methods, report)) if part)
    body = [f"<header>{opening}<nav>{links}</nav></header>"]
    for name, (title, content) in written.items():
        body.append(f'<section id="{name}"><h2>{title}</h2>\n{content}</section>')
    body.append(f"<footer>{RESEARCH_ONLY} Written by segdistill.</footer>")
    svg = 'xmlns="http://www.w3.org/2000/svg" '  # within HTML a chart needs no namespace
    return page(text(report.title), "\n".join(body).replace(svg, ""))


def write_report(report: Report, path: str | Path) -> None:
    """Writes report.html, whole or not at all: styles, script, charts and pictures inline, no request to
    anywhere.

    Raises:
        InputError: the file cannot be written. MissingExtra: matplotlib is not installed.

    >>> import tempfile
    >>> write_report(Report("demo"), Path(tempfile.mkdtemp()) / "report.html")
    """
    write_text(path, render_report(report))


def finish_report(
    report: Report,
    table: Sequence[Case],
    evaluated: Sequence[Case],
    predictor_of: Callable[[StageReport], Predict],
    intensity: Intensity | None,
    path: Path,
) -> None:
    """Fills in what every report shows of its cases, and writes it.

    Args:
        report: with its stages and their results, and the hash of its table.
        table: all cases of the experiment, which are counted.
        evaluated: those that the results are of.
        predictor_of: the network of a stage; asked once for each.
        intensity: how the values of volumes become 8 bits, that of the networks' preprocessing.
        path: of report.html.

    Raises:
        InputError: an image cannot be read, or the file cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    report.data.counts, report.data.groups = count_cases(table)
    report.date = datetime.now(UTC).date().isoformat()
    stage = report.headline()
    if stage is not None:
        chosen = choose_examples(stage.results)
        ids = [case for kind in ("worst", "median", "best") for case in chosen[kind]]
        shown = read_shown(evaluated, ids, intensity)
        slices = choose_slices(stage.results)
        worst = read_shown(evaluated, slices, intensity, slices)
        for one in pictured_stages(report):  # a classifier marks nothing
            predict = predictor_of(one)
            one.examples = predict_shown(shown, predict)
            one.worst_slices = predict_shown(worst, predict)
    write_report(report, path)
