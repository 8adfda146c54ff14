"""How a stage is trained: plain settings that refuse unknown keys and wrong types."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OptimizerSettings(_Settings):
    """Optimiser of every player.

    `weight_decay` is coupled L2 for adam and sgd, decoupled for adamw.

    >>> OptimizerSettings().name
    'adamw'
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 2e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9


class ScheduleSettings(_Settings):
    """Learning-rate schedule.

    `plateau` multiplies the rate by `factor` after `patience` epochs without a lower loss (validation loss if there
    is one); `one_cycle` warms up over `warm_up` of all steps and anneals to nearly zero; `constant` does nothing.

    >>> ScheduleSettings(name="plateau").patience
    3
    """

    name: Literal["constant", "plateau", "one_cycle"] = "one_cycle"
    factor: float = 0.1
    patience: int = 3
    warm_up: float = 0.3


class FitSettings(_Settings):
    """Everything that the loop needs to know beside the task and the data.

    Attributes:
        epochs: passes over the training cases.
        batch_size: images per forward pass over all devices; an optimiser step takes `accumulate` of them.
        accumulate: batches per optimiser step.
        precision: `auto` takes bf16 where the processor computes in it, else 32.
        channels_last: memory format of networks and images.
        clip_norm: largest norm of a player's gradient; None for no clipping.
        early_stop: epochs without improvement after which training ends; None for never.
        select: keep the weights of the epoch with the best validation Dice, or the last ones. Without validation
            cases the last ones are kept.
        views: number of different augmentations of a case; None for a new one in every epoch.
        augment: name of an augmentation preset (data/views.py).
        checkpoint_seconds: at most this much work is lost by a kill; a checkpoint is also written after each epoch.
        workers: threads that prepare batches.

    >>> FitSettings(epochs=20).batch_size
    8
    """

    epochs: int = 40
    batch_size: int = 8
    accumulate: int = 1
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    precision: Literal["auto", "32", "bf16"] = "auto"
    channels_last: bool = True
    clip_norm: float | None = None
    early_stop: int | None = None
    select: Literal["best", "last"] = "best"
    views: int | None = None
    augment: str = "light"
    checkpoint_seconds: float = 60.0
    workers: int = 1
