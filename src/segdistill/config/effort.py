"""`effort` of a recipe: stages that are chosen from the data, instead of being written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from segdistill.data.plan import VolumePlan
from segdistill.errors import InputError
from segdistill.registry import near_names

Effort = Literal["auto", "quick", "normal", "patient"]


@dataclass(frozen=True)
class DataFacts:
    """What decides the choice.

    Attributes:
        without_mask: whether some training images have no mask.
        imagenet: whether ImageNet weights are installed (the extra `pretrained`).
        volumes: what a network should see of the data, where these are volumes of which it should see patches, not
            slices; else None.

    >>> DataFacts().volumes is None
    True
    """

    without_mask: bool = False
    imagenet: bool = False
    volumes: VolumePlan | None = None


@dataclass(frozen=True)
class _Level:
    """Steps of the student and of its baseline, and the teachers: how many of each kind, folds, seeds."""

    steps: int
    own: int
    larger: int
    other: int
    folds: int
    seeds: tuple[int, ...] = ()


_LEVELS = {
    "quick": _Level(2400, 0, 1, 1, 2),
    "normal": _Level(4500, 0, 2, 2, 3),
    "patient": _Level(6000, 0, 2, 2, 5, (0, 1, 2)),
}
_VOLUME_LEVELS = {
    "quick": _Level(800, 1, 0, 1, 2),
    "normal": _Level(3000, 3, 0, 2, 3),
    "patient": _Level(5000, 3, 0, 2, 5, (0, 1, 2)),
}
IMAGENET: dict[str, Any] = {"name": "unet_efficientnet_lite", "pretrained": "imagenet"}
FROM_SCRATCH: dict[str, Any] = {"name": "resnet_attention_unet", "depth": 18}
"""A teacher of another kind than the student, where ImageNet weights are installed, and where they are not."""
OWN, LARGER, OTHER = "own", "larger", "teacher"
_STEPS = {LARGER: 3, OTHER: 4}
"""A step of these networks takes three to four times as long as one of the student: they take so many fewer of them."""
VOLUME_FIT = {"batch_size": 2, "augment": "volume"}
"""How networks of volumes are trained."""


def volume_data(plan: VolumePlan) -> dict[str, Any]:
    """What `data` of a recipe states for networks that see patches of volumes.

    >>> volume_data(VolumePlan(None, (8, 16, 16), (8, 16, 12), 3, (0.0, 9.0)))
    {'dimensions': 3, 'size': [8, 16, 16], 'spacing': None}
    """
    return {"dimensions": 3, "size": list(plan.patch), "spacing": plan.spacing and list(plan.spacing)}


def effort_for(effort: str, facts: DataFacts, outside: dict[str, Any] | None = None) -> str | None:
    """What `auto` means for these data: quick, or None for the stages that the recipe writes out.

    An ensemble of unlike teachers is worth its time where some images have no mask, or where a teacher comes from
    elsewhere (docs/results/pays.md).

    >>> effort_for("auto", DataFacts(without_mask=True)), effort_for("auto", DataFacts())
    ('quick', None)
    >>> effort_for("patient", DataFacts())
    'patient'
    """
    if effort != "auto":
        return effort
    return "quick" if facts.without_mask or outside is not None else None


def stages_of(effort: str, facts: DataFacts, outside: dict[str, Any] | None = None) -> dict[str, Any]:
    """The parts of a recipe that the effort decides: fit, stages, seeds.

    The student is `lite_unet`, of about 3 ms. Its teacher is an ensemble of unlike networks: `simplified_unet`, which
    has three times the parameters and eight times the milliseconds, and a network that starts from ImageNet where its
    weights are installed; of volumes `lite_unet` and `unet`. Where some images have no mask, the teachers learn from
    all masks, the baseline is one of them, and the teachers teach the student the images without mask. Where all have
    one, each teacher is several, each without a fold, so that no case is taught by a network that has seen it.

    Args:
        effort: quick, normal or patient.
        facts: of the data.
        outside: a teacher from elsewhere, as an entry of `teachers` states it; it joins the ensemble.

    Raises:
        InputError: an unknown effort.

    >>> few = stages_of("quick", DataFacts(without_mask=True))
    >>> list(few["stages"])
    ['baseline', 'larger', 'teacher', 'student']
    >>> few["stages"]["student"]["teachers"]["ensemble"]["ensemble"][1]
    {'stage': 'larger', 'flips': True}
    """
    if effort not in _LEVELS:
        raise InputError(f"effort is {effort!r}: {near_names(str(effort), _LEVELS)}")
    level = (_LEVELS if facts.volumes is None else _VOLUME_LEVELS)[effort]
    student, larger, other = _networks(facts)
    loss = {"name": "cross_entropy_dice"}
    stages: dict[str, Any] = {
        "baseline": {
            "about": "the student's network, without teachers",
            "model": student,
            "loss": loss,
            "role": "baseline",
        }
    }
    members = []
    shared = facts.without_mask  # the baseline is one of the teachers: what they teach, it has not seen
    own = max(level.own - shared, 0)
    for kind, model, count in (
        (OWN, student, own),
        (LARGER, larger, level.larger),
        (OTHER, other, level.other),
    ):
        for number in range(1, count + 1):
            name = kind if number == 1 else f"{kind}_{number}"
            stages[name] = {"about": _ABOUT[kind], "model": model, "loss": loss, "role": "teacher"}
            stages[name] |= {} if number == 1 and kind == OTHER else {"seed": number}
            stages[name] |= {} if facts.without_mask else {"out_of_fold": level.folds}
            if level.larger and kind in _STEPS:
                stages[name]["fit"] = {"steps": level.steps // _STEPS[kind]}
            members.append(name)
    flips = facts.volumes is None  # views of volumes are not mirrored
    ensemble: list[dict[str, Any]] = [
        {"stage": name, "flips": flips} for name in (["baseline"] if shared else []) + members
    ]
    if outside is not None:
        ensemble.append(
            outside | {"weight": float(len(ensemble))}
        )  # it weighs as much as all that are trained here
    stages["student"] = {
        "about": "learns from masks, and from an ensemble of unlike networks",
        "task": "distillation",
        "model": student,
        "loss": loss,
        "role": "student",
        "targets": "case",
        "taught_cases": "without_mask" if facts.without_mask else "all",
        "teachers": {"ensemble": {"ensemble": ensemble, "weigh_by": "validation"}},
        "methods": {"soft_mask": {}},
    }
    built: dict[str, Any] = {
        "plan": True,
        "fit": {"steps": level.steps} | (VOLUME_FIT if facts.volumes else {}),
        "stages": stages,
        "run": [],
        "export": "student",
    }
    return built | ({"seeds": list(level.seeds)} if level.seeds else {})


def _networks(facts: DataFacts) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The student, a larger network of its kind, and the teacher of another kind."""
    if facts.volumes is not None:
        student = {"name": "lite_unet", "preset": "volume_large"}
        return student, student, {"name": "unet", "widths": [16, 32, 64, 128]}
    other = IMAGENET if facts.imagenet else FROM_SCRATCH
    return {"name": "lite_unet", "preset": "large"}, {"name": "simplified_unet"}, other


_ABOUT = {
    OWN: "a further network of the student's kind",
    LARGER: "a larger network",
    OTHER: "a network of another kind",
}
