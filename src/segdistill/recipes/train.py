"""Trains one stage of a recipe: its task, its cases, its place on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from segdistill.data.cases import Case
from segdistill.data.views import Views
from segdistill.errors import InputError
from segdistill.imaging.postprocess import Postprocess
from segdistill.recipes.inputs import StageInputs
from segdistill.recipes.stage import (
    begin,
    is_finished,
    is_trained,
    read_info,
    record,
)
from segdistill.recipes.tasks import build_task
from segdistill.training.loop import WEIGHTS, Progress, fit

# settings that change how fast a stage is trained, not what comes out
NO_INPUT = {"checkpoint_seconds", "workers"}


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
    task = build_task(inputs, train_cases, fabric, precision)
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
