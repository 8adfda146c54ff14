"""Stages that learn the class of an image: their networks, tasks, and what must be so before they are trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import nn

from segdistill.data.cases import Case
from segdistill.errors import InputError
from segdistill.losses import create_loss
from segdistill.models import find
from segdistill.recipes.inputs import StageInputs
from segdistill.recipes.schema_stage import ModelRecipe, StageRecipe
from segdistill.recipes.stage import build_network
from segdistill.training.checkpoint import load_part, load_weights
from segdistill.training.distillation import Distillation
from segdistill.training.joint import Joint, know
from segdistill.training.joint_distillation import JointDistillation
from segdistill.training.joint_loss import JointLoss
from segdistill.training.loop import WEIGHTS
from segdistill.training.task import Task

FEX = ("encoder.", "classifier.")
"""Parameters that `load_fex: false` leaves as they are: the extractor of features and the head on it."""


def labelled_model(stage: StageRecipe) -> ModelRecipe:
    """The stage's network with as many answers as the stage has classes of images.

    Raises:
        InputError: the network has another number, or cannot say a class at all.

    >>> stage = StageRecipe(task="joint", model=ModelRecipe(name="lanet_resnet18"))
    >>> labelled_model(stage).options
    {'labels': 2}
    """
    joint, model = stage.joint_settings, stage.model
    if joint is None:
        return model
    kind, name = find(model.name).kind, model.name
    if kind == "segmenter" and name != "foreign" and ":" not in name:
        raise InputError(
            f"{name} says no class of an image: use a classifier or a network such as lanet_resnet18"
        )
    if kind not in ("classifier", "joint"):
        return model  # another's network: its own options decide
    option, count = ("classes" if kind == "classifier" else "labels"), len(joint.classes)
    if model.options.get(option, count) != count:
        raise InputError(f"{name} has {option} {model.options[option]}, but joint.classes names {count}")
    return model.model_copy(update={option: count})


def start_network(inputs: StageInputs) -> nn.Module:
    """The network of a stage, with the weights of the stage that it starts from.

    Raises:
        InputError: it cannot be built, or the weights are of another architecture.
    """
    stage = inputs.stage
    network = build_network(labelled_model(stage), inputs.preprocess.channels)
    if stage.starts_from is None:
        return network
    weights: Path = inputs.teacher_folder(stage.starts_from) / WEIGHTS
    if stage.load_fex:
        load_weights(weights, network)
    else:
        load_part(weights, network, without=FEX)
    return network


def joint_task(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    """The task of a stage with task `joint`."""
    return Joint(start_network(inputs), *_told(inputs, cases))


def student_task(inputs: StageInputs, cases: list[Case]) -> Callable[..., Distillation]:
    """What makes the task of a distillation stage: that of a joint student where the stage says so."""
    if inputs.stage.joint_settings is None:
        return Distillation
    return partial(JointDistillation, *_told(inputs, cases))


def _told(inputs: StageInputs, cases: list[Case]) -> tuple[Any, ...]:
    joint, loss = inputs.stage.joint_settings, inputs.stage.loss
    assert joint is not None
    hard = JointLoss(joint, create_loss(loss.name, **loss.options))
    known = (know(found, joint.classes, joint.uses_class) for found in (cases, inputs.of("val")))
    return (hard, *known)


def require_joint(stage: StageRecipe, name: str, cases: list[Case]) -> None:
    """Refuses training cases that cannot teach a stage the classes and locations that it is to learn.

    Raises:
        InputError: no location, a label that is none of its classes, or a class with fewer than two cases.

    >>> stage = StageRecipe(task="joint", model=ModelRecipe(name="lanet_resnet18"))
    >>> require_joint(stage, "net", [Case("a", Path("a.png"))])
    Traceback (most recent call last):
    segdistill.errors.InputError: stage net: no training case has a mask or a box: add some, or set joint.location: none
    """
    joint = stage.joint_settings
    if joint is None:
        return
    says_where = find(stage.model.name).kind != "classifier" or stage.task != "joint"
    if joint.uses_location and says_where and not any(c.is_located for c in cases):
        raise InputError(
            f"stage {name}: no training case has a mask or a box: add some, or set joint.location: none"
        )
    if not joint.uses_class:
        return
    know(cases, joint.classes)
    there = Counter(case.label for case in cases)
    for label in joint.classes:
        if there[label] < 2:
            raise InputError(
                f"stage {name}: class '{label}' has {there[label]} training case(s): give at least 2, or leave it out "
                "of joint.classes and data.labels"
            )
