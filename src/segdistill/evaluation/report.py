"""report.html: the whole experiment on one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segdistill.evaluation.examples import Example, choose_examples, collect_examples
from segdistill.evaluation.html import text
from segdistill.evaluation.page import page
from segdistill.evaluation.report_cases import examples_section, slices_section
from segdistill.evaluation.report_classification import classification_section
from segdistill.evaluation.report_context import (
    RESEARCH_ONLY,
    cost_section,
    data_section,
    environment_section,
    limits_section,
    settings_section,
)
from segdistill.evaluation.report_data import (
    DataReport,
    Report,
    StageReport,
    count_cases,
)
from segdistill.evaluation.report_glance import glance
from segdistill.evaluation.report_headline import headline
from segdistill.evaluation.report_methods import over_seeds
from segdistill.evaluation.report_results import (
    curves_section,
    distribution_section,
    results_section,
    sites_section,
)
from segdistill.evaluation.report_table import table_section
from segdistill.evaluation.report_trust import trust_section
from segdistill.evaluation.report_verdict import find_verdicts, verdict_section
from segdistill.files import write_text

__all__ = [
    "DataReport",
    "Example",
    "Report",
    "StageReport",
    "choose_examples",
    "collect_examples",
    "count_cases",
    "find_verdicts",
    "render_report",
    "write_report",
]


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
