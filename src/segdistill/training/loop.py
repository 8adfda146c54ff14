"""The one loop: players take turns on the same batches until the epochs are over, and any kill can be continued.

Devices, precision and gradient exchange are Fabric's. All state that later steps depend on is in `_snapshot`.
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
    check_numbers,
    check_weights,
    contiguous,
    load_optimizer,
    load_weights,
    numbers,
    restoring,
    save_state,
    save_weights,
)
from segdistill.training.curves import write_curves
from segdistill.training.optimisation import make_optimizer, make_schedule
from segdistill.training.settings import FitSettings
from segdistill.training.task import Batch, Task, Trainee, in_turn, judge
from segdistill.training.validation import spare_threads, to_device, validate

STATE = "training_state.pt"
BEST = "best.safetensors"
WEIGHTS = "weights.safetensors"


@dataclass
class Progress:
    """Where the loop is; given after every optimiser step."""

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
    seconds: float = 0.0
    waited: float = 0.0


def fit(
    task: Task, train: Views, validation: Views | None, settings: FitSettings, folder: Path, fabric: Fabric
) -> Iterator[Progress]:
    """Trains the task's players and leaves the first one's weights in `folder`/weights.safetensors.

    An iterator: it trains as it is consumed. When `folder` holds a training state, it goes on from there; the
    result is then bit-identical to that of an uninterrupted run on the same machine type, thread count and versions.

    Args:
        task: players and losses.
        train: views of the training cases.
        validation: views of the validation cases, not augmented; None for none.
        settings: epochs, batches, optimiser, schedule.
        folder: of this stage; gets weights, curves.csv, tensorboard/ and, while unfinished, the training state.
        fabric: launched.

    Raises:
        TrainingStopped: a loss or a weight is not finite.
    """
    batch_count = len(batch_indices(len(train), settings.batch_size, 0, 0, world=fabric.world_size))
    steps = math.ceil(batch_count / settings.accumulate)
    epochs, total = settings.length(steps)
    players = _set_up(task, settings, fabric, total)
    turns = in_turn(task, players)
    position = _restore(folder / STATE, players, fabric) if (folder / STATE).exists() else _Position()
    writer = None
    if fabric.is_global_zero:
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=position.epoch + 1)
    saved = time.monotonic()
    while position.epoch < epochs and not _is_stale(position, settings):
        last = min(steps, total - position.epoch * steps)
        start = position.step * settings.accumulate
        source = batches(
            train,
            settings.batch_size,
            position.epoch,
            start=start,
            workers=spare_threads(settings, fabric.device),
            rank=fabric.global_rank,
            world=fabric.world_size,
            pin_memory=fabric.device.type == "cuda",
        )
        with closing(source):
            for _ in range(position.step, last):
                began = time.monotonic()
                group = list(islice(source, settings.accumulate))
                position.waited += time.monotonic() - began
                parts = _step(task, turns, group, settings, fabric, position)
                position.step += 1
                position.seconds += time.monotonic() - began
                if position.step == last:
                    break  # what ends the epoch is told and saved together with it
                due = time.monotonic() - saved > settings.checkpoint_seconds
                if fabric.broadcast(due) if fabric.world_size > 1 else due:
                    check_weights(_networks(players), position.epoch, position.step)
                    saved = _save(folder, players, position, fabric)
                yield Progress(position.epoch, epochs, position.step, steps, parts, {})
        shown = validation if settings.validates(position.epoch, epochs) else None
        row = _end_epoch(task, players, shown, settings, folder, fabric, position, last)
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, position.epoch)
            writer.flush()
        saved = _save(folder, players, position, fabric)
        yield Progress(position.epoch - 1, epochs, steps, steps, parts, row)
    if writer is not None:
        writer.close()
    _finish(folder, players[0], fabric)


def _set_up(task: Task, settings: FitSettings, fabric: Fabric, total_steps: int) -> list[_Player]:
    players = []
    for name, module in list(task.players.items()):
        assert isinstance(module, Trainee)
        if settings.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(module, settings.optimizer, module.lr)
        schedule = make_schedule(optimizer, settings.schedule, total_steps)
        wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
        task.players[name] = wrapped
        players.append(_Player(name, module, wrapped, wrapped_optimizer, schedule))
    return players


def _step(
    task: Task,
    turns: list[_Player],
    group: list[Batch],
    settings: FitSettings,
    fabric: Fabric,
    position: _Position,
) -> dict[str, float]:
    """One optimiser step of every player over a group of batches; returns the mean of each part."""
    moved = [to_device(batch, fabric, settings.channels_last) for batch in group]
    images = sum(len(batch["image"]) for batch in moved)
    parts: dict[str, float] = {}
    for player in turns:
        player.module.train()
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(moved):
            with fabric.no_backward_sync(player.module, enabled=i < len(moved) - 1):
                losses = task.losses(batch, player.name)
                if losses is None:
                    continue
                share = len(batch["image"]) / images
                fabric.backward(losses["loss"] * share)
            prefix = "" if player.name == next(iter(task.players)) else f"{player.name}/"
            for name, value in losses.items():
                sums[prefix + name] = sums.get(prefix + name, 0.0) + value.detach() * share
        if sums:
            # before the step, which would carry a NaN into the weights
            taken = numbers(sums)
            check_numbers(taken, position.epoch, position.step)
            parts |= taken
            if settings.clip_norm is not None:
                fabric.clip_gradients(player.module, player.optimizer, max_norm=settings.clip_norm)
            player.optimizer.step()
            if not isinstance(player.schedule, ReduceLROnPlateau):
                player.schedule.step()
        player.optimizer.zero_grad(set_to_none=True)
    for name, number in parts.items():
        position.sums[name] = position.sums.get(name, 0.0) + number
    return parts


def _networks(players: list[_Player]) -> dict[str, nn.Module]:
    return {player.name: player.trainee for player in players}


def _shared(sums: dict[str, float], fabric: Fabric) -> dict[str, float]:
    """The mean over all processes, so that each comes to the same decisions."""
    if fabric.world_size == 1:
        return sums
    values = torch.tensor(list(sums.values()), device=fabric.device)
    return dict(zip(sums, fabric.all_reduce(values, reduce_op="mean").tolist(), strict=True))  # type: ignore[union-attr]


def _end_epoch(
    task: Task,
    players: list[_Player],
    validation: Views | None,
    settings: FitSettings,
    folder: Path,
    fabric: Fabric,
    position: _Position,
    steps: int,
) -> dict[str, float]:
    row = {"epoch": position.epoch + 1.0, "lr": players[0].optimizer.param_groups[0]["lr"]}
    check_weights(_networks(players), position.epoch, position.step)
    row |= {name: value / steps for name, value in _shared(position.sums, fabric).items()}
    row |= validate(task, players[0].module, validation, settings, fabric) if validation else {}
    row |= {"seconds": position.seconds, "wait_share": position.waited / max(position.seconds, 1e-9)}
    watched = row.get("val_loss", row["loss"])
    for player in players:
        if isinstance(player.schedule, ReduceLROnPlateau):
            player.schedule.step(watched)
    judged = judge(task, row)
    score = -row["loss"] if judged is None else judged
    if position.best is None or score > position.best:
        position.best, position.stale = score, 0
        if fabric.is_global_zero and settings.keeps_best and judged is not None:
            save_weights(folder / BEST, players[0].trainee.network)
    else:
        position.stale += 1
    position.curves.append(row)
    if fabric.is_global_zero:
        write_curves(folder / "curves.csv", position.curves)
    position.epoch, position.step, position.sums = position.epoch + 1, 0, {}
    position.seconds = position.waited = 0.0
    return row


def _is_stale(position: _Position, settings: FitSettings) -> bool:
    return settings.early_stop is not None and position.stale >= settings.early_stop


def _snapshot(players: list[_Player], position: _Position) -> dict[str, Any]:
    return {
        "networks": {p.name: contiguous(p.trainee.network.state_dict()) for p in players},
        "companions": {p.name: contiguous(p.trainee.companions.state_dict()) for p in players},
        "optimizers": {p.name: p.optimizer.state_dict() for p in players},
        "schedules": {p.name: p.schedule.state_dict() for p in players},
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "position": dict(vars(position)),
    }


def _save(folder: Path, players: list[_Player], position: _Position, fabric: Fabric) -> float:
    """Gives the time at which it was done."""
    if fabric.is_global_zero:
        save_state(folder / STATE, _snapshot(players, position))
    fabric.barrier()
    return time.monotonic()


def _restore(path: Path, players: list[_Player], fabric: Fabric) -> _Position:
    with restoring(path) as state:
        for player in players:
            player.trainee.network.load_state_dict(state["networks"][player.name])
            player.trainee.companions.load_state_dict(state.get("companions", {}).get(player.name, {}))
            load_optimizer(player.optimizer, state["optimizers"][player.name])
            player.schedule.load_state_dict(state["schedules"][player.name])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return _Position(**state["position"])


def _finish(folder: Path, player: _Player, fabric: Fabric) -> None:
    """The selected weights under their final name; the training state is no longer needed."""
    network = player.trainee.network
    if (folder / BEST).exists():
        load_weights(folder / BEST, network)
    if fabric.is_global_zero:
        save_weights(folder / WEIGHTS, network)
        (folder / STATE).unlink(missing_ok=True)
        (folder / BEST).unlink(missing_ok=True)
    fabric.barrier()
