"""Templates filled with values, all of them escaped: for HTML in pages, for Markdown in model cards."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from segdistill.errors import MissingExtra
from segdistill.files import shown, shown_lines
from segdistill.stats.text import amount, duration, interval_text, number, quantity, signed

RESEARCH_ONLY = (
    "Research use only. This is not a medical device: it must not be used for diagnosis, treatment, "
    "or any decision about a patient."
)
NO_BASELINE = (
    "No student without teachers was trained and evaluated on the same cases: "
    "no gain from distillation can be claimed."
)
NOTHING_TESTED = "Nothing was tested: the case table has no test cases."


def p_text(value: float | None) -> str:
    """A p value.

    >>> p_text(0.0001), p_text(None)
    ('< 0.001', '—')
    """
    return "< 0.001" if value is not None and value < 0.001 else number(value)


def span_text(low: float | None, high: float | None, digits: int = 3) -> str:
    """The ends of an interval of differences.

    >>> span_text(-0.01, 0.02)
    '−0.010 to +0.020'
    """
    return "—" if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


def once(values: Iterable[object]) -> str:
    """The value that all have, or all values with commas between; a dash for one that is missing.

    >>> once([4, 4]), once([4, None])
    ('4', '4, —')
    """
    shown = ["—" if value in (None, "") else str(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else ", ".join(shown)


FILTERS = {
    "amount": amount,
    "duration": duration,
    "interval_text": interval_text,
    "look_up": lambda key, mapping: mapping[key],
    "keep_percent": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),
    "number": number,
    "once": once,
    "p": p_text,
    "quantity": quantity,
    "signed": signed,
    "span": span_text,
}


def render(template: str, /, **values: Any) -> str:
    """A template filled with values, all of them escaped.

    Args:
        template: the name of a file in `templates/` (it ends in .html or .md), or the text of a template.
        values: what it shows.

    Raises:
        MissingExtra: Jinja2 is not installed.

    >>> render("{{ a }} & {{ b | signed }}", a="<i>", b=0.5)
    '&lt;i&gt; & +0.500'
    """
    pages, cards = _environments()
    if template.endswith(".md"):
        return str(cards.get_template(template).render(values))
    found = pages.get_template(template) if template.endswith(".html") else pages.from_string(template)
    return str(found.render(values))


@cache
def _environments() -> tuple[Any, Any]:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtra("writing a report", "report") from error
    common: dict[str, Any] = {
        "loader": PackageLoader("segdistill.report"),
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }

    def page_text(value: Any) -> Any:
        """Control characters escaped; what is markup already stays markup."""
        text = shown_lines(str(value))
        return Markup(text) if hasattr(value, "__html__") else text

    pages = Environment(
        autoescape=select_autoescape(["html"], default_for_string=True), finalize=page_text, **common
    )
    cards = Environment(finalize=_markdown, keep_trailing_newline=True, **common)
    for environment in (pages, cards):
        environment.filters |= FILTERS
        environment.globals |= {
            "research_only": RESEARCH_ONLY,
            "no_baseline": NO_BASELINE,
            "nothing_tested": NOTHING_TESTED,
        }
    namespace = 'xmlns="http://www.w3.org/2000/svg" '  # within HTML a chart needs none
    pages.filters["svg"] = lambda drawn: Markup(drawn.replace(namespace, ""))
    pages.globals["ui"] = pages.get_template("macros.html").module
    return pages, cards


def _markdown(value: object) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    line = shown(" ".join(str(value).split()))
    for mark in "\\`*_|[]":
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
