"""Trains one stage of a recipe: its task, its cases, its place on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from segdistill.data.augment import make_augment
from segdistill.data.cases import Case
from segdistill.data.store import Store
from segdistill.data.views import Views
from segdistill.errors import InputError
from segdistill.files import sha256_file, sha256_text
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.knowledge import FeatureAutoEncoders, Teacher, create_weighing, teacher_weights
from segdistill.losses import create_loss
from segdistill.recipes.autoencoders import build_autoencoders, load_autoencoders, make_knowledge
from segdistill.recipes.gather import training_cases
from segdistill.recipes.schema import Recipe, StageRecipe
from segdistill.recipes.stage import (
    begin,
    build_network,
    is_finished,
    is_trained,
    load_stage,
    read_info,
    record,
)
from segdistill.training.distillation import Distillation, connect
from segdistill.training.loop import WEIGHTS, Progress, fit
from segdistill.training.reconstruction import Reconstruction
from segdistill.training.settings import FitSettings
from segdistill.training.supervised import Supervised
from segdistill.training.task import Task

# settings that change how fast a stage is trained, not what comes out
NO_INPUT = {"checkpoint_seconds", "workers"}


@dataclass(frozen=True)
class StageInputs:
    """All that decides what a stage learns."""

    recipe: Recipe
    name: str
    cases: list[Case]
    store: Store
    preprocess: Preprocess
    folder: Path

    @property
    def stage(self) -> StageRecipe:
        """The stage's part of the recipe."""
        return self.recipe.stages[self.name]

    @property
    def settings(self) -> FitSettings:
        """How it is trained."""
        return self.recipe.fit_settings(self.name)

    def of(self, split: str) -> list[Case]:
        """The stage's cases of a split."""
        return stage_cases(self.recipe, self.name, self.cases, split)

    def teacher_folder(self, name: str) -> Path:
        """Where another stage of the same run lies."""
        return self.folder.parent / name

    def fingerprint(self, precision: str) -> str:
        """Changes with everything that the weights depend on: settings, cases, pixels, teachers."""
        facts: dict[str, Any] = {
            "seed": self.recipe.seed,
            "stage": self.stage.facts(),
            "fit": self.settings.model_dump(mode="json", exclude=NO_INPUT),
            "precision": precision,
            "preprocess": self.preprocess.to_dict(),
            "store": self.store.folder.name,
            "train": [case.id for case in self.of("train")],
            "val": [case.id for case in self.of("val")],
            "labels": [case.label for case in self.of("train")],
            "teachers": [sha256_file(self.teacher_folder(t.stage) / WEIGHTS) for t in self.stage.teachers],
        }
        codes = self.stage.needs[len(self.stage.teachers) :]
        if codes:
            facts["autoencoders"] = [sha256_file(self.teacher_folder(name) / WEIGHTS) for name in codes]
        return sha256_text(json.dumps(facts, sort_keys=True))


def train_stage(inputs: StageInputs, fabric: Fabric, precision: str) -> Iterator[Progress]:
    """Trains the stage, or goes on where an interrupted training of the same inputs stopped; gives the loop's progress.

    Raises:
        InputError: a part cannot be built, or the folder cannot be written.
        TrainingStopped: a loss was not finite.
    """
    fingerprint = inputs.fingerprint(precision)
    info = describe(inputs, fingerprint)
    if not fabric.broadcast(fabric.is_global_zero and is_trained(inputs.folder, fingerprint)):
        yield from _fit(inputs, info, fabric, precision)
    if fabric.is_global_zero:
        record(inputs.folder, info)
    fabric.barrier()


def _fit(inputs: StageInputs, info: dict[str, Any], fabric: Fabric, precision: str) -> Iterator[Progress]:
    settings, recipe = inputs.settings, inputs.recipe
    train_cases = inputs.of("train")
    # the same seed for every stage: a student and its undistilled twin begin with the same weights and see
    # the same views
    torch.manual_seed(recipe.seed)
    task = _task(inputs, train_cases, fabric, precision)
    train = _views(inputs, train_cases, settings.augment)
    held_out = inputs.of("val")
    validation = _views(inputs, held_out, "none") if held_out else None
    if fabric.is_global_zero:
        begin(inputs.folder, info)
    fabric.barrier()
    yield from fit(task, train, validation, settings, inputs.folder, fabric)


def still_stands(inputs: StageInputs, precision: str) -> bool:
    """Whether an earlier call trained this stage to the end and it still answers the recipe."""
    needed = [inputs.teacher_folder(name) / WEIGHTS for name in inputs.stage.needs]
    if not read_info(inputs.folder) or not all(path.exists() for path in needed):
        return False
    try:
        return is_finished(inputs.folder, inputs.fingerprint(precision))
    except InputError:  # a class that has no cases any more
        return False


def stage_cases(recipe: Recipe, name: str, cases: list[Case], split: str) -> list[Case]:
    """The cases of a split that a stage takes.

    Raises:
        InputError: there is nothing to train on, or one of its classes has no case.
    """
    labels = recipe.stages[name].labels or recipe.data.labels
    return training_cases(cases, split, labels, f"stage {name}")


def require_cases(recipe: Recipe, name: str, cases: list[Case]) -> None:
    """Refuses a stage without training cases, or with a teacher for a class that no training case has.

    Raises:
        InputError: names the stage, the class and what there is.
    """
    stage = recipe.stages[name]
    labels = {case.label for case in stage_cases(recipe, name, cases, "train")}
    if stage.routing == "both" and not stage.finetune_teachers:
        return  # every teacher speaks on every image
    for teacher in stage.teachers:
        if teacher.labels and not labels & set(teacher.labels):
            raise InputError(
                f"stage {name}: teacher '{teacher.stage}' speaks for {', '.join(teacher.labels)}, but the "
                f"training cases are {', '.join(sorted(labels)) or 'without labels'}"
            )


