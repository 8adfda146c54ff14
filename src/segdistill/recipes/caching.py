"""The knowledge cache of a stage: what its teachers say, keyed by all that decides it, in a folder beside the runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from segdistill.data.views import Views, batch_indices
from segdistill.errors import InputError
from segdistill.files import sha256_file
from segdistill.knowledge import SoftPrediction
from segdistill.knowledge.cache import LOGITS, KnowledgeCache, Wanted, extraction
from segdistill.knowledge.cache_filling import Filling, How, fill
from segdistill.knowledge.composed import flat
from segdistill.recipes.inputs import StageInputs
from segdistill.recipes.stage import read_info
from segdistill.training.distillation import Distillation
from segdistill.training.loop import WEIGHTS
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
    cache = KnowledgeCache(cache_folder(inputs), train, count, _wanted(inputs, task, train))
    if fabric.is_global_zero:
        how = How(
            fabric.device, settings.batch_size, settings.channels_last, spare_threads(settings, fabric.device)
        )
        yield from fill(cache, task.teachers, how, stage.cache_limit_gb * GB)
    while not cache.is_filled:  # no barrier: filling may take longer than one waits
        time.sleep(1.0)
    cache.attach()
    task.recall = cache.recall


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
        if task.weighing is not None and task.weighing.reads_logits:
            logits = SoftPrediction()
            wanted.append(Wanted(j, LOGITS, "", logits, asked | extraction(logits), rows))
        for name, (_, method) in task.knowledge.items():
            for term, (_, inner) in flat(1.0, method).items():
                facts = asked | extraction(inner) | _codes(inputs, name, teacher.name)
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


def _codes(inputs: StageInputs, knowledge: str, teacher: str) -> dict[str, Any]:
    """The auto-encoders through which a teacher's features are read."""
    named = [part.autoencoders.get(teacher) for part in inputs.stage.knowledge if part.name == knowledge]
    trained = [name for name in named if name is not None]
    return {"autoencoders": sha256_file(inputs.teacher_folder(trained[0]) / WEIGHTS)} if trained else {}
