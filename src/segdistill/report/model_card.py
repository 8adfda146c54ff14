"""A short model card in Markdown: what the network is, what it was trained on, how good it is, and its limits."""

from __future__ import annotations

from pathlib import Path

from segdistill.files import write_text
from segdistill.metrics.pooled import POOLED
from segdistill.report.context import Context
from segdistill.report.opening import gains_sentence, ratio_sentence, sentence
from segdistill.report.render import render


def render_model_card(context: Context) -> str:
    """The card of the network in the headline, as Markdown text.

    Raises:
        MissingExtra: Jinja2 is not installed.

    >>> from segdistill.report.context import make_context
    >>> from segdistill.report.data import Report
    >>> render_model_card(make_context(Report("demo"))).splitlines()[0]
    '# Model card: demo'
    """
    network = context.trained
    named = network.summary.named() if network is not None else {}
    return render(
        "model_card.md",
        context=context,
        summary=f"{sentence(context, network)} {ratio_sentence(network, context.teachers)} {gains_sentence(context)}",
        verdicts=[str(v) for v in (*context.headline_verdicts, *context.headline_elsewhere)],
        elsewhere=[
            (one.name, one.table, n.summary.all)
            for one in context.external
            for n in one.trainings
            if network is not None and n.name == network.name
        ],
        groups={name: scores for name, scores in named.items() if "dice" in scores},
        pooled=POOLED,
    )


def write_model_card(context: Context, path: str | Path) -> None:
    """Writes the card, whole or not at all.

    Raises:
        InputError: the file cannot be written. MissingExtra: Jinja2 is not installed.

    >>> import tempfile
    >>> from segdistill.report.context import make_context
    >>> from segdistill.report.data import Report
    >>> write_model_card(make_context(Report("demo")), Path(tempfile.mkdtemp()) / "model_card.md")
    """
    write_text(path, render_model_card(context))
