"""The task of a stage, built from the recipe: its network, losses, teachers and methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from segdistill.config.folds import may_teach
from segdistill.config.schema import AUTOENCODER, MethodRecipe, ModelRecipe, Recipe, StageRecipe
from segdistill.data.case import Case
from segdistill.data.maps import StoredMaps
from segdistill.distillation import (
    METHODS,
    DistillationMethod,
    StoredTeacher,
    Teacher,
    create_method,
    create_weighting,
    teacher_weights,
)
from segdistill.distillation.methods.lightvessel import FeatureAutoEncoders, feature_autoencoder
from segdistill.errors import InputError
from segdistill.experiment.inputs import StageInputs
from segdistill.experiment.stage import build_network, read_stage, require_stated_weights
from segdistill.experiment.teachers import confidence_of, live_teachers, stored_teachers
from segdistill.losses import create_loss
from segdistill.models.network import shapes_only
from segdistill.models.registry import NETWORKS, network_facts
from segdistill.registry import call
from segdistill.training.adversarial import Adversarial, make_discriminators, make_loss, stage_shapes
from segdistill.training.checkpoint import load_part, load_weights
from segdistill.training.distillation import Distillation
from segdistill.training.joint import Joint, JointDistillation, JointLoss, case_labels
from segdistill.training.loop import WEIGHTS
from segdistill.training.reconstruction import Reconstruction
from segdistill.training.task import Supervised, Task

P = TypeVar("P", ModelRecipe, MethodRecipe)


def build_autoencoders(model: ModelRecipe, network: nn.Module, name: str) -> FeatureAutoEncoders:
    """Untrained auto-encoders for the features of a network, called `name` in messages.

    Raises:
        InputError: an unknown option, or a feature that the network does not have.

    >>> from segdistill.models.registry import create_network
    >>> unet = create_network("unet", widths=[2, 4, 4])
    >>> build_autoencoders(ModelRecipe(name="feature_autoencoder", layers=[2]), unet, "teacher").layers
    ('enc@2', 'dec@2')
    """
    if model.name != AUTOENCODER:
        raise InputError(f"'{model.name}' has no auto-encoders: use model: {{name: {AUTOENCODER}}}")
    return call(f"network '{AUTOENCODER}'", partial(feature_autoencoder, network, name), model.options)


def load_autoencoders(folder: Path, network: nn.Module, name: str) -> FeatureAutoEncoders:
    """Trained auto-encoders from their stage's folder, for a network of the architecture that they learned from.

    Raises:
        InputError: the stage is not finished, or learned from another architecture.
    """
    record = read_stage(folder)
    if record is None or not record.is_finished:
        raise InputError(f"stage {folder.name} is not finished: run its recipe again to continue")
    codes = build_autoencoders(ModelRecipe.model_validate(record.network), network, name)
    load_weights(folder / WEIGHTS, codes)
    require_stated_weights(folder, record)
    return codes


def make_methods(
    stage: StageRecipe, codes: Callable[[str, str], FeatureAutoEncoders]
) -> dict[str, tuple[float, DistillationMethod]]:
    """Name -> (weight, method) of a distillation stage.

    Args:
        stage: of the recipe.
        codes: (name of a network, name of the stage of its auto-encoders) -> these.

    Raises:
        InputError: an unknown method or option.
    """
    made = {}
    for name, part in stage.methods.items():
        options = part.options
        if part.autoencoders:
            options["autoencoders"] = {
                network: codes(network, own) for network, own in part.autoencoders.items()
            }
        made[name] = (part.weight, create_method(part.method, **options))
    return made


def mask_methods(stage: StageRecipe) -> list[str]:
    """The methods of a distillation stage that learn nothing from an image without mask.

    >>> from segdistill.config.load import load_recipe
    >>> changes = {"effort": None, "stages.student.methods": {"cwd": {}, "region_contrast": {}}}
    >>> mask_methods(load_recipe("distill", changes).stages["student"])
    ['region_contrast']
    """
    alone = {name: part for name, part in stage.methods.items() if not part.autoencoders}
    return [name for name, part in alone.items() if create_method(part.method, **part.options).needs_mask]


def with_class_count(recipe: Recipe) -> Recipe:
    """The recipe with the number of its classes, and of dimensions, in the networks and methods that have such options.

    With one kind of foreground in pictures it is as it was: that is what they all take by default.

    >>> from segdistill.config.load import load_recipe
    >>> recipe = with_class_count(load_recipe("distill", {"data.classes": {"head": 1, "body": 2}, "effort": None}))
    >>> recipe.stages["student"].model.options["classes"]
    3
    """
    facts = {"classes": len(recipe.data.class_names), "dimensions": recipe.data.dimensions}
    if facts == {"classes": 2, "dimensions": 2}:
        return recipe
    stages = {name: _with_facts(stage, facts) for name, stage in recipe.stages.items()}
    return recipe.model_copy(update={"stages": stages})


def _with_facts(stage: StageRecipe, facts: Mapping[str, int]) -> StageRecipe:
    model = stage.model
    is_mask = stage.task != "autoencoder" and network_facts(model.name).kind != "classifier"
    own = NETWORKS.find("external" if ":" in model.name else model.name).options if is_mask else {}
    for option, value in facts.items() if is_mask else ():
        if option not in model.options and (option == "classes" or option in own):
            model = _with_option(model, option, value)
    methods = dict(stage.methods)
    for name, method in stage.methods.items():
        for option in (
            facts.keys() & METHODS.find(method.method or name).options.keys() - method.options.keys()
        ):
            methods[name] = _with_option(methods[name], option, facts[option])
    return stage.model_copy(update={"model": model, "methods": methods})


def _with_option(part: P, option: str, value: object) -> P:
    """The part of a recipe with one of its own options."""
    return type(part).model_validate(part.model_dump(exclude_unset=True) | {option: value})


FEX = ("encoder.", "classifier.")
"""Parameters that `load_fex: false` does not load: the feature extractor and the classifier on it."""


def labelled_model(stage: StageRecipe) -> ModelRecipe:
    """The stage's network with as many label outputs as the stage has classes of images.

    Raises:
        InputError: the network has another number, or no label output at all.

    >>> stage = StageRecipe(task="joint", model=ModelRecipe(name="lanet_resnet18"))
    >>> labelled_model(stage).options
    {'labels': 2}
    """
    joint, model = stage.joint_settings, stage.model
    if joint is None:
        return model
    kind, name = network_facts(model.name).kind, model.name
    if kind == "segmenter":
        raise InputError(
            f"{name} does not classify images: use a classifier or a network such as lanet_resnet18"
        )
    if kind not in ("classifier", "joint"):
        return model  # an external network: its own options decide
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


def _joint_parts(inputs: StageInputs, cases: list[Case]) -> tuple[Any, ...]:
    joint, loss = inputs.stage.joint_settings, inputs.stage.loss
    assert joint is not None
    hard = JointLoss(joint, create_loss(loss.name, **loss.options))
    known = (case_labels(found, joint.classes, joint.uses_class) for found in (cases, inputs.of("val")))
    return (hard, *known)


def require_joint(stage: StageRecipe, name: str, cases: list[Case]) -> None:
    """Refuses training cases without the classes and locations that a stage learns.

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
    segments = network_facts(stage.model.name).kind != "classifier" or stage.task != "joint"
    if joint.uses_location and segments and not any(c.is_located for c in cases):
        raise InputError(
            f"stage {name}: no training case has a mask or a box: add some, or set joint.location: none"
        )
    if not joint.uses_class:
        return
    case_labels(cases, joint.classes)
    there = Counter(case.label for case in cases)
    for label in joint.classes:
        if there[label] < 2:
            raise InputError(
                f"stage {name}: class '{label}' has {there[label]} training case(s): give at least 2, or remove it "
                "from joint.classes and data.labels"
            )


