"""Settings of training; unknown keys and wrong types are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class OptimizerSettings(_Settings):
    """Optimiser of every player.

    >>> OptimizerSettings().name
    'adamw'
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Which optimiser."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay: coupled L2 for adam and sgd, decoupled for adamw."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd."""


class ScheduleSettings(_Settings):
    """Learning-rate schedule.

    >>> ScheduleSettings(name="plateau").patience
    3
    """

    name: Literal["constant", "plateau", "one_cycle", "cyclic", "polynomial"] = "one_cycle"
    """`plateau` lowers the rate when the loss (of validation, if any) does not improve; `one_cycle` warms up and
    anneals to nearly zero; `cyclic` rises and falls repeatedly (AMTD); `polynomial` is lr (1 - t/T)^power over
    all T steps (LightVessel)."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """plateau: multiplies the rate."""
    patience: int = Field(default=3, ge=0)
    """plateau: epochs without a lower loss before the rate is lowered."""
    warm_up: float = Field(default=0.3, gt=0, lt=1)
    """one_cycle: share of the steps that warm up."""
    lowest: float = Field(default=1e-6, gt=0)
    """cyclic: lowest rate."""
    steps_up: int = Field(default=2000, ge=1)
    """cyclic: steps from the lowest rate to `lr`."""
    power: float = Field(default=0.9, gt=0)
    """polynomial: the power."""


ENDS_AT_ZERO = ("one_cycle", "polynomial")
"""Schedules whose learning rate is (nearly) zero after the last step."""


class FitSettings(_Settings):
    """How the loop trains.

    >>> FitSettings(epochs=20).batch_size
    8
    """

    epochs: int = Field(default=40, ge=1, le=1_000_000)
    """Passes over the training cases."""
    steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Optimiser steps instead of `epochs`; the last pass may end early."""
    batch_size: int = Field(default=8, ge=1, le=65_536)
    """Images per forward pass, over all devices."""
    masks_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of each batch that has a mask, where only some cases have one; by default as they come."""
    accumulate: int = Field(default=1, ge=1, le=65_536)
    """Batches per optimiser step."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The optimiser."""
    schedule: ScheduleSettings = ScheduleSettings()
    """The learning-rate schedule."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` takes bf16 where the processor computes in it, else fp32."""
    channels_last: bool = True
    """Memory format of networks and images."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of a network's gradient; no clipping by default."""
    early_stop: int | None = Field(default=None, ge=1)
    """Training ends after this many epochs without improvement; never by default."""
    select: Literal["auto", "best", "last"] = "auto"
    """Keep the weights of the `best` epoch by validation score, or of the `last`; `auto` keeps the last where the
    schedule ends at a rate of zero. Without validation cases the last are kept."""
    views: int | None = Field(default=None, ge=1, le=1_000_000)
    """Number of different augmentations of a case; a new one per epoch by default."""
    augment: str = "light"
    """Augmentation: `none`, `light`, `lightbtseg`, `usseg`, `amtd`, `lanet`, `lanet_crop` or `vessel`."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Seconds between checkpoints; every epoch also ends with one."""
    workers: int | None = Field(default=None, ge=0, le=256)
    """Threads that prepare batches; by default the cores that the network leaves free."""

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
        """Whether epoch `epoch` of `epochs`, from 0, is validated.

        Every epoch is where something depends on it; else at most ten of them and the last one, for the curves.

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
        """(epochs, optimiser steps in all), if an epoch has `steps`.

        >>> FitSettings(epochs=2).length(10), FitSettings(steps=25).length(10)
        ((2, 20), (3, 25))
        """
        if self.steps is None:
            return self.epochs, self.epochs * steps
        return -(-self.steps // steps), self.steps


class AdversarialSettings(_Settings):
    """US-SEG's loss and discriminators (Li et al., Eq. 1 and 2); stage 1 is the finest, the network's own logits.

    >>> AdversarialSettings(adv_stages=0).alpha
    [1.0, 0.1, 0.1, 0.1]
    """

    gan: Literal["minimax", "non_saturating"] = "minimax"
    """The generator's adversarial term; the paper prints minimax."""
    condition: Literal["map", "masked_image", "concat"] = "map"
    """Input of a discriminator: the map (as printed), the image times the map, or both."""
    native_size: bool = False
    """Compare and discriminate each stage at its own size instead of the image's."""
    alpha: list[float] = Field(default=[1.0, 0.1, 0.1, 0.1], min_length=1)
    """Weights of the Dice loss per stage."""
    beta: list[float] = [0.05, 0.05, 0.05, 0.05]
    """Weights of the adversarial term per stage."""
    dice_stages: int | None = Field(default=None, ge=1)
    """Stages with a Dice loss, from the finest on; all by default."""
    adv_stages: int | None = Field(default=None, ge=0)
    """Stages with a discriminator, from the finest on; all by default, 0 for none."""
    width: int = Field(default=64, ge=1, le=65_536)
    """Channels of a discriminator's first convolution."""

    @model_validator(mode="after")
    def _no_weight_is_negative(self) -> AdversarialSettings:
        for name, weights in (("alpha", self.alpha), ("beta", self.beta)):
            if any(weight < 0 for weight in weights):
                raise ValueError(f"{name} has a negative weight: use 0 to exclude a stage")
        return self


