"""The recipe of a ladder: students from large to small, each with and without a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segdistill.config.effort import VOLUME_FIT, DataFacts, stages_of, volume_data
from segdistill.config.matrix import map_stages
from segdistill.errors import InputError
from segdistill.registry import near_names

DISTILLED = "_distilled"
"""Ends the name of a rung's stage that has a teacher; the one without is called like the rung."""
LONGEST = 4
"""A fast rung takes at most so many times the steps of the slowest."""


@dataclass(frozen=True)
class LadderEffort:
    """What an effort means for a ladder.

    Attributes:
        steps: of the slowest rung.
        folds: of the cross-validation.
        seeds: trainings of each fold.
        rungs: networks, as `parse_rungs` takes them.
        volume_rungs: the same, of volumes.
    """

    steps: int
    folds: int
    seeds: int
    rungs: tuple[str, ...]
    volume_rungs: tuple[str, ...]


def _volumes(*sizes: str) -> tuple[str, ...]:
    return tuple(f"lite_unet/volume_{size}" for size in sizes)


_SMALLER = ("lite_unet/large", "lite_unet/medium", "lite_unet/small", "lite_unet/tiny")
EFFORTS = {
    "quick": LadderEffort(
        400,
        3,
        1,
        ("simplified_unet", "lite_unet/huge", "lite_unet/medium", "lite_unet/tiny"),
        _volumes("large", "medium", "tiny"),
    ),
    "normal": LadderEffort(
        1500, 5, 1, ("simplified_unet", *_SMALLER), _volumes("large", "medium", "small", "half", "tiny")
    ),
    "patient": LadderEffort(
        3000,
        5,
        2,
        ("simplified_unet", "lite_unet/huge", *_SMALLER),
        _volumes("large", "medium", "wide", "small", "half", "tiny"),
    ),
}


def ladder_effort(effort: str) -> LadderEffort:
    """What an effort means for a ladder.

    Raises:
        InputError: an unknown effort.

    >>> ladder_effort("quick").folds
    3
    """
    if effort not in EFFORTS:
        raise InputError(f"effort is {effort!r}: {near_names(effort, EFFORTS)}")
    return EFFORTS[effort]


