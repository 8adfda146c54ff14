"""Trains one stage of a recipe: its task, its cases, its place on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning_fabric import Fabric

from segdistill.data.cases import Case
from segdistill.data.views import Views
from segdistill.errors import InputError
from segdistill.files import write_json
from segdistill.imaging.postprocess import Postprocess
from segdistill.knowledge.cache_filling import Filling
from segdistill.recipes.caching import with_cache
from segdistill.recipes.environment import environment, record_environment
from segdistill.recipes.inputs import StageInputs
from segdistill.recipes.joint import labelled_model
from segdistill.recipes.stage import (
    INFO,
    begin,
    is_finished,
    is_trained,
    read_info,
    record,
)
from segdistill.recipes.tasks import build_task
from segdistill.training.distillation import Distillation
from segdistill.training.joint_settings import JointSettings
from segdistill.training.loop import WEIGHTS, Progress, fit
from segdistill.training.saturation import find_troubles


def train_stage(
    inputs: StageInputs, fingerprint: str, fabric: Fabric, precision: str
) -> Iterator[Progress | Filling]:
    """Trains the stage, or goes on where an interrupted training of the same inputs stopped; gives the loop's progress,
    and before it that of filling the knowledge cache, where it has one. `fingerprint` is that of the inputs.

    Raises:
        InputError: a part cannot be built, or the folder cannot be written.
        TrainingStopped: a loss was not finite.
    """
    info = describe(inputs, fingerprint)
    if not fabric.broadcast(fabric.is_global_zero and is_trained(inputs.folder, fingerprint)):
        yield from _fit(inputs, info, fabric, precision)
    if fabric.is_global_zero:
        record(inputs.folder, info)
    fabric.barrier()


def _fit(
    inputs: StageInputs, info: dict[str, Any], fabric: Fabric, precision: str
) -> Iterator[Progress | Filling]:
    settings = inputs.settings
    train_cases = inputs.of("train")
    # the same seed for every stage: a student and its undistilled twin begin with the same weights and see
    # the same views
    torch.manual_seed(inputs.seed)
    task = build_task(inputs, train_cases, fabric, precision)
    train = _views(inputs, train_cases, settings.augment, inputs.recipe.data.skip_empty)
    held_out = inputs.of("val")
    validation = _views(inputs, held_out, "none") if held_out else None
    if fabric.is_global_zero:
        goes_on = begin(inputs.folder, info)
        record_environment(inputs.folder, environment(fabric.device, precision, fabric.world_size), goes_on)
    fabric.barrier()
    if inputs.stage.cache and isinstance(task, Distillation):
        yield from with_cache(inputs, task, train, fabric)
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


def describe(inputs: StageInputs, fingerprint: str) -> dict[str, Any]:
    """The content of stage.json: enough to use the weights without the recipe."""
    joint = inputs.stage.joint_settings
    classes = inputs.stage.model.options.get("classes", 2)
    lesions = ["lesion"] if classes <= 2 else [f"class {i}" for i in range(1, classes)]
    names = ["background", *lesions]  # also with one logit: its probability is that of the lesion
    return {
        "name": inputs.name,
        "fingerprint": fingerprint,
        "role": inputs.stage.role,
        "about": inputs.stage.about,
        "teachers": [teacher.stage for teacher in inputs.stage.teachers],
        "model": labelled_model(inputs.stage).model_dump(mode="json"),
        "classes": names,
        "preprocess": inputs.preprocess.to_dict(),
        "postprocess": Postprocess(inputs.recipe.evaluation.threshold, tuple(names)).to_dict(),
        "train_cases": len(inputs.of("train")),
        "val_cases": len(inputs.of("val")),
    } | _of_classes(joint)


def _of_classes(joint: JointSettings | None) -> dict[str, Any]:
    """What selects a joint stage's epoch, and the classes of images that it has learned."""
    if joint is None:
        return {}
    return {"score": list(joint.score)} | ({"labels": joint.classes} if joint.uses_class else {})


def keep_threshold(inputs: StageInputs) -> None:
    """Notes the recipe's threshold with a stage that was trained before: it is no input of the training."""
    info = read_info(inputs.folder)
    wanted = info["postprocess"] | {"threshold": inputs.recipe.evaluation.threshold}
    if info["postprocess"] != wanted:
        write_json(inputs.folder / INFO, info | {"postprocess": wanted})


def _views(inputs: StageInputs, cases: list[Case], augment: str, skip_empty: bool = False) -> Views:
    ids = [case.id for case in cases]
    views = inputs.settings.views or 0
    return Views(
        inputs.store, ids, inputs.preprocess, augment, inputs.views_seed, views, skip_empty, inputs.seed
    )


def training_summary(folder: Path, curves: list[dict[str, float]]) -> dict[str, Any]:
    """What a report says of a stage's training."""
    info = read_info(folder)
    summary: dict[str, Any] = {"cases": info.get("train_cases"), "epochs": len(curves)}
    if curves:
        summary["seconds"] = sum(row.get("seconds", 0.0) for row in curves)
        names = info.get("score", ["val_dice"])
        scored = [row for row in curves if any(name in row for name in names)]
        if scored:
            best = max(scored, key=lambda row: fmean(row[name] for name in names if name in row))
            summary["best_epoch"] = int(best["epoch"])
        summary["troubles"] = [str(trouble) for trouble in find_troubles(curves)]
    return summary
