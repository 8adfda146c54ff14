"""Trains one stage of a recipe: its task, its cases, its place on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from segdistill.data.case import Case
from segdistill.data.maps import StoredMaps
from segdistill.data.views import Views, VolumeViews, batch_indices
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
from segdistill.experiment.stage import begin, build_network, finish, is_finished, is_trained, read_stage
from segdistill.experiment.teachers import store_maps
from segdistill.files import sha256_file
from segdistill.imaging.postprocess import Postprocess
from segdistill.models.network import shapes_only
from segdistill.records import StageRecord, Weights
from segdistill.training.checkpoint import load_weights, save_weights
from segdistill.training.curves import read_curves
from segdistill.training.distillation import Distillation
from segdistill.training.gradients import find_imbalance
from segdistill.training.loop import WEIGHTS, Progress, fit
from segdistill.training.saturation import find_saturation
from segdistill.training.step_time import median_seconds, stepper, teacher_stepper
from segdistill.training.validation import spare_threads

FOLDER = ".cache"
GB = 1e9
_ENGINES = ("albumentations", "opencv-python-headless", "numpy")


def with_cache(inputs: StageInputs, task: Distillation, train: Views, fabric: Fabric) -> Iterator[Filling]:
    """Fills the cache of the teachers' targets of a stage, and lets its task read it.

    With several processes the first one fills, and the others wait for it.

    Raises:
        InputError: a method that cannot be cached, the size limit, or a full disk.
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
        yield from fill(cache, task.live, options, stage.cache_limit_gb * GB)
    while not cache.is_filled:  # no barrier: filling may take longer than one waits
        time.sleep(1.0)
    cache.attach()
    task.read_cache = cache.read


def cache_folder(inputs: StageInputs) -> Path:
    """The folder beside the runs, which share it as they share the prepared store."""
    return inputs.store.folder.parent.parent / FOLDER


def _wanted(inputs: StageInputs, task: Distillation, train: Views) -> list[Wanted]:
    shown, names = _shown(inputs, train), train.names
    cases = train.case_index(np.arange(len(train)))
    wanted = []
    for j, teacher in enumerate(task.live):
        rows = np.flatnonzero((task.teacher_weights[:, j] > 0).numpy()[cases])
        if not len(rows):
            raise InputError(
                f"stage {inputs.name}: teacher '{teacher.name}' teaches no training case: remove it"
            )
        known = shown | _teacher(inputs, teacher.name, str(teacher.precision))
        if task.weighting is not None and task.weighting.reads_logits:
            logits = SoftPrediction()
            wanted.append(Wanted(j, LOGITS, "", logits, known | cache_facts(logits), rows))
        for name, (_, method) in task.methods.items():
            for term, (_, inner) in weighted_terms(1.0, method).items():
                facts = known | cache_facts(inner) | _autoencoder(inputs, name, teacher.name)
                if inner.takes_mask:
                    facts |= {"without_mask": [names[k] for k in rows.tolist() if not train.has_mask(k)]}
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
    folder = inputs.teacher_folder(inputs.stage.teachers[name].stage)
    record = read_stage(folder)
    return {
        "weights": sha256_file(folder / WEIGHTS),
        "network": record and record.network,
        "classes": record and record.classes,
        "precision": precision,
    }


def _autoencoder(inputs: StageInputs, method: str, teacher: str) -> dict[str, Any]:
    """The auto-encoders through which a method reads a teacher's features."""
    trained = inputs.stage.methods[method].autoencoders.get(teacher)
    return {"autoencoders": sha256_file(inputs.teacher_folder(trained) / WEIGHTS)} if trained else {}


def train_stage(
    inputs: StageInputs, fingerprint: str, fabric: Fabric, precision: str
) -> Iterator[Progress | Filling]:
    """Trains the stage, or continues an interrupted training of the same inputs.

    Args:
        inputs: of the stage.
        fingerprint: of the inputs.
        fabric: launched.
        precision: of the training.

    Yields:
        The progress of filling the cache, where the stage has one, and then that of the loop.

    Raises:
        InputError: a part cannot be built, or the folder cannot be written.
        TrainingStopped: a loss became NaN or infinite.
    """
    record = _describe(inputs, fingerprint)
    if not fabric.broadcast(fabric.is_global_zero and is_trained(inputs.folder, fingerprint)):
        yield from _fit(inputs, record, fabric, precision)
    if fabric.is_global_zero:
        finish(inputs.folder, _with_training(record, inputs, fabric))
    fabric.barrier()


