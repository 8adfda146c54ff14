"""report.html: the whole experiment on one page that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

from segdistill.evaluation.html import text
from segdistill.evaluation.page import page
from segdistill.evaluation.report_cases import examples_section, table_section
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
    Example,
    Report,
    StageReport,
    choose_examples,
    collect_examples,
    count_cases,
)
from segdistill.evaluation.report_headline import find_verdicts, headline
from segdistill.evaluation.report_results import curves_section, distribution_section, results_section
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

SECTIONS = {
    "results": ("Results", results_section),
    "distribution": ("Distribution of Dice", distribution_section),
    "cases": ("Worst, median and best cases", examples_section),
    "table": ("All cases", table_section),
    "curves": ("Training curves", curves_section),
    "cost": ("Cost", cost_section),
    "data": ("Data and split", data_section),
    "settings": ("Settings", settings_section),
    "environment": ("Environment", environment_section),
    "limits": ("Limits", limits_section),
}


def render_report(report: Report) -> str:
    """The page as HTML text; the same report gives the same text.

    Raises:
        MissingExtra: matplotlib is not installed and there is something to draw.

    >>> "Research use only" in render_report(Report("demo"))
    True
    """
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in SECTIONS.items())
    body = [f"<header>{headline(report)}<nav>{links}</nav></header>"]
    for name, (title, write) in SECTIONS.items():
        body.append(f'<section id="{name}"><h2>{title}</h2>\n{write(report)}</section>')
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
