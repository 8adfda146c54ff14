"""The first screen of the report: what was trained, how good it is, what it costs, and whether
distillation helped.
"""

from __future__ import annotations

from segdistill.evaluation.figures import COLOURS
from segdistill.evaluation.html import (
    NOT_MEASURED,
    amount,
    interval_cell,
    interval_text,
    number,
    quantity,
    table,
    text,
)
from segdistill.evaluation.report_data import Report, StageReport
from segdistill.evaluation.report_verdict import NO_BASELINE, headline_verdicts, is_distilled, verdict_words
from segdistill.evaluation.results import Summary, summarise
from segdistill.evaluation.verdict import HELPS, HURTS

ROLES = {"teacher": "teacher", "student": "student", "baseline": "baseline, without distillation"}


def summary_of(stage: StageReport, seed: int = 0) -> Summary:
    """The stage's own summary, or one computed from its results.

    >>> summary_of(StageReport("s", "student"))["all"]["dice"]["n"]
    0
    """
    return stage.summary or summarise(stage.results, seed)


def stage_name(report: Report, stage: StageReport) -> str:
    """The stage's name with the dot of its colour in the charts, as HTML."""
    colour = COLOURS[[s is stage for s in report.stages].index(True) % len(COLOURS)]
    return (
        f'<span class="net"><span class="mark" style="background:{colour}"></span>{text(stage.name)}</span>'
    )


def sentence(report: Report) -> str:
    """What was trained and how good it is, as plain text.

    >>> sentence(Report("demo"))
    'No network was evaluated.'
    """
    stage = report.headline()
    if stage is None:
        return "No network was evaluated."
    teachers = report.teachers_of(stage)
    what = f"“{stage.name}”"
    if stage.task:
        what += f" ({stage.task})"
    if stage.role == "student" and "distil" not in stage.task.lower():
        count = {0: "", 1: "one teacher"}.get(len(teachers), f"{len(teachers)} teachers")
        what += f", a student distilled from {count}," if count else ", a distilled student,"
    dice = summary_of(stage, report.seed)["all"]["dice"]
    if dice["mean"] is None:
        return f"The Dice of {what.rstrip(',')} was not measured: no case with a reference to find."
    on = f"{dice['n']} {report.evaluated_on} case{'s' * (dice['n'] != 1)}"
    return f"On {on}, {what} reaches a mean Dice of {interval_text(dice)}."


def ratio_sentence(report: Report) -> str:
    """The student's parameters and operations as a share of its largest teacher's, or nothing where not
    known.
    """
    stage = report.headline()
    teachers = [s for s in report.teachers_of(stage) if s.cost.get("parameters")] if stage else []
    if stage is None or not teachers:
        return ""
    largest = max(teachers, key=lambda s: float(s.cost["parameters"]))
    parts = []
    for key, words in (("parameters", "parameters"), ("macs", "operations"), ("ms", "time per image")):
        mine, theirs = stage.cost.get(key), largest.cost.get(key)
        if mine and theirs and (key == "parameters" or stage.cost.get("input") == largest.cost.get("input")):
            share = 100 * mine / theirs
            parts.append(f"{number(share, 1 if share < 10 else 0)} % of the {words}")
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return (
        f"It has {listed} of “{largest.name}”, its largest teacher."
        if len(teachers) > 1
        else (f"It has {listed} of its teacher “{largest.name}”.")
    )


def _faint(words: str) -> str:
    return ' class="none"' if words == NOT_MEASURED else ""


def _tiles(report: Report, stage: StageReport) -> str:
    cost, dice = stage.cost, summary_of(stage, report.seed)["all"]["dice"]
    span = "" if dice["low"] is None else f"95 % interval {number(dice['low'])} to {number(dice['high'])}"
    tiles = [("Dice", number(dice["mean"]) if dice["mean"] is not None else NOT_MEASURED, span)]
    size = f"{quantity(cost['size_mb'], 'MB')} as float32" if cost.get("size_mb") is not None else ""
    tiles.append(("Parameters", amount(cost.get("parameters")), size))
    tiles.append(
        ("Operations", amount(cost.get("macs"), "MAC"), f"at {cost['input']}" if cost.get("input") else "")
    )
    tiles.append(("Time per image", quantity(cost.get("ms"), "ms"), str(cost.get("engine") or "")))
    if not cost:
        tiles = tiles[:1]  # of an evaluation alone
    cells = (
        f"<div><dt>{text(a)}</dt><dd{_faint(b)}>{text(b)}<small>{text(c)}</small></dd></div>"
        for a, b, c in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _role(report: Report, stage: StageReport) -> str:
    """In words; where nothing was distilled a baseline is just a network."""
    if stage.role == "baseline" and not is_distilled(report):
        return ""
    return ROLES.get(stage.role, stage.role)


def _glance(report: Report) -> str:
    rows = []
    for stage in report.stages:
        dice = summary_of(stage, report.seed)["all"]["dice"]
        cost = stage.cost
        rows.append(
            [
                f"{stage_name(report, stage)}<small>{text(_role(report, stage))}</small>",
                interval_cell(dice) if dice["mean"] is not None else NOT_MEASURED,
                text(amount(cost.get("parameters"))),
                text(amount(cost.get("macs"), "MAC")),
                text(quantity(cost.get("size_mb"), "MB")),
                text(quantity(cost.get("ms"), "ms")),
            ]
        )
    return table(["Network", "Dice", "Parameters", "Operations", "Size", "Time per image"], rows)


def headline(report: Report) -> str:
    """HTML of the opening: title, sentence, tiles, verdicts, and every network at a glance."""
    stage = report.headline()
    facts = [report.data.name, report.date]
    parts = [
        f"<h1>{text(report.title)}</h1>",
        f'<p class="soft">{text(" · ".join(f for f in facts if f))}</p>' if any(facts) else "",
        f"<p>{text(report.description)}</p>" if report.description else "",
        f'<p class="lead">{text(sentence(report))} {text(ratio_sentence(report))}</p>',
    ]
    if stage is not None:
        parts.append(_tiles(report, stage))
    if report.data.leaks:
        parts.append(
            f'<p class="warn"><b>{len(report.data.leaks)} leaks</b> between the splits: '
            "the scores are too kind.</p>"
        )
    verdicts = headline_verdicts(report)
    for verdict in verdicts:
        short, numbers = verdict_words(verdict)
        kind = {HELPS: "better", HURTS: "worse"}.get(verdict.verdict, "open")
        parts.append(f'<div class="verdict {kind}"><b>{text(short)}</b> {text(numbers)}</div>')
    if not verdicts and is_distilled(report):
        parts.append(f'<p class="soft">{NO_BASELINE}</p>')
    if len(report.stages) > 1:
        parts.append(_glance(report))
    return "\n".join(part for part in parts if part)
