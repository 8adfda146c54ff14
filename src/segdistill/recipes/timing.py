"""Measures the step times from which a stage with `equal_time_to` gets its number of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from lightning_fabric import Fabric

from segdistill.data.views import Views, batch_indices
from segdistill.errors import InputError
from segdistill.recipes.equal_time import StepTimes, equal_steps, keep_times
from segdistill.recipes.event import Event
from segdistill.recipes.inputs import StageInputs
from segdistill.recipes.tasks import build_task
from segdistill.training.distillation import Distillation
from segdistill.training.step_time import asker, median_seconds, stepper


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
    views = _views(method)
    tasks = []
    for inputs in (alone, method):
        torch.manual_seed(inputs.seed)
        own = Fabric(accelerator=fabric.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
        task = build_task(inputs, inputs.of("train"), own, precision)
        tasks.append((task, own, inputs.recipe.fit_settings(inputs.name)))
    distillation = tasks[1][0]
    assert isinstance(distillation, Distillation)
    asking = asker(distillation, views, tasks[1][2], tasks[1][1])
    turns = [stepper(task, views, settings, own) for task, own, settings in tasks]
    of_alone, of_method, of_asking = median_seconds([*turns, asking], fabric.device)
    settings = tasks[1][2]
    steps = math.ceil(len(batch_indices(len(views), settings.batch_size, 0, 0)) / settings.accumulate)
    epochs, total = settings.length(steps)
    asked = min(settings.views or epochs, epochs) * steps if method.stage.cache else total
    return StepTimes(of_alone, of_method, of_asking, total, min(asked, total))


def _views(inputs: StageInputs) -> Views:
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
