"""The sections of the report: one function each, which takes the report's context and gives its template's values.

A section from outside of this package is added in the same way, with the text of its template:

    @register_report_section("fastest", "Fastest network", template="<p>{{ name }}</p>", order=95)
    def fastest(context: Context) -> Values:
        timed = [n for n in context.trainings if n.stage.cost.ms is not None]
        return {"name": min(timed, key=lambda n: n.stage.cost.ms).name} if timed else None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from segdistill.registry import Registry
from segdistill.report.context import Context

Values = Mapping[str, Any] | None
"""What a template shows; None leaves the section out of the report."""
Section = Callable[[Context], Values]

REPORT_SECTIONS: Registry[Values] = Registry("report section", "segdistill.report.sections", "report")
create_report_section, list_report_sections = REPORT_SECTIONS.create, REPORT_SECTIONS.names


def register_report_section(
    name: str, title: str, *, template: str, order: int
) -> Callable[[Section], Section]:
    """Decorator that adds a section to every report.

    Args:
        name: unique; also the anchor in the page.
        title: above the section, and in the list of sections.
        template: the text of a Jinja2 template, or the name of a file in report/templates. Besides the returned values
            it has `context` (report/context.py), `ui` (the macros of macros.html) and the filters of report/render.py.
        order: place in the report. The package's own sections have 10, 12, 18, 20, 30, ... 150.

    Raises:
        InputError: another section has that name.

    >>> @register_report_section("count", "Count", template="{{ networks }} networks", order=999)
    ... def count(context):
    ...     return {"networks": len(context.trainings)} if context.trainings else None
    >>> REPORT_SECTIONS._parts.pop("count").summary  # other examples do without it
    'Count'
    """
    return REPORT_SECTIONS.register(name, title, template=template, order=order)
