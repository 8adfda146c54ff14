"""Trains one stage of a recipe: its task, its cases, its place on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from segdistill.data.case import Case
from segdistill.data.views import Views, batch_indices
from segdistill.distillation.base import weighted_terms
from segdistill.distillation.cache.filling import Filling, FillOptions, fill
from segdistill.distillation.cache.reading import LOGITS, TargetCache, Wanted, cache_facts
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError
from segdistill.experiment.build import build_task, labelled_model
from segdistill.experiment.environment import environment, record_environment
from segdistill.experiment.equal_time import StepTimes, equal_steps, keep_times
from segdistill.experiment.events import Event
from segdistill.experiment.inputs import StageInputs
from segdistill.experiment.stage import INFO, begin, is_finished, is_trained, read_info, record
from segdistill.files import sha256_file, write_json
from segdistill.imaging.postprocess import Postprocess
from segdistill.training.distillation import Distillation
from segdistill.training.loop import WEIGHTS, Progress, fit
from segdistill.training.saturation import find_saturation
from segdistill.training.settings import JointSettings
from segdistill.training.step_time import median_seconds, stepper, teacher_stepper
from segdistill.training.validation import spare_threads

FOLDER = ".cache"
GB = 1e9
_ENGINES = ("albumentations", "opencv-python-headless", "numpy")


def with_cache(inputs: StageInputs, task: Distillation, train: Views, fabric: Fabric) -> Iterator[Filling]:
    """Completes the cache of a stage, and lets its task and the batches of its views use it; nothing else is cached.

    With several processes the first one fills, and the others wait for it.

    Raises:
        InputError: it cannot be kept: a method that cannot be cached, a limit, a full disk.
    """
    settings, stage = inputs.settings, inputs.stage
    assert settings.views is not None
    batches = len(batch_indices(len(train), settings.batch_size, 0, 0, world=fabric.world_size))
    epochs, _ = settings.length(-(-batches // settings.accumulate))
    count = 1 if train.augment.is_identity else min(settings.views, epochs)
    if train.augment.is_identity:
        train.count = 1  # all views are the same
    cache = TargetCache(cache_folder(inputs), train, count, _wanted(inputs, task, train))
    if fabric.is_global_zero:
        workers = spare_threads(settings, fabric.device)
        options = FillOptions(fabric.device, settings.batch_size, settings.channels_last, workers)
        yield from fill(cache, task.teachers, options, stage.cache_limit_gb * GB)
    while not cache.is_filled:  # no barrier: filling may take longer than one waits
        time.sleep(1.0)
    cache.attach()
    task.read_cache = cache.read


def cache_folder(inputs: StageInputs) -> Path:
    """Beside the runs, as the prepared store is, so that they share it."""
    return inputs.store.folder.parent.parent / FOLDER


def _wanted(inputs: StageInputs, task: Distillation, train: Views) -> list[Wanted]:
    shown = _shown(inputs, train)
    cases = train.case_index(np.arange(len(train)))
    wanted = []
    for j, teacher in enumerate(task.teachers):
        rows = np.flatnonzero((task.teacher_weights[:, j] > 0).numpy()[cases])
        if not len(rows):
            raise InputError(
                f"stage {inputs.name}: teacher '{teacher.name}' speaks for no training case: leave it out"
            )
        asked = shown | _teacher(inputs, teacher.name, str(teacher.precision))
        if task.weighting is not None and task.weighting.reads_logits:
            logits = SoftPrediction()
            wanted.append(Wanted(j, LOGITS, "", logits, asked | cache_facts(logits), rows))
        for name, (_, method) in task.methods.items():
            for term, (_, inner) in weighted_terms(1.0, method).items():
                facts = asked | cache_facts(inner) | _codes(inputs, name, teacher.name)
                wanted.append(Wanted(j, name, term, inner, facts, rows))
    return wanted


def _shown(inputs: StageInputs, train: Views) -> dict[str, Any]:
    """What decides the pixels and references that a teacher sees."""
    plain = train.augment.is_identity
    return {
        "store": inputs.store.folder.name,
        "preprocess": inputs.preprocess.to_dict(),
        "augment": asdict(train.augment),
        "seed": None if plain else train.seed,
        "engines": [] if plain else [f"{name} {_version(name)}" for name in _ENGINES],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it has another name here
        return "unknown"


def _teacher(inputs: StageInputs, name: str, precision: str) -> dict[str, Any]:
    folder = inputs.teacher_folder(name)
    info = read_info(folder)
    return {
        "weights": sha256_file(folder / WEIGHTS),
        "model": info.get("model"),
        "classes": info.get("classes"),
        "precision": precision,
    }


def _codes(inputs: StageInputs, methods: str, teacher: str) -> dict[str, Any]:
    """The auto-encoders through which a teacher's features are read."""
    named = [part.autoencoders.get(teacher) for part in inputs.stage.methods if part.name == methods]
    trained = [name for name in named if name is not None]
    return {"autoencoders": sha256_file(inputs.teacher_folder(trained[0]) / WEIGHTS)} if trained else {}


