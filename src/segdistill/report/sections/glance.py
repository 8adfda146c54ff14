"""Every network of the report at a glance; where there are several seeds, every method and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.report.data import Report, StageReport
from segdistill.report.html import interval_cell, table, text
from segdistill.report.methods import cells_of
from segdistill.report.sections.headline import stage_name, summary_of
from segdistill.report.sections.verdict import (
    KINDS,
    find_verdicts,
    is_distilled,
    methods_of,
    p_text,
    span_text,
)
from segdistill.stats.repetitions import repeated
from segdistill.stats.text import NOT_MEASURED, amount, number, quantity, signed
from segdistill.stats.verdict import Comparison

ROLES = {"teacher": "teacher", "student": "student", "baseline": "baseline, without distillation"}


def glance(report: Report, trainings: Report) -> str:
    """A row per network: Dice and cost; or a row per method: Dice over seeds, and whether it helped.

    Args:
        report: with a stage per method, as `over_seeds` makes it.
        trainings: with a stage per training; the same report where nothing was repeated.

    >>> glance(Report("none"), Report("none"))
    ''
    """
    if len(report.stages) < 2:
        return ""
    return _networks(report) if report is trainings else _methods(report, trainings)


def _networks(report: Report) -> str:
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


def _role(report: Report, stage: StageReport) -> str:
    """In words; where nothing was distilled a baseline is just a network."""
    if stage.role == "baseline" and not is_distilled(report):
        return ""
    return ROLES.get(stage.role, stage.role)


def _methods(report: Report, trainings: Report) -> str:
    name_of = {t.source: method.name for method in methods_of(trainings) for t in method.trainings}
    verdicts = find_verdicts(trainings)
    found = []
    for stage, cell in zip(report.stages, cells_of(trainings), strict=True):
        names = {name_of.get(training.name) for training in cell}
        found.append((stage, cell, *_chosen([c for c in verdicts if c.method in names])))
    steps = [c for *_, c, _ in found if c is not None]
    clock = [c for *_, c in found if c is not None]
    heads = ["Method<small>its role, parameters</small>", "Dice<small>mean over seeds</small>"]
    heads += ["Spread<small>over seeds</small>"]
    if steps:
        heads += [f"Difference<small>{_common(steps)}</small>", "p<small>after Holm</small>", "Verdict"]
    if clock:
        equal = all(c.kind == "equal time" for c in clock)
        heads += [f"{'At equal' if equal else 'By'} wall-clock<small>{_common(clock, kinds=False)}</small>"]
    rows = []
    for stage, cell, comparison, second in found:
        row = [*_named(report, stage), _spread(cell, report.seed)]
        row += _answer(comparison, steps) if steps else []
        row += [_short(second, clock)] if clock else []
        rows.append(row)
    words = "the verdict’s rule stands below. " if steps else ""
    return table(heads, rows) + (
        f'<p class="soft">Each case is averaged over trainings with other seeds; small: 95 % intervals over cases; '
        f"{words}Every training is listed where the tables below are folded.</p>"
    )


def _chosen(own: Sequence[Comparison]) -> tuple[Comparison | None, Comparison | None]:
    """The comparison with the same network at equal steps, or the next best; and the one at equal time."""
    ordered = sorted(own, key=lambda c: (not c.same_student, c.kind != "equal steps"))
    other = (c for c in ordered[1:] if c.kind in ("equal time", "more time"))
    return next(iter(ordered), None), next(other, None)


def _common(column: Sequence[Comparison], kinds: bool = True) -> str:
    """What all of a column are compared with, for its head."""
    baselines, of_kind = {c.baseline for c in column}, {c.kind for c in column}
    words = f"to {baselines.pop()}" if len(baselines) == 1 else "to the baseline"
    return text(f"{words} {KINDS[of_kind.pop()]}".strip() if kinds and len(of_kind) == 1 else words)


def _own(comparison: Comparison, column: Sequence[Comparison]) -> str:
    """What is not common to all of the column."""
    words = [f"to {comparison.baseline}"] * (len({c.baseline for c in column}) > 1)
    words += [KINDS[comparison.kind]] * (len({c.kind for c in column}) > 1)
    return text(" ".join(word for word in words if word))


def _named(report: Report, stage: StageReport) -> list[str]:
    dice, size = summary_of(stage, report.seed)["all"]["dice"], stage.cost.get("parameters")
    role = "without distillation" if stage.role == "baseline" else stage.role
    facts = ([role] if is_distilled(report) else []) + ([amount(size)] if size else [])
    name = f"{stage_name(report, stage)}<small>{text(', '.join(facts))}</small>"
    return [name, interval_cell(dice) if dice["mean"] is not None else NOT_MEASURED]


def _spread(cell: Sequence[StageReport], seed: int) -> str:
    """Standard deviation over the trainings of their mean Dice."""
    means = [summary_of(training, seed)["all"]["dice"]["mean"] for training in cell]
    known = [mean for mean in means if mean is not None]
    if not known:
        return "—"
    return f"{number(repeated(known).deviation)}<small>{len(known)} seed{'s' * (len(known) != 1)}</small>"


def _answer(comparison: Comparison | None, column: Sequence[Comparison]) -> list[str]:
    """Difference with its interval, p and verdict."""
    if comparison is None:
        return ["—", "—", "—"]
    of, own = comparison.difference, _own(comparison, column)
    difference = f"{signed(of.mean)}<small>{span_text(of.low, of.high)}</small>"
    difference += f"<small>{own}</small>" if own else ""
    return [difference, p_text(comparison.corrected), _verdict(comparison)]


def _verdict(comparison: Comparison, difference: str = "") -> str:
    verdict, _, more = comparison.words.partition(", ")
    small = ", ".join(part for part in (difference, text(more)) if part)
    return f"<b>{verdict}</b>" + (f"<small>{small}</small>" if small else "")


def _short(comparison: Comparison | None, column: Sequence[Comparison]) -> str:
    """The verdict with its difference."""
    if comparison is None:
        return "—"
    return _verdict(comparison, f"{signed(comparison.difference.mean)} {_own(comparison, column)}".strip())
