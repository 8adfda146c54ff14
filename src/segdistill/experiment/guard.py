"""Whether distillation is likely to help, told before a student is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from lightning_fabric import Fabric

from segdistill.config.schema import StageRecipe
from segdistill.data.case import Case
from segdistill.experiment.build import mask_methods
from segdistill.experiment.inputs import StageInputs, trained_on
from segdistill.experiment.stage import read_stage
from segdistill.experiment.teachers import (
    case_dice,
    comparable,
    predict_teacher,
    predict_with,
    standings,
)
from segdistill.models.registry import network_facts
from segdistill.records import GuardRecord, Interval, Outlook
from segdistill.stats.bootstrap import bootstrap_mean

MANY = 0.5
"""Share of training images without masks from which on teachers have much to add."""


@dataclass(frozen=True)
class GuardFacts:
    """What is known before a student is trained.

    Attributes:
        difference: Dice of its teachers minus that of its baseline on validation cases; None: not measured.
        without_mask: share of its training images that have no mask.
        teachers: number of networks that teach it.
        outside: whether one of them comes from elsewhere, or began with weights from elsewhere.
        same_masks: whether all of them learned from the very masks that the student has, and from nothing else.
        needed: what it would take to measure the difference, where it could not be.
        idle: methods that need masks, and so add nothing for the images without one.
        only_idle: whether all methods are such.
        counted: what validation cases make each member of an ensemble count; "": they do not decide it.
    """

    difference: Interval | None
    without_mask: float
    teachers: int
    outside: bool
    same_masks: bool
    needed: str = "validation cases, on which teachers and baseline can be compared"
    idle: tuple[str, ...] = ()
    only_idle: bool = False
    counted: str = ""


def expectation(facts: GuardFacts) -> GuardRecord:
    """The outlook: likely, unlikely or unknown, with its reasons and what would help.

    It rests on what was measured with this product (docs/results/): with all masks no method gained anything, even
    where the teacher was better; with few masks and many images, several unlike teachers, or one from elsewhere,
    students gained. A student that learns from the teachers' errors loses, so teachers that are worse are no help.

    >>> few = GuardFacts(Interval(0.02, -0.01, 0.05, 60), 0.8, 5, True, False)
    >>> expectation(few).outlook
    'likely'
    >>> expectation(GuardFacts(Interval(0.04, 0.01, 0.07, 98), 0.0, 1, False, True)).outlook
    'unlikely'
    """
    mean, low, high = _numbers(facts.difference)
    # images from which the student can learn nothing are no news
    bare = 0.0 if facts.only_idle else facts.without_mask
    brings_news = bare >= MANY or (facts.outside and low > 0)
    reasons, helps = _reasons(facts), []
    outlook: Outlook = "unknown"
    if high < 0:
        outlook = "unlikely"
        reasons.insert(0, "the teachers are worse than the baseline")
        helps.append("a better teacher: an ensemble, or a network from elsewhere")
    elif facts.same_masks and facts.without_mask == 0:
        outlook = "unlikely"
        helps.append("images without masks (data.unlabelled)")
        helps.append("a teacher from elsewhere, or one that starts from ImageNet")
    elif brings_news and mean is not None and mean > 0:
        outlook = "likely"
    if outlook != "likely" and facts.teachers == 1:
        helps.append("several unlike teachers as an ensemble")
    if facts.difference is None or facts.difference.mean is None:
        helps.append(facts.needed)
    return GuardRecord(
        outlook=outlook,
        reasons=reasons,
        helps=helps,
        difference=facts.difference,
        without_mask=facts.without_mask,
        teachers=facts.teachers,
        same_masks=facts.same_masks,
    )


def _numbers(difference: Interval | None) -> tuple[float | None, float, float]:
    """Mean and limits of a difference; limits that are not known support no claim."""
    if difference is None or difference.mean is None:
        return None, -math.inf, math.inf
    low, high = difference.low, difference.high
    return difference.mean, -math.inf if low is None else low, math.inf if high is None else high


def _reasons(facts: GuardFacts) -> list[str]:
    one = facts.difference
    found = ["teachers and baseline could not be compared on validation cases"]
    if one is not None and one.mean is not None:
        interval = "" if one.low is None or one.high is None else f" [{one.low:+.3f}, {one.high:+.3f}]"
        found = [f"teachers minus baseline on {one.n} validation cases: {one.mean:+.3f} Dice{interval}"]
    found.append(f"{facts.without_mask:.0%} of the training images have no mask")
    count = f"{facts.teachers} network{'s' if facts.teachers > 1 else ''} to learn from"
    masks = ", trained on the masks that the student has" if facts.same_masks else ""
    found.append(count + masks + (", with weights or data from elsewhere" if facts.outside else ""))
    if facts.counted:
        found.append(facts.counted)
    if facts.idle and facts.without_mask:
        need = "needs a mask" if len(facts.idle) == 1 else "need masks"
        found.append(
            f"{', '.join(facts.idle)} {need}, and so adds nothing for {facts.without_mask:.0%} of the images"
        )
    return found


def guard(inputs: StageInputs, fabric: Fabric) -> GuardRecord:
    """The outlook for a distillation stage, whose teachers and baseline are trained.

    Raises:
        InputError: a teacher cannot be used.
    """
    train = inputs.of("train")
    bare = sum(not case.has_reference for case in train) / len(train)
    members = [member for teacher in inputs.stage.teachers.values() for member in teacher.members]
    masks = {case.id for case in train if case.has_reference}
    seen = [trained_on(inputs.recipe, member, inputs.cases, inputs.predictions) for member in members]
    outside = any(member.is_outside or _starts_elsewhere(inputs, member.stage) for member in members)
    cases = [case for case in inputs.of("val") if case.is_located]
    compared, needed = comparable(inputs, members, cases)
    idle = mask_methods(inputs.stage)
    facts = GuardFacts(
        difference=_difference(inputs, compared, fabric) if compared else None,
        without_mask=bare,
        teachers=len(members),
        outside=outside,
        same_masks=not outside and all(ids is not None and ids <= masks for ids in seen),
        idle=tuple(idle),
        only_idle=0 < len(idle) == len(inputs.stage.methods),
        counted=_counted(inputs, fabric),
    )
    return expectation(replace(facts, needed=needed) if needed else facts)


def _counted(inputs: StageInputs, fabric: Fabric) -> str:
    """How much each member of an ensemble counts, and its Dice on validation cases."""
    found = [one for teacher in inputs.stage.teachers.values() for one in standings(inputs, teacher, fabric)]
    if not found:
        return ""
    members = ", ".join(f"{one.name} {one.share:.0%} ({one.dice:.3f})" for one in found)
    return f"teachers count by their Dice on {found[0].cases} validation cases: {members}"


def _starts_elsewhere(inputs: StageInputs, stage: str) -> bool:
    return bool(stage) and inputs.recipe.stages[stage].model.pretrained is not None


def _baseline(inputs: StageInputs) -> str | None:
    """A finished stage with the student's network and no teachers, of the same seed where there is one."""
    found = [
        name
        for name, stage in inputs.recipe.stages.items()
        if stage.role == "baseline" and stage.model == inputs.stage.model and _is_trained(inputs, name)
    ]
    return min(found, key=lambda name: inputs.recipe.seed_of(name) != inputs.seed, default=None)


def _is_trained(inputs: StageInputs, name: str) -> bool:
    record = read_stage(inputs.teacher_folder(name))
    return record is not None and record.is_finished


def _difference(inputs: StageInputs, cases: Sequence[Case], fabric: Fabric) -> Interval | None:
    """Dice of the teachers' mean prediction minus that of the baseline, on cases with foreground."""
    baseline, stage = _baseline(inputs), inputs.stage
    if baseline is None or _gives_no_map(inputs, stage):
        return None
    predicted = [predict_teacher(inputs, teacher, cases, fabric) for teacher in stage.teachers.values()]
    mean = [np.mean(rows, axis=0) for rows in zip(*predicted, strict=True)]
    theirs = case_dice(inputs, cases, mean)
    own = case_dice(inputs, cases, predict_with(inputs, baseline, cases, fabric))
    gains = [first - second for first, second in zip(theirs, own, strict=True)]
    return bootstrap_mean(gains, [case.group_key for case in cases])


def _gives_no_map(inputs: StageInputs, stage: StageRecipe) -> bool:
    own = [inputs.recipe.stages[name].model.name for name in stage.taught_by]
    return any(network_facts(name).kind == "classifier" for name in own)
