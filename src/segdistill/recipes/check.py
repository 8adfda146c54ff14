"""Refuses a recipe that cannot be trained before anything is: every part is built once without memory."""

from __future__ import annotations

import torch
from torch import nn

from segdistill.data.augment import make_augment
from segdistill.data.cases import Case
from segdistill.errors import InputError
from segdistill.knowledge import FeatureAutoEncoders, create_weighing
from segdistill.losses import create_loss
from segdistill.models import find
from segdistill.models.pretrained import require_encoder_weights
from segdistill.recipes.autoencoders import build_autoencoders, make_knowledge
from segdistill.recipes.inputs import stage_cases
from segdistill.recipes.joint import labelled_model, require_joint
from segdistill.recipes.schema import Recipe
from segdistill.recipes.schema_stage import StageRecipe
from segdistill.recipes.stage import build_network, encoder_of
from segdistill.training.adversary import make_discriminators, stage_shapes
from segdistill.training.distillation import connect


def require_cases(recipe: Recipe, name: str, cases: list[Case]) -> None:
    """Refuses a stage without training cases, or with a teacher for a class that no training case has.

    Raises:
        InputError: names the stage, the class or site, and what there is.
    """
    stage = recipe.stages[name]
    found = stage_cases(recipe, name, cases, "train")
    require_joint(stage, name, found)
    labels = {case.label for case in found}
    if stage.routing == "both" and not stage.finetune_teachers:
        return  # every teacher speaks on every image
    for teacher in stage.teachers:
        if teacher.labels and not labels & set(teacher.labels):
            raise InputError(
                f"stage {name}: teacher '{teacher.stage}' speaks for {', '.join(teacher.labels)}, but the "
                f"training cases are {', '.join(sorted(labels)) or 'without labels'}"
            )


def check_parts(recipe: Recipe, stages: list[str]) -> None:
    """Builds every part of the stages once without memory, so that a wrong option stops the run before it starts.

    Raises:
        InputError: an unknown network, loss, knowledge, option, feature or augmentation, images of a size that a
            network does not take, or pretrained weights that are not there, have another hash or do not fit; names
            the stage.
    """
    for name in stages:
        stage = recipe.stages[name]
        try:
            create_loss(stage.loss.name, **stage.loss.options)
            with torch.device("meta"):
                _check_networks(recipe, stage)
            make_augment(recipe.fit_settings(name).augment)
            _check_pretrained(stage, recipe.data.channels)
        except InputError as error:
            raise InputError(f"stage {name}: {error}") from error


def _check_networks(recipe: Recipe, stage: StageRecipe) -> None:
    """Networks and what they must have of each other, on the meta device."""

    def network(of: StageRecipe) -> nn.Module:
        return without_weights(of, recipe.data.channels)

    segments = stage.task != "autoencoder" and stage.joint_settings is None
    if segments and (kind := find(stage.model.name).kind) in ("classifier", "discriminator"):
        raise InputError(
            f"{stage.model.name} is a {kind}, but a stage with task: {stage.task} needs a network that segments: "
            "segdistill list models"
        )
    classes = stage.model.options.get("classes", 2)
    if stage.task not in ("autoencoder", "joint") and classes not in (1, 2):
        raise InputError(
            f"model.classes is {classes}, but masks have background and one kind of foreground: "
            "use 2, or 1 for a single sigmoid logit"
        )
    teachers = {teacher.stage: network(recipe.stages[teacher.stage]) for teacher in stage.teachers}
    if stage.task == "autoencoder":
        for name, teacher in teachers.items():
            build_autoencoders(stage.model, teacher, name)
        return
    student = network(stage)
    _require_size(recipe.data.height_width, student)
    if stage.task in ("supervised", "joint"):
        return
    if stage.task == "adversarial":
        channels, size = recipe.data.channels, recipe.data.height_width
        shapes = stage_shapes(student, channels, size)
        make_discriminators(stage.adversarial_settings, shapes, channels, size)
        return

    def codes(name: str, trained: str) -> FeatureAutoEncoders:
        learned = recipe.stages[trained]
        source = learned.teachers[0].stage
        return build_autoencoders(learned.model, network(recipe.stages[source]), source)

    weighing = create_weighing(stage.weighing.name, **stage.weighing.options)
    connect(student, teachers, make_knowledge(stage, codes), weighing, stage.combine)


def without_weights(stage: StageRecipe, channels: int) -> nn.Module:
    """The network of a stage, its pretrained weights not loaded: enough to ask for shapes, on the meta device too."""
    return build_network(labelled_model(stage).model_copy(update={"pretrained": None}), channels)


def _check_pretrained(stage: StageRecipe, channels: int) -> None:
    """Pretrained weights against the encoder that they are meant for."""
    model = stage.model
    if model.pretrained is None:
        return
    if stage.task == "autoencoder":
        raise InputError("auto-encoders take no pretrained weights: leave model.pretrained out")
    with torch.device("meta"):
        network = without_weights(stage, channels)
    require_encoder_weights(encoder_of(network, model.name), model.pretrained, model.sha256)


def _require_size(size: tuple[int, int], network: nn.Module) -> None:
    divisor, smallest = int(getattr(network, "size_divisor", 1)), int(getattr(network, "smallest", 1))
    sides = [-(-max(side, smallest) // divisor) * divisor for side in size]
    if sides != list(size):
        divided = all(side % divisor == 0 for side in size)
        takes = f"sides of {smallest} pixels and more" if divided else f"sides that {divisor} divides"
        fitting = str(sides[0] if sides[0] == sides[1] else sides)
        raise InputError(f"its network takes {takes}, not {size[0]}x{size[1]}: set size={fitting}")
