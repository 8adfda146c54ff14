"""The task of a stage: its network, losses, teachers and knowledge, put together from the recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning_fabric import Fabric

from segdistill.data.cases import Case
from segdistill.knowledge import FeatureAutoEncoders, Teacher, create_weighing, teacher_weights
from segdistill.losses import create_loss
from segdistill.recipes.autoencoders import build_autoencoders, load_autoencoders, make_knowledge
from segdistill.recipes.inputs import StageInputs
from segdistill.recipes.joint import joint_task, start_network, student_task
from segdistill.recipes.out_of_fold import speaks
from segdistill.recipes.stage import build_network, load_stage
from segdistill.training.adversarial import Adversarial
from segdistill.training.adversary import make_discriminators, make_loss, stage_shapes
from segdistill.training.precision import choose_precision
from segdistill.training.reconstruction import Reconstruction
from segdistill.training.supervised import Supervised
from segdistill.training.task import Task


def build_task(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    """What a stage trains.

    Args:
        inputs: the stage's part of the recipe, and where its teachers lie.
        cases: its training cases, in the order of its views.
        fabric: the device for what is not trained.
        precision: of the training; teachers answer in bf16 where it is mixed.

    Raises:
        InputError: a part cannot be built.
    """
    return TASKS[inputs.stage.task](inputs, cases, fabric, precision)


def _supervised(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    network = start_network(inputs)
    loss = create_loss(inputs.stage.loss.name, **inputs.stage.loss.options)
    return Supervised(network, loss, inputs.stage.deep)


def _autoencoder(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    teacher = _teachers(inputs, fabric, precision)[0]
    return Reconstruction(build_autoencoders(inputs.stage.model, teacher.network, teacher.name), teacher)


def _distillation(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    stage = inputs.stage
    network = start_network(inputs)
    loss = create_loss(stage.loss.name, **stage.loss.options)
    teachers = _teachers(inputs, fabric, precision)
    networks = {"student": network} | {teacher.name: teacher.network for teacher in teachers}

    def codes(name: str, trained: str) -> FeatureAutoEncoders:
        return load_autoencoders(inputs.teacher_folder(trained), networks[name], name).to(fabric.device)

    labels = [case.label for case in cases]
    belongs = torch.tensor([[not t.labels or label in t.labels for t in teachers] for label in labels])
    heard = torch.tensor(speaks(inputs.recipe, inputs.name, cases, inputs.cases))
    adaptive = stage.weighing.name != "fixed"
    return student_task(inputs, cases)(
        network,
        loss,
        teachers,
        teacher_weights(teachers, labels, stage.routing) * heard,
        make_knowledge(stage, codes),
        stage.hard_weight,
        belongs if stage.finetune_teachers else None,
        create_weighing(stage.weighing.name, **stage.weighing.options) if adaptive else None,
        stage.combine,
    )


def _adversarial(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    settings, channels = inputs.stage.adversarial_settings, inputs.preprocess.channels
    size = inputs.preprocess.size
    with torch.device("meta"):
        plain = inputs.stage.model.model_copy(update={"pretrained": None})
        shapes = stage_shapes(build_network(plain, channels), channels, size)
    # the generator first: its weights are then those of the same network trained without discriminators
    network = start_network(inputs)
    discriminators = make_discriminators(settings, shapes, channels, size)
    autocast = torch.bfloat16 if precision.startswith("bf16") else None
    accumulate = inputs.settings.accumulate
    return Adversarial(network, discriminators, make_loss(settings, len(shapes)), accumulate, autocast)


def _teachers(inputs: StageInputs, fabric: Fabric, precision: str) -> list[Teacher]:
    stage = inputs.stage
    teachers = []
    for teacher in stage.teachers:
        model = inputs.recipe.stages[teacher.stage].model.name
        chosen = choose_precision(inputs.settings.precision, fabric.device, model)
        autocast = torch.bfloat16 if chosen.startswith("bf16") else None
        answering = load_stage(inputs.teacher_folder(teacher.stage)).network.to(fabric.device)
        if inputs.settings.channels_last:
            answering.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teachers.append(
            Teacher(
                teacher.stage, answering, teacher.weight, teacher.labels, autocast, stage.finetune_teachers
            )
        )
    return teachers


TASKS: dict[str, Callable[[StageInputs, list[Case], Fabric, str], Task]] = {
    "supervised": _supervised,
    "autoencoder": _autoencoder,
    "distillation": _distillation,
    "joint": joint_task,
    "adversarial": _adversarial,
}
