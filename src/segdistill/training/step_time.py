"""Duration of a training step: several tasks in turns, so that other load on the machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from lightning_fabric import Fabric

from segdistill.data.views import Views, batches
from segdistill.training.distillation import Distillation
from segdistill.training.loop import Training
from segdistill.training.settings import FitSettings
from segdistill.training.targets import is_empty
from segdistill.training.task import Batch, Task
from segdistill.training.validation import to_device

Turn = Callable[[], object]


def stepper(task: Task, views: Views, settings: FitSettings, fabric: Fabric) -> Turn:
    """A function that takes one optimiser step of a task, its images included, as the loop does without spare cores."""
    training, source = Training(task, settings, fabric, 10_000), _endless(views, settings)
    return lambda: training.step(source)


def teacher_stepper(task: Distillation, views: Views, settings: FitSettings, fabric: Fabric) -> Turn:
    """A function that computes the teachers' targets for the images of one optimiser step."""
    source = _endless(views, settings)
    waiting = [to_device(next(source), fabric, settings.channels_last) for _ in range(4)]

    @torch.no_grad()
    def step() -> None:
        for _ in range(settings.accumulate):
            waiting.append(batch := waiting.pop(0))
            _, rows = task.given_weights(batch)
            targets = task.teacher_targets(batch, rows)
            for j in (j for j, own in enumerate(rows) if not is_empty(own)):
                for name in task.methods:
                    targets.targets(j, name)

    return step


def _endless(views: Views, settings: FitSettings) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches(views, settings.batch_size, epoch, workers=0)
        epoch += 1


def median_seconds(
    turns: Sequence[Turn], device: torch.device, rounds: int = 15, warm_up: int = 3
) -> list[float]:
    """Median seconds of each function over rounds in which each is called once.

    >>> median_seconds([lambda: None, lambda: time.sleep(0.01)], torch.device("cpu"), rounds=3)[1] > 0.009
    True
    """
    times: list[list[float]] = [[] for _ in turns]
    for number in range(warm_up + rounds):
        for turn, own in zip(turns, times, strict=True):
            began = time.perf_counter()
            turn()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warm_up:
                own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in times]
