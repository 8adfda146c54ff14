"""The first screen of the report: what was trained, how good it is, what it costs, and whether
distillation helped.
"""

from __future__ import annotations

from segdistill.report.charts import COLOURS
from segdistill.report.data import Report, StageReport
from segdistill.report.html import text
from segdistill.report.methods import cells_of
from segdistill.report.sections.verdict import NO_BASELINE, headline_verdicts, is_distilled, verdict_words
from segdistill.stats.comparison import split_name
from segdistill.stats.summary import Summary, summarise
from segdistill.stats.text import NOT_MEASURED, amount, interval_text, number, quantity
from segdistill.stats.verdict import HELPS, HURTS


def summary_of(stage: StageReport, seed: int = 0) -> Summary:
    """The stage's own summary, or one computed from its results.

    >>> summary_of(StageReport("s", "student"))["all"]["dice"]["n"]
    0
    """
    return stage.summary or summarise(stage.results, seed)


def colour_of(report: Report, stage: StageReport) -> str:
    """The stage's colour in the charts; all seeds of a method have the same.

    >>> seeds = [StageReport(name, "student") for name in ("kd@0", "at@0", "kd@1")]
    >>> [COLOURS.index(colour_of(Report("r", seeds), stage)) for stage in seeds]
    [0, 1, 0]
    """
    cells = list(dict.fromkeys(split_name(s.name)[0] for s in report.stages))
    return COLOURS[cells.index(split_name(stage.name)[0]) % len(COLOURS)]


def stage_name(report: Report, stage: StageReport) -> str:
    """The stage's name with the dot of its colour in the charts, as HTML."""
    dot = f'<span class="mark" style="background:{colour_of(report, stage)}"></span>'
    return f'<span class="net">{dot}{text(stage.name)}</span>'


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
    on = " ".join(f"{dice['n']} {report.evaluated_on} case{'s' * (dice['n'] != 1)}".split())
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
    size = quantity(cost["size_mb"], "MB") if cost.get("size_mb") is not None else ""
    size += f" {cost.get('size_of', 'as float32')}" if size else ""
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


def headline(report: Report, trainings: Report) -> str:
    """HTML of the opening: title, sentence, tiles and verdicts.

    Args:
        report: with a stage per method, as `over_seeds` makes it.
        trainings: with a stage per training, which the verdicts need.
    """
    stage = report.headline()
    facts = [report.data.name, report.date]
    parts = [
        f"<h1>{text(report.title)}</h1>",
        f'<p class="soft">{text(" · ".join(f for f in facts if f))}</p>' if any(facts) else "",
        f"<p>{text(report.description)}</p>" if report.description else "",
        f'<p class="lead">{text(sentence(report))} {text(ratio_sentence(report))}{_seeds(stage, trainings)}</p>',
    ]
    if stage is not None:
        parts.append(_tiles(report, stage))
    if report.warning:
        parts.append(f'<p class="warn">{text(report.warning)}</p>')
    if report.data.leaks:
        parts.append(
            f'<p class="warn"><b>{len(report.data.leaks)} leaks</b> between the splits: '
            "the scores are too kind.</p>"
        )
    verdicts = headline_verdicts(trainings)
    for verdict in verdicts:
        short, numbers = verdict_words(verdict)
        kind = {HELPS: "better", HURTS: "worse"}.get(verdict.verdict, "open")
        parts.append(f'<div class="verdict {kind}"><b>{text(short)}</b> {text(numbers)}</div>')
    if not verdicts and is_distilled(report):
        parts.append(f'<p class="soft">{NO_BASELINE}</p>')
    return "\n".join(part for part in parts if part)


def _seeds(stage: StageReport | None, trainings: Report) -> str:
    """Over how many trainings the headline's numbers are means; "" where of one."""
    if stage is None or any(stage is one for one in trainings.stages):
        return ""
    first = trainings.headline()
    count = next((len(cell) for cell in cells_of(trainings) if any(first is one for one in cell)), 1)
    return f" Numbers are means over {count} trainings with other seeds." if count > 1 else ""
