"""A short model card in Markdown, with the front matter of Hugging Face: the network, its data, scores and limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from segdistill.files import shown, write_text
from segdistill.metrics.cases import find_column
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
    >>> render_model_card(make_context(Report("demo"))).splitlines()[10]
    '# Model card: demo'
    """
    network = context.trained
    front = yaml.safe_dump(front_matter(context), sort_keys=False, allow_unicode=True)
    named = network.summary.named() if network is not None else {}
    text = render(
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
    return f"---\n{front}---\n{text}"


def front_matter(context: Context) -> dict[str, Any]:
    """What Hugging Face reads at the head of a model card; source: its specification of model cards.

    The licence is not known here: it depends on that of the images. Scores are those of the test cases.

    >>> from segdistill.report.context import make_context
    >>> from segdistill.report.data import Report
    >>> front_matter(make_context(Report("demo")))["license"]
    'unknown'
    """
    report, network = context.report, context.trained
    tags = ["medical", "image-segmentation", "onnx", "segdistill"]
    facts: dict[str, Any] = {
        "license": "unknown",
        "library_name": "onnx",
        "pipeline_tag": "image-segmentation",
        "tags": [*tags, *(["distillation"] if context.is_distilled else [])],
    }
    scores = network.summary.all if network is not None else {}
    measured = {key: score for key, score in scores.items() if score.mean is not None}
    if not measured:
        return facts
    name = report.data.name or "not named"
    dataset = {"type": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "images", "name": shown(name)}
    metrics = [
        {"type": key, "value": round(float(score.mean or 0), 4), "name": find_column(key).head}
        for key, score in measured.items()
    ]
    task = {"type": "image-segmentation", "name": "Image segmentation"}
    result = {"task": task, "dataset": {**dataset, "split": report.evaluated_on or "all"}, "metrics": metrics}
    facts["metrics"] = list(measured)
    facts["model-index"] = [{"name": shown(report.title), "results": [result]}]
    return facts


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
