"""How long a training step takes: several tasks in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from lightning_fabric import Fabric

from segdistill.data.views import Views, batches
from segdistill.training.distillation import Distillation
from segdistill.training.loop import _Position, _set_up, _step
from segdistill.training.settings import FitSettings
from segdistill.training.targets import is_silent, speaking
from segdistill.training.task import Batch, Task, in_turn
from segdistill.training.validation import to_device

Turn = Callable[[], object]


def stepper(task: Task, views: Views, settings: FitSettings, fabric: Fabric) -> Turn:
    """What takes one optimiser step of a task, its images made on the way as the loop does without spare cores."""
    turns = in_turn(task, _set_up(task, settings, fabric, 10_000))
    position, source = _Position(), _endless(views, settings)

    def step() -> None:
        group = [next(source) for _ in range(settings.accumulate)]
        _step(task, turns, group, settings, fabric, position)

    return step


def asker(task: Distillation, views: Views, settings: FitSettings, fabric: Fabric) -> Turn:
    """What asks the teachers of one optimiser step's images, and takes what the method needs of their answers."""
    source = _endless(views, settings)
    waiting = [to_device(next(source), fabric, settings.channels_last) for _ in range(4)]

    @torch.no_grad()
    def ask() -> None:
        for _ in range(settings.accumulate):
            waiting.append(batch := waiting.pop(0))
            given = task.teacher_weights[batch["index"].cpu()]
            rows = [speaking(given[:, j]) for j in range(len(task.teachers))]
            teacher_targets = task._answers(batch, rows)
            for j in (j for j, own in enumerate(rows) if not is_silent(own)):
                for name in task.methods:
                    teacher_targets.targets(j, name)

    return ask


def _endless(views: Views, settings: FitSettings) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches(views, settings.batch_size, epoch, workers=0)
        epoch += 1


def median_seconds(
    turns: Sequence[Turn], device: torch.device, rounds: int = 15, warm_up: int = 3
) -> list[float]:
    """Median seconds of each part over rounds in which all take their turn.

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
