"""The one loop: players take turns on the same batches until the epochs are over, and any kill can be continued.

Devices, precision and gradient exchange are Fabric's. `Training.state` holds everything that later steps depend on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.tensorboard import SummaryWriter

from segdistill.data.views import Views, batch_indices, batches
from segdistill.training.checkpoint import (
    check_values,
    check_weights,
    contiguous,
    load_optimizer,
    load_weights,
    restoring,
    save_state,
    save_weights,
    to_floats,
)
from segdistill.training.curves import write_curves
from segdistill.training.optimisation import make_optimizer, make_schedule
from segdistill.training.settings import FitSettings
from segdistill.training.task import Batch, Task, Trainee, epoch_score
from segdistill.training.validation import spare_threads, to_device, validate

STATE = "training_state.pt"
BEST = "best.safetensors"
WEIGHTS = "weights.safetensors"
TUNED = "tuned"
"""Folder with the last weights of the players that a task calls tuned: NAME.safetensors each."""


@dataclass
class Progress:
    """The position of the loop after an optimiser step, with the losses, and at the end of an epoch its curves' row."""

    epoch: int
    epochs: int
    step: int
    steps: int
    parts: dict[str, float]
    validation: dict[str, float]


@dataclass
class _Player:
    name: str
    trainee: Trainee
    module: Any  # Fabric's wrapper of the trainee
    optimizer: Optimizer
    schedule: Any