def parse_rungs(rungs: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rungs by name, each with what `model` of a stage states.

    Args:
        rungs: networks, each NAME or NAME/PRESET; or name -> {"name": network, option: value, ...}.

    Raises:
        InputError: fewer than two rungs, or one of them twice.

    >>> parse_rungs(["simplified_unet", "lite_unet/tiny"])
    {'simplified_unet': {'name': 'simplified_unet'}, 'lite_unet_tiny': {'name': 'lite_unet', 'preset': 'tiny'}}
    """
    if isinstance(rungs, Mapping):
        found = {name: dict(model) for name, model in rungs.items()}
    else:
        found = {}
        for text in rungs:
            network, _, preset = text.strip().partition("/")
            name = f"{network}_{preset}" if preset else network
            if name in found:
                raise InputError(f"rungs: {text.strip()} is there twice: give each network once")
            found[name] = {"name": network} | ({"preset": preset} if preset else {})
    if len(found) < 2:
        raise InputError(
            f"rungs: {', '.join(found) or 'none'}: a ladder needs at least two networks, such as "
            "simplified_unet,lite_unet/tiny"
        )
    if taken := [name for name in found if name.endswith(DISTILLED)]:
        raise InputError(f"rungs: {taken[0]} ends in {DISTILLED}, which names a stage: rename it")
    return found


def times_longer(ms: Mapping[str, float]) -> dict[str, int]:
    """How many times the steps of the slowest rung each rung takes: about as long as that one, at most four times.

    A small network goes on to learn, the more so from a teacher: on validation cases of BUSI the student without much
    training is below its baseline, and above it after four times the steps (docs/results/pays.md).

    Args:
        ms: rung -> milliseconds of one image.

    >>> times_longer({"simplified_unet": 9.6, "lite_unet_huge": 3.8, "lite_unet_tiny": 0.4})
    {'simplified_unet': 1, 'lite_unet_huge': 2, 'lite_unet_tiny': 4}
    """
    slowest = max(ms.values())
    return {name: min(int(slowest / own), LONGEST) for name, own in ms.items()}


def ladder_recipe(
    rungs: Mapping[str, Mapping[str, Any]],
    effort: str,
    facts: DataFacts,
    *,
    reference: str,
    margin: float,
    seeds: int | None = None,
    folds: int | None = None,
    outside: Mapping[str, Any] | None = None,
    plain_only: Sequence[str] = (),
    longer: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The content of a recipe that trains every rung with and without a teacher, by cross-validation.

    The teacher is what `effort` makes for these data (config/effort.py), an ensemble of unlike networks, or the one
    from elsewhere.

    Args:
        rungs: name -> model, from large to small.
        effort: quick, normal or patient.
        facts: of the data.
        reference: the rung that all are compared with; where the ensemble has the baseline as a member, it is this one.
        margin: the accepted loss.
        seeds: trainings of each fold instead of the effort's; 0: the recipe has neither seeds nor folds.
        folds: instead of the effort's.
        outside: a teacher from elsewhere, as an entry of `teachers` states it.
        plain_only: rungs that are trained without a teacher only.
        longer: rung -> as many times the effort's steps, of those that are faster (`times_longer`).

    Raises:
        InputError: an unknown effort, or a rung that is called like a teacher.

    >>> two = parse_rungs(["simplified_unet", "lite_unet/tiny"])
    >>> made = ladder_recipe(two, "quick", DataFacts(), reference="simplified_unet", margin=0.02)
    >>> list(made["stages"])
    ['larger', 'teacher', 'simplified_unet', 'simplified_unet_distilled', 'lite_unet_tiny', 'lite_unet_tiny_distilled']
    >>> made["stages"]["larger"]["fit"]
    {'steps': 133}
    """
    level = ladder_effort(effort)
    made = stages_of(effort, facts)
    built = made["stages"]
    loss = built["student"]["loss"]
    taught = map_stages(built["student"], lambda other: reference if other == "baseline" else other)
    stages: dict[str, Any] = {}
    if outside is None:
        stages = {name: stage for name, stage in built.items() if name not in ("baseline", "student")}
        for name, stage in stages.items():
            own = stage.get("fit", {}).get("steps")
            if own:  # as large a share of a rung's steps as of a student's
                stages[name] = stage | {"fit": {"steps": level.steps * own // made["fit"]["steps"]}}
    else:
        taught = taught | {"teachers": {"teacher": dict(outside)}}
    students = {}
    for name, model in rungs.items():
        plain: dict[str, Any] = {"model": dict(model), "loss": loss}
        if longer and longer.get(name, 1) > 1:
            plain["fit"] = {"steps": longer[name] * level.steps}
        own = {"about": f"{name} without a teacher", "role": "baseline"} | plain
        if name in stages:
            raise InputError(f"rungs: '{name}' is also a stage of the recipe: rename it")
        if name == reference:  # it may be a teacher of all
            stages = {name: own} | stages if facts.without_mask else stages | {name: own}
        else:
            students[name] = own
        if name in plain_only:
            continue
        students[f"{name}{DISTILLED}"] = taught | {"about": f"{name} with a teacher"} | plain
    count = level.seeds if seeds is None else seeds
    repeated = {"folds": folds or level.folds} | {
        "seeds": list(range(count))
    }  # further seeds keep these trainings
    seen: dict[str, Any] = {"size": 256, "channels": 3}
    return {
        "name": "shrink",
        "about": "How small can it get? Networks from large to small, each with and without a teacher.",
        "data": seen if facts.volumes is None else volume_data(facts.volumes),
        "fit": {"steps": level.steps} | (VOLUME_FIT if facts.volumes else {}),
        "evaluation": {"margin": margin},
        "plan": True,
        "stages": stages | students,
    } | (repeated if count else {})