Maps = Mapping[str, StoredMaps]


def build_task(
    inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str, maps: Maps | None = None
) -> Task:
    """What a stage trains.

    Args:
        inputs: the stage's part of the recipe, and the folders of its teachers.
        cases: its training cases, in the order of its views.
        fabric: the device for what is not trained.
        precision: of the training; teachers run in bf16 where it is mixed.
        maps: name of each teacher -> its stored predictions, where the stage has targets by case.

    Raises:
        InputError: a part cannot be built.
    """
    return _TASKS[inputs.stage.task](inputs, cases, fabric, precision, maps or {})


def _supervised(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str, maps: Maps) -> Task:
    network = start_network(inputs)
    loss = create_loss(inputs.stage.loss.name, **inputs.stage.loss.options)
    return Supervised(network, loss, inputs.stage.deep_supervision)


def _autoencoder(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str, maps: Maps) -> Task:
    teacher = live_teachers(inputs, fabric)[0]
    return Reconstruction(build_autoencoders(inputs.stage.model, teacher.network, teacher.name), teacher)


def _distillation(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str, maps: Maps) -> Task:
    stage = inputs.stage
    network = start_network(inputs)
    loss = create_loss(stage.loss.name, **stage.loss.options)
    live = live_teachers(inputs, fabric) if stage.targets == "view" else []
    teachers: Sequence[Teacher] | Sequence[StoredTeacher] = live or stored_teachers(stage)
    networks = {"student": network} | {teacher.name: teacher.network for teacher in live}

    def codes(name: str, trained: str) -> FeatureAutoEncoders:
        return load_autoencoders(inputs.teacher_folder(trained), networks[name], name).to(fabric.device)

    labels = [case.label for case in cases]
    belongs = torch.tensor([[not t.labels or label in t.labels for t in teachers] for label in labels])
    allowed = torch.tensor(may_teach(inputs.recipe, inputs.name, cases, inputs.cases)).float()
    if stage.taught_cases == "without_mask":
        allowed = allowed * torch.tensor([[float(not case.has_reference)] for case in cases])
    if maps:
        allowed = allowed * torch.tensor(
            [[confidence_of(stage, maps[t.name], case) for t in teachers] for case in cases]
        )
    adaptive = stage.weighting.name != "fixed"
    joint = stage.joint_settings is not None
    make = partial(JointDistillation, *_joint_parts(inputs, cases)) if joint else Distillation
    return make(
        network,
        loss,
        teachers,
        teacher_weights(teachers, labels, stage.routing) * allowed,
        make_methods(stage, codes),
        stage.hard_weight,
        belongs if stage.finetune_teachers else None,
        create_weighting(stage.weighting.name, **stage.weighting.options) if adaptive else None,
        stage.combine,
    )


def _joint(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str, maps: Maps) -> Task:
    return Joint(start_network(inputs), *_joint_parts(inputs, cases))


def _adversarial(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str, maps: Maps) -> Task:
    settings, channels = inputs.stage.adversarial_settings, inputs.preprocess.channels
    size = inputs.recipe.data.height_width
    with shapes_only():
        plain = inputs.stage.model.model_copy(update={"pretrained": None})
        shapes = stage_shapes(build_network(plain, channels), channels, size)
    # the generator first: its weights are then those of the same network trained without discriminators
    network = start_network(inputs)
    discriminators = make_discriminators(settings, shapes, channels, size)
    autocast = torch.bfloat16 if precision.startswith("bf16") else None
    accumulate = inputs.settings.accumulate
    return Adversarial(network, discriminators, make_loss(settings, len(shapes)), accumulate, autocast)


_TASKS: dict[str, Callable[[StageInputs, list[Case], Fabric, str, Maps], Task]] = {
    "supervised": _supervised,
    "autoencoder": _autoencoder,
    "distillation": _distillation,
    "joint": _joint,
    "adversarial": _adversarial,
}
