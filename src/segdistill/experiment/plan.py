"""What a run will do and how long it will take, told before it begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import nn

from segdistill.data.views import Views, VolumeViews, batch_indices, batches
from segdistill.experiment.build import start_network
from segdistill.experiment.inputs import StageInputs
from segdistill.experiment.train import still_stands
from segdistill.experiment.work import PreparedRun
from segdistill.losses import create_loss
from segdistill.training.step_time import median_seconds, stepper
from segdistill.training.task import Supervised
from segdistill.training.validation import to_device

ROUNDS, WARM_UP = 4, 2
TARGETS_BY_CASE = 1.05
"""What a step costs more with stored predictions (docs/results/)."""


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        with_mask, without_mask: training cases.
        stages: those that are not finished, each with its steps and its estimated seconds.
        megabytes: of weights, training states, the prepared store and the maps of teachers that are stored.
        jobs: how many stages are trained at once.
    """

    with_mask: int
    without_mask: int
    stages: dict[str, tuple[int, float]]
    megabytes: float
    jobs: int = 1

    @property
    def minutes(self) -> float:
        """Of all trainings, side by side where several run at once; the longest sets the least.

        >>> Plan(1, 0, {"a": (10, 60.0), "b": (10, 60.0)}, 1.0, jobs=2).minutes
        1.0
        """
        seconds = [own for _, own in self.stages.values()]
        return max(sum(seconds) / max(1, min(self.jobs, len(seconds))), max(seconds, default=0.0)) / 60

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        bare = f", {self.without_mask} without" if self.without_mask else ""
        yield f"plan: {self.with_mask} training cases with a mask{bare}"
        for name, (steps, seconds) in self.stages.items():
            yield f"plan: stage {name}: {steps} steps of {1000 * seconds / steps:.0f} ms: {seconds / 60:.1f} minutes"
        side = f", {self.jobs} stages at once" if self.jobs > 1 else ""
        yield f"plan: about {math.ceil(self.minutes)} minutes of training{side}, and {self.megabytes:.0f} MB of disk"


def left_to_train(run: PreparedRun, chosen: Sequence[str], device: torch.device) -> list[str]:
    """The stages that no earlier call has trained with what the recipe states now, and those that they teach."""
    left: list[str] = []
    for name in chosen:
        inputs = run.inputs(name)
        again = set(left) & set(inputs.stage.needs)  # its teachers will have other weights
        if again or not still_stands(inputs, run.precision(name, device)):
            left.append(name)
    return left


def plan_run(
    run: PreparedRun,
    chosen: Sequence[str],
    left: Sequence[str],
    fabric: Fabric,
    jobs: int = 1,
    threads: int | None = None,
) -> Plan:
    """Times a few steps of every kind of network that is still to be trained.

    Args:
        run: prepared.
        chosen: its stages.
        left: those of them that are not trained yet (`left_to_train`).
        fabric: launched.
        jobs: how many stages are trained at once.
        threads: of each of them; None for those of this process.

    Raises:
        InputError: a network cannot be built.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        stages, timed, megabytes = {}, dict[str, tuple[float, float]](), 0.0
        teachers = dict[str, float]()
        for name in left:
            inputs = run.inputs(name)
            if inputs.stage.tuned_by is not None:
                continue
            key = f"{inputs.stage.model.model_dump_json()} {inputs.settings.batch_size} {inputs.settings.augment}"
            if key not in timed:
                timed[key] = _time(inputs, run, fabric, name)
            seconds, size = timed[key]
            _, steps = _length(inputs)
            if inputs.stage.task == "distillation":
                seconds = TARGETS_BY_CASE * seconds + _teachers_seconds(inputs, run, fabric, teachers)
            stages[name] = (steps, steps * seconds)
            megabytes += 4 * size  # weights, and two moments of the optimiser beside them while it trains
            if inputs.stage.targets == "case":
                megabytes += _maps_megabytes(inputs)
    finally:
        torch.set_num_threads(before)
    train = {case.id: case.has_reference for name in chosen for case in run.inputs(name).of("train")}
    megabytes += 2 * sum(math.prod(run.store.shape(row)) for row in range(len(run.store))) / 1e6
    masks = sum(train.values())
    return Plan(masks, len(train) - masks, stages, megabytes, jobs)


def _maps_megabytes(inputs: StageInputs) -> float:
    """Of the maps of a stage's teachers: a byte for each place, class and teacher."""
    rows = (row for case in inputs.of("train") for row in inputs.store.rows(case.id))
    places = sum(math.prod(inputs.store.shape(row)) for row in rows)
    return places * (len(inputs.recipe.data.class_names) - 1) * len(inputs.stage.teachers) / 1e6


def _views(inputs: StageInputs) -> Views:
    ids = [case.id for case in inputs.of("train")]
    kind = VolumeViews if inputs.store.holds_volumes else Views
    return kind(inputs.store, ids, inputs.preprocess, inputs.settings.augment, inputs.views_seed)


def _length(inputs: StageInputs) -> tuple[int, int]:
    """Epochs, and steps in all."""
    settings = inputs.settings
    count = len(batch_indices(len(_views(inputs)), settings.batch_size, 0, 0))
    return settings.length(math.ceil(count / settings.accumulate))


def _teachers_seconds(
    inputs: StageInputs, run: PreparedRun, fabric: Fabric, known: dict[str, float]
) -> float:
    """Seconds that the teachers of this run predict in each step of a stage; those that are timed go into `known`."""
    stage, settings = inputs.stage, inputs.settings
    if stage.targets == "case":  # predicted once, before the first step
        return 0.0
    total = 0.0
    for name in stage.taught_by:
        key = f"{run.recipe.stages[name].model.model_dump_json()} {settings.batch_size}"
        if key not in known:
            known[key] = _forward_seconds(inputs, start_network(run.inputs(name)), fabric)
        total += known[key]
    epochs, _ = _length(inputs)
    return total * min(settings.views or epochs, epochs) / epochs if stage.cache else total


def _forward_seconds(inputs: StageInputs, teacher: nn.Module, fabric: Fabric) -> float:
    """Seconds in which a teacher predicts the images of one step."""
    settings, network = inputs.settings, teacher.eval().to(fabric.device)
    if settings.channels_last and not inputs.store.holds_volumes:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    source = batches(_views(inputs), settings.batch_size, 0, workers=0)
    images = to_device(next(source), fabric, settings.channels_last)["image"]

    def turn() -> None:
        with torch.no_grad():
            network(images)

    (seconds,) = median_seconds([turn], fabric.device, ROUNDS, WARM_UP)
    return seconds


def _time(inputs: StageInputs, run: PreparedRun, fabric: Fabric, name: str) -> tuple[float, float]:
    """Seconds of a step of a stage's network on masks alone, and its megabytes."""
    precision = run.precision(name, fabric.device)
    own = Fabric(accelerator=fabric.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    network = start_network(inputs)
    task = Supervised(network, create_loss("cross_entropy_dice"))
    turn = stepper(task, _views(inputs), inputs.settings, own)
    (seconds,) = median_seconds([turn], fabric.device, ROUNDS, WARM_UP)
    return seconds, sum(p.numel() for p in network.parameters()) * 4 / 1e6