class JointSettings(_Settings):
    """LA-Net's losses and their switches (Fan et al. 2023, Eq. 6 and 7); the defaults are its second stage.

    >>> JointSettings(balance=0.0).uses_class, JointSettings().classes
    (False, ['malignant', 'benign'])
    """

    classes: list[str] = Field(default=["malignant", "benign"], min_length=2)
    """Labels in the order of the network's outputs; the first is the positive one."""
    balance: float = Field(default=0.5, ge=0, le=1)
    """Share of the classification loss; 0 learns the location only, 1 the label."""
    class_weights: list[float] | None = None
    """Weights of the cross-entropy in the order of `classes`; equal by default."""
    location: Literal["map", "loss", "none"] = "map"
    """`map`: binary cross-entropy on the network's map at its own size, with pseudo labels; `loss`: the stage's
    segmentation loss at full size; `none`: no location (classifiers, AGN)."""
    target: Literal["bilinear", "nearest", "area"] = "bilinear"
    """How a mask is resized to the size of the map."""
    pseudo_labels: Literal["paper", "release", "none"] = "paper"
    """Rule for images without a location: the paper's, that of its code, or none."""
    confidence: Literal["max", "given"] = "max"
    """Confidence of a pseudo label: of the predicted class (paper), or of the known one."""
    tau: float = Field(default=0.8, ge=0, le=1)
    """Threshold of pseudo labels."""
    alpha: float = Field(default=0.1, ge=0)
    """Weight of pseudo labels."""
    labelled_only: bool = False
    """Train on images with a location only."""
    select_by: Literal["accuracy", "dice", "both"] = "accuracy"
    """Validation score that selects the epoch: accuracy, Dice, or their mean."""

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
        """Names of the validation numbers whose mean selects the epoch.

        >>> JointSettings(select_by="both").score
        ('val_accuracy', 'val_dice')
        """
        accuracy = ("val_accuracy",) if self.uses_class and self.select_by != "dice" else ()
        return accuracy + (("val_dice",) if self.select_by != "accuracy" or not accuracy else ())

    @model_validator(mode="after")
    def _consistent(self) -> JointSettings:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes lists a label twice")
        weights = self.class_weights
        if weights is not None and (len(weights) != len(self.classes) or min(weights) <= 0):
            raise ValueError(f"class_weights: give {len(self.classes)} positive numbers, one for each class")
        if self.balance == 0 and self.location == "none":
            raise ValueError("balance 0 and location none leave nothing to learn")
        return self
