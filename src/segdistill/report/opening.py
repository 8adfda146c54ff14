"""The first screen of the report: what was trained, how good it is, what it costs, and whether distillation helped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segdistill.report.context import Context, Network
from segdistill.stats.text import interval_text, number
from segdistill.stats.verdict import KINDS, Verdict

ROLES = {"baseline": "baseline, without teachers", "comparator": "another network"}


def opening(context: Context) -> dict[str, Any]:
    """The values of opening.html."""
    chosen = [_chosen([c for c in context.verdicts if c.variant == n.compared_as]) for n in context.variants]
    return {
        "sentence": sentence(context, context.headline),
        "ratio": ratio_sentence(context.headline, context.teachers),
        "roles": [_role(context, network) for network in context.variants],
        "chosen": chosen,
        "at_steps": [steps for steps, _ in chosen if steps is not None],
        "at_time": [time for _, time in chosen if time is not None],
        "common": _common,
        "own": _own,
    }


def sentence(context: Context, network: Network | None) -> str:
    """What was trained and how good it is, as plain text.

    Args:
        context: of the report.
        network: the headline, or one training of it.
    """
    if network is None:
        return "No network was evaluated."
    stage, dice = network.stage, network.dice
    what = f"“{stage.name}”" + (f" ({stage.task})" if stage.task else "")
    if stage.role == "student" and "distil" not in stage.task.lower():
        count = len(context.teachers)
        teachers = "one teacher" if count == 1 else f"{count} teachers"
        what += f", distilled from {teachers}," if count else ", a distilled student,"
    if dice.mean is None:
        return f"The Dice of {what.rstrip(',')} was not measured: no case with a reference has something to find."
    on = " ".join(f"{dice.n} {context.report.evaluated_on} case{'s' * (dice.n != 1)}".split())
    return f"On {on}, {what} reaches a mean Dice of {interval_text(dice)}."


def ratio_sentence(network: Network | None, teachers: Sequence[Network]) -> str:
    """Parameters, operations and time as a share of the largest teacher's; "" where not known.

    >>> ratio_sentence(None, [])
    ''
    """
    known = [teacher for teacher in teachers if teacher.stage.cost.parameters]
    if network is None or not known:
        return ""
    largest = max(known, key=lambda teacher: teacher.stage.cost.parameters or 0)
    mine, theirs = network.stage.cost, largest.stage.cost
    parts = []
    for key, words in (("parameters", "parameters"), ("macs", "operations"), ("ms", "time per image")):
        a, b = getattr(mine, key), getattr(theirs, key)
        if a and b and (key == "parameters" or mine.input == theirs.input):
            share = 100 * a / b
            parts.append(f"{number(share, 1 if share < 10 else 0)} % of the {words}")
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    if len(teachers) > 1:
        return f"It has {listed} of “{largest.name}”, its largest teacher."
    return f"It has {listed} of its teacher “{largest.name}”."


def _role(context: Context, network: Network) -> str:
    """In words, where the name does not tell it; where nothing was distilled a baseline is just a network."""
    role = network.stage.role
    if role == network.name:
        return ""
    return ROLES.get(role, role) if context.is_distilled or role in ("teacher", "student") else ""


def _chosen(own: Sequence[Verdict]) -> tuple[Verdict | None, Verdict | None]:
    """The comparison with the same network at equal steps, or the next best; and the one at equal time."""
    ordered = sorted(own, key=lambda c: (not c.same_student, c.kind != "equal steps"))
    other = (c for c in ordered[1:] if c.kind in ("equal time", "more time"))
    return next(iter(ordered), None), next(other, None)


def _common(column: Sequence[Verdict], kinds: bool = True) -> str:
    """What all of a column are compared with, for its head."""
    baselines, of_kind = {c.baseline for c in column}, {c.kind for c in column}
    words = f"to {baselines.pop()}" if len(baselines) == 1 else "to the baseline"
    return f"{words} {KINDS[of_kind.pop()]}".strip() if kinds and len(of_kind) == 1 else words


def _own(comparison: Verdict, column: Sequence[Verdict]) -> str:
    """What is not common to all of the column."""
    words = [f"to {comparison.baseline}"] * (len({c.baseline for c in column}) > 1)
    words += [KINDS[comparison.kind]] * (len({c.kind for c in column}) > 1)
    return " ".join(word for word in words if word)
