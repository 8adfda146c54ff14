"""The page of a ladder: how small a network can be, Dice over milliseconds and megabytes, and what each rung showed."""

from __future__ import annotations

from typing import Any

from segdistill.records import ShrinkRecord
from segdistill.report.charts import forest_plot, ladder_chart
from segdistill.report.render import render
from segdistill.stats.text import amount, number
from segdistill.stats.verdict import Verdict


def ladder_page(record: ShrinkRecord) -> str:
    """The page as HTML, which needs no other file; it links to the run beside it.

    Raises:
        MissingExtra: matplotlib or Jinja2 is not installed.

    >>> from segdistill.records import Interval, Rung
    >>> rungs = [Rung(name, {}, 9, ms, 0.1, plain=Interval(0.8, 0.7, 0.9, 50)) for name, ms in (("a", 9.0), ("b", 1.0))]
    >>> made = ShrinkRecord(settings="", effort="quick", margin=0.02, stated_margin=0.02, machine="", size="3x8x8",
    ...                     reference="a", rungs=rungs)
    >>> "is not decided yet" in ladder_page(made)
    True
    """
    measured = [rung for rung in record.rungs if rung.distilled or rung.plain]
    facts: dict[str, Any] = {
        "reference": record.reference,
        "margin": record.margin,
        "teacher": record.teacher_score,
        "chosen": record.chosen,
        "unit": record.unit,
    }
    verdicts = [Verdict.from_dict(rung.verdict) for rung in measured if rung.verdict]
    known = [verdict for verdict in verdicts if verdict.difference.mean is not None]
    return render(
        "ladder.html",
        title="How small can it get?",
        record=record,
        measured=measured,
        charts=[ladder_chart(measured, axis, **facts) for axis in ("ms", "mb")] if measured else [],
        forest=forest_plot(known, f"Against {record.reference} without a teacher", headed=False)
        if known
        else "",
        verdicts=verdicts,
    )


def ladder_text(record: ShrinkRecord) -> str:
    """The ladder as a table for a terminal, and the sentence.

    >>> from segdistill.records import Rung
    >>> made = ShrinkRecord(settings="", effort="quick", margin=0.02, stated_margin=0.02, machine="", size="3x8x8",
    ...                     reference="a", rungs=[Rung("a", {}, 2_162_146, 9.0, 8.3)])
    >>> print(ladder_text(made).splitlines()[1])
    a     2.16 M      9.00  8.30  -             -
    """
    heads = ("rung", "parameters", "ms", "MB", "with teacher", "without", "against the reference")
    rows: list[tuple[str, ...]] = [heads]
    for rung in record.rungs:
        outcome = rung.excluded or rung.outcome + (" (exploratory)" if rung.exploratory else "")
        means = [one.mean if one is not None else None for one in (rung.distilled, rung.plain)]
        dice = ["-" if mean is None else number(mean) for mean in means]
        mark = f"{outcome}, chosen" if rung.name == record.chosen else outcome
        rows.append((rung.name, amount(rung.parameters), f"{rung.ms:.2f}", f"{rung.mb:.2f}", *dice, mark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if record.test is not None:
        lines.append(f"test of {record.chosen}: Dice {number(record.test.mean)} on {record.test.n} cases")
    return "\n".join([*lines, *(f"warning: {line}" for line in record.warnings), record.sentence])
