"""The first screen of the report: what was trained, how good it is, what it costs, and whether distillation helped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segdistill.report.context import Context, External, Network
from segdistill.report.render import NOTHING_TESTED
from segdistill.stats.text import interval_text, number, signed
from segdistill.stats.verdict import KINDS, Verdict

EXPECTED = {
    "likely": "Distillation was expected to help",
    "unlikely": "Distillation was not expected to help",
    "unknown": "Whether distillation would help was not known",
}
"""What the guard expected before training, in words."""
ROLES = {"baseline": "baseline, without teachers", "comparator": "another network"}


def opening(context: Context) -> dict[str, Any]:
    """The values of opening.html."""
    chosen = [_chosen([c for c in context.verdicts if c.variant == n.compared_as]) for n in context.variants]
    return {
        "sentence": sentence(context, context.headline),
        "expected": expected_sentence(context),
        "gains": gains_sentence(context),
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
    if not context.report.is_tested:
        return f"{what[:1]}{what[1:].rstrip(',')} was trained. {NOTHING_TESTED}"
    if dice.mean is None:
        return f"The Dice of {what.rstrip(',')} was not measured: no case with a reference has something to find."
    on = " ".join(f"{dice.n} {context.report.evaluated_on} case{'s' * (dice.n != 1)}".split())
    return f"On {on}, {what} reaches a mean Dice of {interval_text(dice)}."


def expected_sentence(context: Context) -> str:
    """Whether distillation was expected to help before training, beside the outcome; "" unless there is one student.

    Args:
        context: of the report; the seeds of a variant are one student.
    """
    students = [n for n in context.variants if n.stage.role == "student"]
    guards = [stage.guard for n in students for stage in n.trainings if stage.guard is not None]
    if len(students) != 1 or not guards:
        return ""
    outlooks = list(dict.fromkeys(guard.outlook for guard in guards))
    words = f"{EXPECTED[outlooks[0]]}: {'; '.join(guards[0].reasons)}"
    if len(outlooks) > 1:
        words = f"Whether distillation would help was {' or '.join(outlooks)}, depending on the seed"
    return f"{words}; outcome: {outcome_text(context, students[0])}."


def outcome_text(context: Context, student: Network) -> str:
    """What came of a student at home and on tables from elsewhere, against its first baseline, in words."""
    places: list[Context | External] = [context, *context.external]
    own = [_first(place, student) for place in places]
    found = [f"{v.words}{v.place} ({signed(v.difference.mean)} {v.label})" for v in own if v is not None]
    return ", ".join(found) or ("no baseline to compare with" if context.report.is_tested else "not tested")


def gains_sentence(context: Context) -> str:
    """The gain over the baseline at home and on each table from elsewhere, or the scores; "" without such tables."""
    if not context.external or context.headline is None:
        return ""
    first = "At home nothing was tested"
    if context.report.is_tested:
        first = f"At home {_gain(context, context.headline)}"
    others = [f"at {one.name} {_gain(one, context.headline)}" for one in context.external]
    return "; ".join([first, *others]) + "."


def _gain(place: Context | External, headline: Network) -> str:
    """The headline's gain in one place, else its score there."""
    network = next((n for n in place.variants if n.name == headline.name), None)
    if (verdict := _first(place, headline)) is not None:
        of = verdict.difference
        interval = "" if of.low is None else f", 95 % interval {signed(of.low)} to {signed(of.high)}"
        than = f"“{verdict.variant}” minus “{verdict.baseline}”"
        return f"{than} is {signed(of.mean)} {verdict.label}{interval}: {verdict.words}"
    if network is None or network.dice.mean is None:
        return "no Dice was measured"
    return f"“{network.name}” reaches a mean Dice of {interval_text(network.dice)}"


def _first(place: Context | External, student: Network) -> Verdict | None:
    """The verdict on a student that comes first: at equal steps, with the same network."""
    return _chosen([v for v in place.verdicts if v.variant == student.compared_as])[0]


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
