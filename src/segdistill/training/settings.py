"""How a stage is trained: plain settings that refuse unknown keys and wrong types."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OptimizerSettings(_Settings):
    """Optimiser of every player.

    `weight_decay` is coupled L2 for adam and sgd, decoupled for adamw.

    >>> OptimizerSettings().name
    'adamw'
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)


class ScheduleSettings(_Settings):
    """Learning-rate schedule.

    `plateau` multiplies the rate by `factor` after `patience` epochs without a lower loss (validation loss if there
    is one); `one_cycle` warms up over `warm_up` of all steps and anneals to nearly zero; `constant` does nothing.
    `cyclic` goes up from `lowest` to the optimiser's rate in `steps_up` steps and down again in as many, over and over
    (AMTD: 1e-6, 1e-2, 2000); `polynomial` is lr (1 - t/T)^`power` over all T steps (LightVessel: 0.9).

    >>> ScheduleSettings(name="plateau").patience
    3
    >>> sorted(ScheduleSettings(name="polynomial").model_dump())
    ['factor', 'name', 'patience', 'power', 'warm_up']
    """

    name: Literal["constant", "plateau", "one_cycle", "cyclic", "polynomial"] = "one_cycle"
    factor: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=3, ge=0)
    warm_up: float = Field(default=0.3, gt=0, lt=1)
    lowest: float = Field(default=1e-6, gt=0)
    steps_up: int = Field(default=2000, ge=1)
    power: float = Field(default=0.9, gt=0)

    @model_serializer(mode="wrap")
    def _only_what_it_reads(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out the numbers of other, later schedules: a finished run is known by a hash of its settings."""
        content: dict[str, Any] = dump(self)
        reads = {"cyclic": {"lowest", "steps_up"}, "polynomial": {"power"}}.get(self.name, set())
        for name in {"lowest", "steps_up", "power"} - reads:
            content.pop(name, None)
        return content


ENDS_AT_ZERO = ("one_cycle", "polynomial")
"""Schedules whose learning rate is (nearly) zero after the last step."""


class FitSettings(_Settings):
    """Everything that the loop needs to know beside the task and the data.

    Attributes:
        epochs: passes over the training cases.
        steps: optimiser steps in all, in place of `epochs`: the last pass may end early.
        batch_size: images per forward pass over all devices; an optimiser step takes `accumulate` of them.
        accumulate: batches per optimiser step.
        precision: `auto` takes bf16 where the processor computes in it, else fp32.
        channels_last: memory format of networks and images.
        clip_norm: largest norm of a player's gradient; None for no clipping.
        early_stop: epochs without improvement after which training ends; None for never.
        select: keep the weights of the "best" epoch by validation Dice, or the "last" ones; "auto" takes the last ones
            where the learning rate has come down to zero by then: those of an epoch in the middle of such a schedule
            have not settled (benchmarks/selection.py). Without validation cases the last ones are kept.
        views: number of different augmentations of a case; None for a new one in every epoch.
        augment: name of an augmentation preset (data/views.py).
        checkpoint_seconds: at most this much work is lost by a kill; a checkpoint is also written after each epoch.
        workers: threads that prepare batches; None takes the cores that the network's own threads leave free.

    >>> FitSettings(epochs=20).batch_size
    8
    """

    epochs: int = Field(default=40, ge=1)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    clip_norm: float | None = Field(default=None, gt=0)
    early_stop: int | None = Field(default=None, ge=1)
    select: Literal["auto", "best", "last"] = "auto"
    views: int | None = Field(default=None, ge=1)
    augment: str = "light"
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    workers: int | None = Field(default=None, ge=0)

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best validation epoch are kept, rather than the last ones.

        >>> FitSettings().keeps_best, FitSettings(schedule={"name": "plateau"}).keeps_best
        (False, True)
        """
        if self.select != "auto":
            return self.select == "best"
        return self.early_stop is not None or self.schedule.name not in ENDS_AT_ZERO

    def validates(self, epoch: int, epochs: int) -> bool:
        """Whether epoch `epoch` of `epochs`, from 0, ends with a look at the validation cases.

        Every epoch does where something is decided by it; else at most ten of them and the last one, for the curves.

        >>> [epoch for epoch in range(40) if FitSettings().validates(epoch, 40)]
        [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
        >>> [sum(FitSettings().validates(epoch, epochs) for epoch in range(epochs)) for epochs in (5, 19, 25)]
        [5, 10, 9]
        >>> sum(FitSettings(select="best").validates(epoch, 40) for epoch in range(40))
        40
        """
        decides = self.keeps_best or self.early_stop is not None or self.schedule.name == "plateau"
        every = 1 if decides else -(-epochs // 10)
        return (epoch + 1) % every == 0 or epoch + 1 == epochs

    def length(self, steps: int) -> tuple[int, int]:
        """(epochs, optimiser steps in all) where an epoch has `steps`.

        >>> FitSettings(epochs=2).length(10), FitSettings(steps=25).length(10)
        ((2, 20), (3, 25))
        """
        if self.steps is None:
            return self.epochs, self.epochs * steps
        return -(-self.steps // steps), self.steps

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what came after the first runs, where it is not used: a finished run stays finished."""
        content: dict[str, Any] = dump(self)
        if self.steps is None:
            content.pop("steps", None)
        return content


class AdversarialSettings(BaseModel):
    """US-SEG's loss and discriminators (Li et al., Eq. 1 and 2); stage 1 is the finest, the network's own logits.

    Attributes:
        gan: the generator's adversarial term, "minimax" as printed or "non_saturating".
        condition: what a discriminator sees: the map alone (as printed), the image times the map, or both.
        native: compare and judge each stage at its own size instead of the image's.
        alpha, beta: weights of Dice and of the adversarial term per stage; those of further stages are not read.
        dice_stages, adv_stages: how many stages have a Dice and a discriminator, from the finest on; None for all that
            the network has. Without discriminators (0) it is plain deep supervision.
        width: channels of a discriminator's first convolution.

    >>> AdversarialSettings(adv_stages=0).alpha
    [1.0, 0.1, 0.1, 0.1]
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    gan: Literal["minimax", "non_saturating"] = "minimax"
    condition: Literal["map", "masked_image", "concat"] = "map"
    native: bool = False
    alpha: list[float] = Field(default=[1.0, 0.1, 0.1, 0.1], min_length=1)
    beta: list[float] = [0.05, 0.05, 0.05, 0.05]
    dice_stages: int | None = Field(default=None, ge=1)
    adv_stages: int | None = Field(default=None, ge=0)
    width: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _no_weight_is_negative(self) -> AdversarialSettings:
        for name, weights in (("alpha", self.alpha), ("beta", self.beta)):
            if any(weight < 0 for weight in weights):
                raise ValueError(f"{name} has a negative weight: use 0 to leave a stage out")
        return self


class JointSettings(BaseModel):
    """LA-Net's losses and their switches (Fan et al. 2023, Eq. 6 to 10); the defaults are its second stage.

    Attributes:
        classes: labels of cases in the order of the network's answers; the first is the one to be found.
        balance: share of the classification loss; 0 trains the location alone (the first stage), 1 the class alone.
        class_weights: of the cross-entropy, in the order of `classes`; None weighs all alike.
        location: "map": binary cross-entropy on the network's own map at its own size, with pseudo labels; "loss": the
            stage's segmentation loss at full size; "none": none (classifiers; AGN as published).
        target: how a mask is brought to the size of the map.
        pseudo: rule for images without a location, see `losses.pseudo_labels.locate`.
        confidence: "max": of the predicted class, literally the paper; "given": of the class that is known.
        tau, alpha: threshold and weight of pseudo labels.
        labelled_only: leave out training images without a location.
        judge: what selects the epoch: validation accuracy (LA-Net), Dice, or the mean of both.

    >>> JointSettings(balance=0.0).uses_class, JointSettings().classes
    (False, ['malignant', 'benign'])
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    classes: list[str] = Field(default=["malignant", "benign"], min_length=2)
    balance: float = Field(default=0.5, ge=0, le=1)
    class_weights: list[float] | None = None
    location: Literal["map", "loss", "none"] = "map"
    target: Literal["bilinear", "nearest", "area"] = "bilinear"
    pseudo: Literal["paper", "release", "none"] = "paper"
    confidence: Literal["max", "given"] = "max"
    tau: float = Field(default=0.8, ge=0, le=1)
    alpha: float = Field(default=0.1, ge=0)
    labelled_only: bool = False
    judge: Literal["accuracy", "dice", "both"] = "accuracy"

    @property
    def uses_class(self) -> bool:
        """Whether the class of an image enters the loss."""
        return self.balance > 0 or self.location == "none"

    @property
    def uses_location(self) -> bool:
        """Whether a location enters the loss."""
        return self.balance < 1 and self.location != "none"

    @property
    def score(self) -> tuple[str, ...]:
        """The validation numbers whose mean selects the epoch, as far as there are any.

        >>> JointSettings(judge="both").score
        ('val_accuracy', 'val_dice')
        """
        accuracy = ("val_accuracy",) if self.uses_class and self.judge != "dice" else ()
        return accuracy + (("val_dice",) if self.judge != "accuracy" or not accuracy else ())

    @model_validator(mode="after")
    def _consistent(self) -> JointSettings:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a label twice")
        weights = self.class_weights
        if weights is not None and (len(weights) != len(self.classes) or min(weights) <= 0):
            raise ValueError(f"class_weights: give {len(self.classes)} positive numbers, one for each class")
        if self.balance == 0 and self.location == "none":
            raise ValueError("balance 0 and location none leave nothing to learn")
        return self
