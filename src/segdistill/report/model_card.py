"""A short model card in Markdown: what the network is, what it was trained on, how good it is, and its
limits.
"""

from __future__ import annotations

from pathlib import Path

from segdistill.files import write_text
from segdistill.report.data import Report
from segdistill.report.heads import POOLED_HEADS, digits_of, head_of, summary_metrics
from segdistill.report.sections.context import known_limits
from segdistill.report.sections.headline import ratio_sentence, sentence, summary_of
from segdistill.report.sections.verdict import NO_BASELINE, headline_verdicts, is_distilled, verdict_words
from segdistill.stats.text import amount, interval_text, number, quantity


def _plain(value: object) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    line = " ".join(str(value).split())
    for mark in "\\`*_|[]":
        line = line.replace(mark, f"\\{mark}")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def render_model_card(report: Report) -> str:
    """The card as Markdown text.

    >>> render_model_card(Report("demo")).splitlines()[0]
    '# Model card: demo'
    """
    stage = report.headline()
    cost = stage.cost if stage else {}
    lines = [
        f"# Model card: {_plain(report.title)}",
        "",
        _plain(f"{sentence(report)} {ratio_sentence(report)}"),
        "",
    ]
    verdicts = headline_verdicts(report)
    lines += [_plain(" ".join(verdict_words(v))) + "\n" for v in verdicts]
    if not verdicts and is_distilled(report):
        lines += [NO_BASELINE, ""]
    lines += ["## Network", ""]
    facts = {
        "Stage": stage.name if stage else "none",
        "Task": (stage.task if stage else "") or "not described",
        "Teachers": ", ".join(s.name for s in report.teachers_of(stage)) if stage else "",
        "Parameters": amount(cost.get("parameters")),
        "Operations": amount(cost.get("macs"), "MAC") + (f" at {cost['input']}" if cost.get("input") else ""),
        "Size": quantity(cost.get("size_mb"), "MB"),
        "Time per image": quantity(cost.get("ms"), "ms")
        + (f" on {cost['machine']}" if cost.get("machine") and cost.get("ms") is not None else ""),
        "Date": report.date or "not recorded",
    }
    lines += [f"- {name}: {_plain(value or 'none')}" for name, value in facts.items()]
    data = report.data
    lines += ["", "## Data", "", f"- Dataset: {_plain(data.name or 'not named')}"]
    for split, labels in data.counts.items():
        counted = ", ".join(f"{count} {label or 'without class'}" for label, count in labels.items())
        lines.append(f"- {_plain(split or 'no split')}: {_plain(counted)}")
    leaks = "not checked" if data.leaks is None else str(len(data.leaks)) if data.leaks else "none found"
    lines += [f"- Split: {_plain(data.split or 'not described')}", f"- Leaks between splits: {leaks}"]
    lines += [f"- Hash of the case table: {_plain(data.hash or 'not recorded')}", "", "## Scores", ""]
    summary = summary_of(stage, report.seed) if stage else {}
    if not summary:
        lines.append("not measured")
    else:
        classes = [name for name in summary if name != "normal"]
        lines += [
            "| Score | " + " | ".join(f"{_plain(c)} (n = {summary[c]['dice']['n']})" for c in classes) + " |"
        ]
        lines += ["|---|" + "---|" * len(classes)]
        for metric in summary_metrics(summary[c] for c in classes):
            cells = (interval_text(summary[c].get(metric), digits_of(metric)) for c in classes)
            lines.append(f"| {head_of(metric)} | {' | '.join(cells)} |")
        if stage is not None and stage.pooled:
            pooled = ", ".join(
                f"{head} {number(stage.pooled.get(name), 4)}" for name, head in POOLED_HEADS.items()
            )
            lines += ["", f"Pooled over all pixels of the set: {pooled}."]
        if "normal" in summary:
            rate = summary["normal"]["false_positive_rate"]
            lines += ["", f"Normal images with any false positive: {interval_text(rate)}, n = {rate['n']}."]
    lines += ["", "## Limits", "", *(f"- {_plain(line)}" for line in known_limits(report))]
    return "\n".join(lines) + "\n"


def write_model_card(report: Report, path: str | Path) -> None:
    """Writes the card of the report's headline stage, whole or not at all.

    Raises:
        InputError: the file cannot be written.

    >>> import tempfile
    >>> write_model_card(Report("demo"), Path(tempfile.mkdtemp()) / "model_card.md")
    """
    write_text(path, render_model_card(report))