def describe(inputs: StageInputs, fingerprint: str) -> dict[str, Any]:
    """The content of stage.json: enough to use the weights without the recipe."""
    classes = inputs.stage.model.options.get("classes", 2)
    lesions = ["lesion"] if classes <= 2 else [f"class {i}" for i in range(1, classes)]
    names = ["background", *lesions]  # also with one logit: its probability is that of the lesion
    return {
        "name": inputs.name,
        "fingerprint": fingerprint,
        "role": inputs.stage.role,
        "about": inputs.stage.about,
        "teachers": [teacher.stage for teacher in inputs.stage.teachers],
        "model": inputs.stage.model.model_dump(mode="json"),
        "classes": names,
        "preprocess": inputs.preprocess.to_dict(),
        "postprocess": Postprocess(classes=tuple(names)).to_dict(),
        "train_cases": len(inputs.of("train")),
        "val_cases": len(inputs.of("val")),
    }


def _views(inputs: StageInputs, cases: list[Case], augment: str) -> Views:
    ids = [case.id for case in cases]
    return Views(
        inputs.store, ids, inputs.preprocess, augment, inputs.recipe.seed, inputs.settings.views or 0
    )


def _task(inputs: StageInputs, cases: list[Case], fabric: Fabric, precision: str) -> Task:
    stage = inputs.stage
    if stage.task == "autoencoder":
        teacher = _teachers(inputs, fabric, precision)[0]
        return Reconstruction(build_autoencoders(stage.model, teacher.network, teacher.name), teacher)
    network = build_network(stage.model, inputs.preprocess.channels)
    loss = create_loss(stage.loss.name, **stage.loss.options)
    if stage.task == "supervised":
        return Supervised(network, loss)
    teachers = _teachers(inputs, fabric, precision)
    networks = {"student": network} | {teacher.name: teacher.network for teacher in teachers}

    def codes(name: str, trained: str) -> FeatureAutoEncoders:
        return load_autoencoders(inputs.teacher_folder(trained), networks[name], name).to(fabric.device)

    labels = [case.label for case in cases]
    belongs = torch.tensor([[not t.labels or label in t.labels for t in teachers] for label in labels])
    adaptive = stage.weighing.name != "fixed"
    return Distillation(
        network,
        loss,
        teachers,
        teacher_weights(teachers, labels, stage.routing),
        make_knowledge(stage, codes),
        stage.hard_weight,
        belongs if stage.finetune_teachers else None,
        create_weighing(stage.weighing.name, **stage.weighing.options) if adaptive else None,
        stage.combine,
    )


def _teachers(inputs: StageInputs, fabric: Fabric, precision: str) -> list[Teacher]:
    stage = inputs.stage
    autocast = torch.bfloat16 if precision.startswith("bf16") else None
    teachers = []
    for teacher in stage.teachers:
        answering = load_stage(inputs.teacher_folder(teacher.stage)).network.to(fabric.device)
        if inputs.settings.channels_last:
            answering.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        teachers.append(
            Teacher(
                teacher.stage, answering, teacher.weight, teacher.labels, autocast, stage.finetune_teachers
            )
        )
    return teachers


def training_summary(folder: Path, curves: list[dict[str, float]]) -> dict[str, Any]:
    """What a report says of a stage's training."""
    info = read_info(folder)
    summary: dict[str, Any] = {"cases": info.get("train_cases"), "epochs": len(curves)}
    if curves:
        summary["seconds"] = sum(row.get("seconds", 0.0) for row in curves)
        scored = [row for row in curves if "val_dice" in row]
        if scored:
            summary["best_epoch"] = int(max(scored, key=lambda row: row["val_dice"])["epoch"])
    return summary


def check_parts(recipe: Recipe, stages: list[str]) -> None:
    """Builds every part of the stages once without memory, so that a wrong option stops the run before it starts.

    Raises:
        InputError: an unknown network, loss, knowledge, option, feature or augmentation; names the stage.
    """
    for name in stages:
        stage = recipe.stages[name]
        try:
            create_loss(stage.loss.name, **stage.loss.options)
            create_weighing(stage.weighing.name, **stage.weighing.options)
            with torch.device("meta"):
                _check_networks(recipe, stage)
            make_augment(recipe.fit_settings(name).augment)
        except InputError as error:
            raise InputError(f"stage {name}: {error}") from error


def _check_networks(recipe: Recipe, stage: StageRecipe) -> None:
    """Networks and what they must have of each other, on the meta device."""

    def network(of: StageRecipe) -> nn.Module:
        return build_network(of.model.model_copy(update={"pretrained": None}), recipe.data.channels)

    teachers = {teacher.stage: network(recipe.stages[teacher.stage]) for teacher in stage.teachers}
    if stage.task == "autoencoder":
        for name, teacher in teachers.items():
            build_autoencoders(stage.model, teacher, name)
        return
    student = network(stage)
    _require_size(recipe.data.height_width, int(getattr(student, "size_divisor", 1)))
    if stage.task == "supervised":
        return

    def codes(name: str, trained: str) -> FeatureAutoEncoders:
        learned = recipe.stages[trained]
        source = learned.teachers[0].stage
        return build_autoencoders(learned.model, network(recipe.stages[source]), source)

    connect(student, teachers, make_knowledge(stage, codes))


def _require_size(size: tuple[int, int], divisor: int) -> None:
    if any(side % divisor for side in size):
        sides = [-(-side // divisor) * divisor for side in size]
        fitting = str(sides[0] if sides[0] == sides[1] else sides)
        raise InputError(
            f"its network takes sides that {divisor} divides, not {size[0]}x{size[1]}: set size={fitting}"
        )