def train_stage(
    inputs: StageInputs, fingerprint: str, fabric: Fabric, precision: str
) -> Iterator[Progress | Filling]:
    """Trains the stage, or goes on where an interrupted training of the same inputs stopped; gives the loop's progress,
    and before it that of filling the teacher cache, where it has one. `fingerprint` is that of the inputs.

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
    # the same seed for every stage: a student and its undistilled own baseline begin with the same weights and see
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
        summary["warnings"] = [str(warning) for warning in find_saturation(curves)]
    return summary


def measure_equal_time(inputs: StageInputs, fabric: Fabric, precision: str) -> Iterator[Event]:
    """Measures once, before the stage is trained, and writes the steps into the run; a resumed run keeps them.

    The teachers of the other stage are trained by then. What its cache costs to fill counts once; validation counts on
    neither side.

    Raises:
        InputError: on several devices.
    """
    method, run = inputs.stage.equal_time_to, inputs.folder.parents[1]
    if method is None or equal_steps(run, inputs.name) is not None:
        return
    if fabric.world_size > 1:
        raise InputError(f"stage {inputs.name}: equal_time_to is measured on one device: use --devices 1")
    yield Event(f"stage {inputs.name}: measuring step times, alone and with {method}")
    times = _measure(
        inputs, replace(inputs, name=method, folder=inputs.teacher_folder(method)), fabric, precision
    )
    keep_times(run, inputs.name, method, times)
    yield Event(
        f"stage {inputs.name}: {times.equal_steps} steps take the time of the {times.steps} of {method} "
        f"({1e3 * times.alone:.0f} and {1e3 * times.method:.0f} ms a step)"
    )


def _measure(alone: StageInputs, method: StageInputs, fabric: Fabric, precision: str) -> StepTimes:
    views = _timed_views(method)
    tasks = []
    for inputs in (alone, method):
        torch.manual_seed(inputs.seed)
        own = Fabric(accelerator=fabric.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
        task = build_task(inputs, inputs.of("train"), own, precision)
        tasks.append((task, own, inputs.recipe.fit_settings(inputs.name)))
    distillation = tasks[1][0]
    assert isinstance(distillation, Distillation)
    asking = teacher_stepper(distillation, views, tasks[1][2], tasks[1][1])
    turns = [stepper(task, views, settings, own) for task, own, settings in tasks]
    of_alone, of_method, of_asking = median_seconds([*turns, asking], fabric.device)
    settings = tasks[1][2]
    steps = math.ceil(len(batch_indices(len(views), settings.batch_size, 0, 0)) / settings.accumulate)
    epochs, total = settings.length(steps)
    asked = min(settings.views or epochs, epochs) * steps if method.stage.cache else total
    return StepTimes(of_alone, of_method, of_asking, total, min(asked, total))


def _timed_views(inputs: StageInputs) -> Views:
    ids = [case.id for case in inputs.of("train")]
    settings, data = inputs.settings, inputs.recipe.data
    return Views(
        inputs.store,
        ids,
        inputs.preprocess,
        settings.augment,
        inputs.views_seed,
        settings.views or 0,
        data.skip_empty,
    )