def _fit(
    inputs: StageInputs, record: StageRecord, fabric: Fabric, precision: str
) -> Iterator[Progress | Filling]:
    if inputs.stage.tuned_by is not None:
        _take_tuned(inputs, record, fabric, precision)
        return
    settings = inputs.settings
    train_cases = inputs.of("train")
    maps = (yield from store_maps(inputs, fabric)) if inputs.stage.targets == "case" else {}
    # the same seed for every stage: a student and its baseline begin with the same weights and see the same views
    torch.manual_seed(inputs.seed)
    task = build_task(inputs, train_cases, fabric, precision, maps)
    train = _views(inputs, train_cases, settings.augment, inputs.recipe.data.skip_empty)
    train.maps = {name: stored.values for name, stored in maps.items()}
    val_cases = inputs.of("val")
    validation = _views(inputs, val_cases, "none") if val_cases else None
    if fabric.is_global_zero:
        goes_on = begin(inputs.folder, record)
        record_environment(inputs.folder, environment(fabric.device, precision, fabric.world_size), goes_on)
    fabric.barrier()
    if inputs.stage.cache and isinstance(task, Distillation):
        yield from with_cache(inputs, task, train, fabric)
    yield from fit(task, train, validation, settings, inputs.folder, fabric)


def _take_tuned(inputs: StageInputs, record: StageRecord, fabric: Fabric, precision: str) -> None:
    """The weights of a teacher as another stage has tuned it."""
    if fabric.is_global_zero:
        begin(inputs.folder, record)
        record_environment(inputs.folder, environment(fabric.device, precision, fabric.world_size), False)
        network = build_network(labelled_model(inputs.stage), inputs.preprocess.channels)
        load_weights(inputs.tuned_weights, network)
        save_weights(inputs.folder / WEIGHTS, network)
    fabric.barrier()


def still_stands(inputs: StageInputs, precision: str) -> bool:
    """Whether an earlier call trained this stage to the end with what the recipe states now."""
    needed = [inputs.teacher_folder(name) / WEIGHTS for name in inputs.stage.needs]
    if read_stage(inputs.folder) is None or not all(path.exists() for path in needed):
        return False
    try:
        return is_finished(inputs.folder, inputs.fingerprint(precision))
    except InputError:  # a class that has no cases any more
        return False


def _describe(inputs: StageInputs, fingerprint: str) -> StageRecord:
    """The record of a stage before it is trained."""
    stage, joint = inputs.stage, inputs.stage.joint_settings
    classes = list(
        inputs.recipe.data.class_names
    )  # also with one logit: its probability is that of the lesion
    return StageRecord(
        name=inputs.name,
        variant=inputs.variant,
        seed=inputs.seed,
        role=stage.role or "comparator",
        about=stage.about,
        task=stage.task,
        network=labelled_model(stage).model_dump(mode="json"),
        classes=classes,
        labels=joint.classes if joint is not None and joint.uses_class else [],
        preprocess=inputs.preprocess.to_dict(),
        postprocess=Postprocess(inputs.recipe.evaluation.threshold, tuple(classes)).to_dict(),
        teachers=stage.taught_by,
        equal_time_to=inputs.recipe.variant(stage.equal_time_to) if stage.equal_time_to else "",
        fingerprint=fingerprint,
        train_cases=len(inputs.of("train")),
        val_cases=len(inputs.of("val")),
        score=["val_dice"] if joint is None else list(joint.score),
    )


def _with_training(record: StageRecord, inputs: StageInputs, fabric: Fabric) -> StageRecord:
    """The record with what the training has come to."""
    settings, curves = inputs.settings, read_curves(inputs.folder / "curves.csv")
    train = _views(inputs, inputs.of("train"), settings.augment, inputs.recipe.data.skip_empty)
    batches = len(batch_indices(len(train), settings.batch_size, 0, 0, world=fabric.world_size))
    steps = len(curves) * math.ceil(batches / settings.accumulate)
    return replace(
        record,
        weights=_weights_kept(curves, record.score, settings.keeps_best),
        parameters=None if inputs.stage.task == "autoencoder" else _parameters(inputs),
        epochs=len(curves),
        steps=min(steps, settings.steps or steps),
        seconds=sum(row.get("seconds", 0.0) for row in curves),
    )


def _parameters(inputs: StageInputs) -> int:
    model = labelled_model(inputs.stage).model_copy(update={"pretrained": None})
    with shapes_only():
        network = build_network(model, inputs.preprocess.channels)
    return sum(parameter.numel() for parameter in network.parameters())


def _weights_kept(curves: list[dict[str, float]], score: list[str], keeps_best: bool) -> Weights:
    """Which weights the loop has kept: the last, or those of the (first) epoch with the highest mean of `score`.

    Args:
        curves: a row per epoch.
        score: columns of the curves.
        keeps_best: whether the settings keep the best epoch; without a validation score the last one is kept.
    """
    measured = {int(row["epoch"]): [row[name] for name in score if name in row] for row in curves}
    means = {epoch: sum(found) / len(found) for epoch, found in measured.items() if found}
    if not keeps_best or not means:
        return Weights("last", len(curves), len(curves))
    best = max(means, key=means.__getitem__)
    return Weights(
        "best", best, len(curves), [name for name in score if name in curves[best - 1]], means[best]
    )