@dataclass
class _Position:
    """Plain values only: it is part of the checkpoint."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    stale: int = 0
    curves: list[dict[str, float]] = field(default_factory=list)
    gradients: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0


def fit(
    task: Task, train: Views, validation: Views | None, settings: FitSettings, folder: Path, fabric: Fabric
) -> Iterator[Progress]:
    """Trains the task's players and leaves the first one's weights in `folder`/weights.safetensors.

    An iterator: it trains as it is consumed. If `folder` holds a training state, it continues from there; the
    result is then bit-identical to that of an uninterrupted run on the same machine type, thread count and versions.

    Args:
        task: players and losses.
        train: views of the training cases.
        validation: views of the validation cases, not augmented; None for none.
        settings: epochs, batches, optimiser, schedule.
        folder: of this stage; gets weights, curves.csv, gradients.csv where a task measures some, tensorboard/ and,
            while unfinished, the training state.
        fabric: launched.

    Raises:
        TrainingStopped: a loss or a weight is NaN or infinite.
        InputError: the training state is damaged or of something else, or the disk is full.
    """
    batch_count = len(batch_indices(len(train), settings.batch_size, 0, 0, world=fabric.world_size))
    steps = math.ceil(batch_count / settings.accumulate)
    epochs, total = settings.length(steps)
    training = Training(task, settings, fabric, total)
    training.restore(folder)
    position, writer = training.position, None
    if fabric.is_global_zero:
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=position.epoch + 1)
    saved = time.monotonic()
    while position.epoch < epochs and not training.is_stale:
        last = min(steps, total - position.epoch * steps)
        source = batches(
            train,
            settings.batch_size,
            position.epoch,
            start=position.step * settings.accumulate,
            workers=spare_threads(settings, fabric.device),
            rank=fabric.global_rank,
            world=fabric.world_size,
            pin_memory=fabric.device.type == "cuda",
        )
        with closing(source):
            while position.step < last:
                is_last = position.step == last - 1
                parts = training.step(source, is_last, is_end=is_last and position.epoch == epochs - 1)
                if position.step == last:
                    break  # the last step is yielded and saved with the end of the epoch
                due = time.monotonic() - saved > settings.checkpoint_seconds
                if fabric.broadcast(due) if fabric.world_size > 1 else due:
                    training.check_weights()
                    saved = training.save(folder)
                yield Progress(position.epoch, epochs, position.step, steps, parts, {})
        shown = validation if settings.validates(position.epoch, epochs) else None
        row = training.end_epoch(shown, folder, last)
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, position.epoch)
            writer.flush()
        saved = training.save(folder)
        yield Progress(position.epoch - 1, epochs, steps, steps, parts, row)
    if writer is not None:
        writer.close()
    training.finish(folder)


def _takes_volumes(module: nn.Module) -> bool:
    """Whether a weight has five axes, which have another memory format."""
    return any(weight.ndim == 5 for weight in module.parameters())


class Training:
    """Players with their optimisers, and the position in training; `task.players` become Fabric's wrappers."""

    def __init__(self, task: Task, settings: FitSettings, fabric: Fabric, total_steps: int) -> None:
        self.task, self.settings, self.fabric = task, settings, fabric
        self.position = _Position()
        self.players = [self._set_up(name, total_steps) for name in list(task.players)]
        order = list(getattr(task, "turns", task.players))
        self.turns = sorted(self.players, key=lambda player: order.index(player.name))

    def _set_up(self, name: str, total_steps: int) -> _Player:
        module = self.task.players[name]
        assert isinstance(module, Trainee)
        if self.settings.channels_last and not _takes_volumes(module):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(module, self.settings.optimizer, module.lr)
        schedule = make_schedule(optimizer, self.settings.schedule, total_steps)
        wrapped, wrapped_optimizer = self.fabric.setup(module, optimizer)
        self.task.players[name] = wrapped
        return _Player(name, module, wrapped, wrapped_optimizer, schedule)

    def step(self, source: Iterator[Batch], is_last: bool = False, is_end: bool = False) -> dict[str, float]:
        """One optimiser step of every player over the next `accumulate` batches; returns the mean of each loss.

        Args:
            source: of the batches.
            is_last: the step is the last of its epoch.
            is_end: it is the last of a training that does not stop early.
        """
        began = time.monotonic()
        group = list(islice(source, self.settings.accumulate))
        self.position.waited += time.monotonic() - began
        moved = [to_device(batch, self.fabric, self.settings.channels_last) for batch in group]
        parts: dict[str, float] = {}
        if hasattr(self.task, "begin_step"):
            self.task.begin_step(self.position.epoch, self.position.step, is_last, is_end)
        for player in self.turns:
            parts |= self._turn(player, moved)
        measured: dict[str, float] = getattr(self.task, "measured", dict)()
        if measured:
            at = {"epoch": self.position.epoch + 1.0, "step": self.position.step + 1.0}
            self.position.gradients.append(at | measured)
        for name, number in parts.items():
            self.position.sums[name] = self.position.sums.get(name, 0.0) + number
        self.position.step += 1
        self.position.seconds += time.monotonic() - began
        return parts

    def _turn(self, player: _Player, group: list[Batch]) -> dict[str, float]:
        """One optimiser step of a player; no losses if no batch has anything for it."""
        player.module.train()
        images = sum(len(batch["image"]) for batch in group)
        prefix = "" if player is self.players[0] else f"{player.name}/"
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(group):
            with self.fabric.no_backward_sync(player.module, enabled=i < len(group) - 1):
                losses = self.task.losses(batch, player.name)
                if losses is None:
                    continue
                share = len(batch["image"]) / images
                self.fabric.backward(losses["loss"] * share)
            for name, value in losses.items():
                sums[prefix + name] = sums.get(prefix + name, 0.0) + value.detach() * share
        taken = to_floats(sums) if sums else {}
        if sums:
            # before the step, which would write a NaN into the weights
            check_values(taken, self.position.epoch, self.position.step)
            if self.settings.clip_norm is not None:
                norm = self.settings.clip_norm
                self.fabric.clip_gradients(player.module, player.optimizer, max_norm=norm)
            player.optimizer.step()
            if not isinstance(player.schedule, ReduceLROnPlateau):
                player.schedule.step()
        player.optimizer.zero_grad(set_to_none=True)
        return taken

    def check_weights(self) -> None:
        """Stops if a weight is NaN or infinite."""
        networks: dict[str, nn.Module] = {player.name: player.trainee for player in self.players}
        check_weights(networks, self.position.epoch, self.position.step - 1)

    def _mean_losses(self, steps: int) -> dict[str, float]:
        """Means over the epoch's steps and all processes, so that all processes come to the same decisions."""
        sums = self.position.sums
        if self.fabric.world_size > 1:
            values = torch.tensor(list(sums.values()), device=self.fabric.device)
            means: Any = self.fabric.all_reduce(values, reduce_op="mean")
            sums = dict(zip(sums, means.tolist(), strict=True))
        return {name: value / steps for name, value in sums.items()}

    def end_epoch(self, validation: Views | None, folder: Path, steps: int) -> dict[str, float]:
        """Validates, selects, writes the curves, and moves to the next epoch; returns the epoch's row."""
        settings, position, first = self.settings, self.position, self.players[0]
        row = {"epoch": position.epoch + 1.0, "lr": first.optimizer.param_groups[0]["lr"]}
        self.check_weights()
        row |= self._mean_losses(steps)
        row |= getattr(self.task, "columns", dict)()
        of_epoch = [each for each in position.gradients if each["epoch"] == row["epoch"]]
        row |= {name: value for each in of_epoch for name, value in each.items() if name != "step"}
        row |= validate(self.task, first.module, validation, settings, self.fabric) if validation else {}
        row |= {"seconds": position.seconds, "wait_share": position.waited / max(position.seconds, 1e-9)}
        for player in self.players:
            if isinstance(player.schedule, ReduceLROnPlateau):
                player.schedule.step(row.get("val_loss", row["loss"]))
        measured = epoch_score(self.task, row)
        score = -row["loss"] if measured is None else measured
        if position.best is None or score > position.best:
            position.best, position.stale = score, 0
            if self.fabric.is_global_zero and settings.keeps_best and measured is not None:
                save_weights(folder / BEST, first.trainee.network)
        else:
            position.stale += 1
        position.curves.append(row)
        if self.fabric.is_global_zero:
            write_curves(folder / "curves.csv", position.curves)
            if position.gradients:
                write_curves(folder / "gradients.csv", position.gradients)
        position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
        position.seconds = position.waited = 0.0
        return row

    @property
    def is_stale(self) -> bool:
        """Whether `early_stop` epochs have passed without improvement."""
        return self.settings.early_stop is not None and self.position.stale >= self.settings.early_stop

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on, as tensors and plain values."""
        return {
            "networks": {p.name: contiguous(p.trainee.network.state_dict()) for p in self.players},
            "companions": {p.name: contiguous(p.trainee.companions.state_dict()) for p in self.players},
            "optimizers": {p.name: p.optimizer.state_dict() for p in self.players},
            "schedules": {p.name: p.schedule.state_dict() for p in self.players},
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "position": dict(vars(self.position)),
        }

    def save(self, folder: Path) -> float:
        """Writes the state; returns the time."""
        if self.fabric.is_global_zero:
            save_state(folder / STATE, self.state())
        self.fabric.barrier()
        return time.monotonic()

    def restore(self, folder: Path) -> None:
        """Loads the state that `save` wrote, if there is one."""
        if not (folder / STATE).exists():
            return
        with restoring(folder / STATE) as state:
            for player in self.players:
                player.trainee.network.load_state_dict(state["networks"][player.name])
                player.trainee.companions.load_state_dict(state["companions"][player.name])
                load_optimizer(player.optimizer, state["optimizers"][player.name])
                player.schedule.load_state_dict(state["schedules"][player.name])
            torch.set_rng_state(state["rng"])
            if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(state["cuda_rng"])
            self.position = _Position(**state["position"])

    def finish(self, folder: Path) -> None:
        """Writes the selected weights under their final name, and removes the training state."""
        network = self.players[0].trainee.network
        if (folder / BEST).exists():
            load_weights(folder / BEST, network)
        if self.fabric.is_global_zero:
            for name in getattr(self.task, "tuned", ()):
                (folder / TUNED).mkdir(exist_ok=True)
                tuned = next(player for player in self.players if player.name == name)
                save_weights(folder / TUNED / f"{name}.safetensors", tuned.trainee.network)
            save_weights(folder / WEIGHTS, network)
            for path in (folder / STATE, folder / BEST):
                path.unlink(missing_ok=True)
        self.fabric.barrier()