def keep_threshold(inputs: StageInputs) -> None:
    """Writes the recipe's threshold into the record of a finished stage, since training does not depend on it."""
    record = read_stage(inputs.folder)
    wanted = {"threshold": inputs.recipe.evaluation.threshold}
    if record is not None and record.postprocess != record.postprocess | wanted:
        replace(record, postprocess=record.postprocess | wanted).write(inputs.folder)


def _views(inputs: StageInputs, cases: list[Case], augment: str, skip_empty: bool = False) -> Views:
    distilled = inputs.stage.task == "distillation"
    kind = VolumeViews if inputs.store.holds_volumes else Views
    return kind(
        inputs.store,
        [case.id for case in cases],
        inputs.preprocess,
        augment,
        inputs.views_seed,
        inputs.settings.views or 0,
        skip_empty,
        inputs.seed,
        [case.id for case in cases if distilled and not case.has_reference],
        inputs.settings.masks_share,
    )


def training_summary(folder: Path, curves: list[dict[str, float]]) -> dict[str, Any]:
    """The facts of a stage's training for reports."""
    record = read_stage(folder)
    summary: dict[str, Any] = {"cases": record and record.train_cases, "epochs": len(curves)}
    if curves:
        summary["seconds"] = sum(row.get("seconds", 0.0) for row in curves)
        summary["warnings"] = [*map(str, find_saturation(curves)), *find_imbalance(curves)]
    if record is not None and record.weights is not None:
        summary |= {"weights_kept": str(record.weights), "equal_time_to": record.equal_time_to}
        best = _weights_kept(curves, record.score, keeps_best=True)
        summary |= {"best_epoch": best.epoch} if best.choice == "best" else {}
    return summary


def measure_equal_time(inputs: StageInputs, fabric: Fabric, precision: str) -> Iterator[Event]:
    """Measures the steps of an equal-time baseline before it is trained, and writes them into the run.

    They are measured once. The teachers of the other stage are trained by then. The time to fill its cache counts once;
    validation is not counted.

    Raises:
        InputError: on several devices.
    """
    name, run = inputs.stage.equal_time_to, inputs.folder.parents[1]
    if name is None or equal_steps(run, inputs.variant) is not None:
        return
    if fabric.world_size > 1:
        raise InputError(f"stage {inputs.name}: equal_time_to is measured on one device: use --devices 1")
    yield Event(f"stage {inputs.name}: measuring step times, its own and those of {name}")
    distilled = replace(inputs, name=name, folder=inputs.teacher_folder(name))
    times = _measure(inputs, distilled, fabric, precision)
    keep_times(run, inputs.variant, distilled.variant, times)
    yield Event(
        f"stage {inputs.name}: {times.equal_steps} steps take the time of the {times.steps} of {name} "
        f"({1e3 * times.baseline:.0f} and {1e3 * times.distillation:.0f} ms a step)"
    )


def _measure(baseline: StageInputs, distilled: StageInputs, fabric: Fabric, precision: str) -> StepTimes:
    maps = _stored(distilled, fabric)
    settings, data = distilled.settings, distilled.recipe.data
    views = _views(distilled, distilled.of("train"), settings.augment, data.skip_empty)
    views.maps = {name: stored.values for name, stored in maps.items()}
    tasks = []
    for inputs in (baseline, distilled):
        torch.manual_seed(inputs.seed)
        own = Fabric(accelerator=fabric.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
        task = build_task(inputs, inputs.of("train"), own, precision, maps)
        tasks.append((task, own, inputs.recipe.fit_settings(inputs.name)))
    distillation, own, settings = tasks[1]
    assert isinstance(distillation, Distillation)
    if distillation.gradients is not None:
        distillation.gradients.is_open = False  # most steps measure none
    asking = teacher_stepper(distillation, views, settings, own)
    turns = [stepper(task, views, settings, own) for task, own, settings in tasks]
    baseline_step, step, teachers_step = median_seconds([*turns, asking], fabric.device)
    steps = math.ceil(len(batch_indices(len(views), settings.batch_size, 0, 0)) / settings.accumulate)
    epochs, total = settings.length(steps)
    if maps:  # predicted once, before the first step
        teachers_step = sum(stored.facts["seconds"] for stored in maps.values()) / total
        return StepTimes(baseline_step, step + teachers_step, teachers_step, total, total)
    teacher_steps = min(settings.views or epochs, epochs) * steps if distilled.stage.cache else total
    return StepTimes(baseline_step, step, teachers_step, total, min(teacher_steps, total))


def _stored(inputs: StageInputs, fabric: Fabric) -> dict[str, StoredMaps]:
    """The predictions of a stage's teachers, where it has targets by case."""
    if inputs.stage.targets != "case":
        return {}
    filling = store_maps(inputs, fabric)
    while True:
        try:
            next(filling)
        except StopIteration as stop:
            found: dict[str, StoredMaps] = stop.value
            return found
