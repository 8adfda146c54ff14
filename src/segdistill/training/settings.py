"""Settings of training; unknown keys and wrong types are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OptimizerSettings(_Settings):
    """Optimiser of every player.

    >>> OptimizerSettings().name
    'adamw'
    """

    name: Literal["adam", "adamw", "sgd"] = Field(default="adamw", description="optimiser")
    lr: float = Field(default=2e-3, gt=0, description="learning rate; the highest one of a schedule")
    weight_decay: float = Field(
        default=1e-2, ge=0, description="coupled L2 for adam and sgd, decoupled for adamw"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")


class ScheduleSettings(_Settings):
    """Learning-rate schedule.

    >>> ScheduleSettings(name="plateau").patience
    3
    """

    name: Literal["constant", "plateau", "one_cycle", "cyclic", "polynomial"] = Field(
        default="one_cycle",
        description=(
            "constant; plateau: times factor after patience epochs without a lower (validation) loss; one_cycle: up "
            "during warm_up, then down to nearly zero; cyclic: up and down between lowest and lr, over and over; "
            "polynomial: lr (1 - t/T)^power over all T steps"
        ),
    )
    factor: float = Field(default=0.1, gt=0, lt=1, description="of plateau")
    patience: int = Field(default=3, ge=0, description="epochs, of plateau")
    warm_up: float = Field(default=0.3, gt=0, lt=1, description="share of all steps, of one_cycle")
    lowest: float = Field(default=1e-6, gt=0, description="lowest rate, of cyclic (AMTD: 1e-6)")
    steps_up: int = Field(default=2000, ge=1, description="steps from lowest to lr, of cyclic (AMTD: 2000)")
    power: float = Field(default=0.9, gt=0, description="of polynomial (LightVessel: 0.9)")


ENDS_AT_ZERO = ("one_cycle", "polynomial")
"""Schedules whose learning rate is (nearly) zero after the last step."""


class FitSettings(_Settings):
    """Settings of the training loop, apart from task and data.

    `select: auto` takes the last weights where the learning rate has fallen to zero by then: weights of an epoch in the
    middle of such a schedule have not settled (benchmarks/selection.py).

    >>> FitSettings(epochs=20).batch_size
    8
    """

    epochs: int = Field(default=40, ge=1, description="passes over the training cases")
    steps: int | None = Field(
        default=None,
        ge=1,
        description="optimiser steps in all, in place of epochs; the last pass may end early",
    )
    batch_size: int = Field(default=8, ge=1, description="images per forward pass, over all devices")
    accumulate: int = Field(default=1, ge=1, description="batches per optimiser step")
    optimizer: OptimizerSettings = Field(
        default=OptimizerSettings(), description="optimiser of every network"
    )
    schedule: ScheduleSettings = Field(default=ScheduleSettings(), description="learning-rate schedule")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="of computation; auto is bf16 where the processor computes in it, else fp32",
    )
    channels_last: bool = Field(default=True, description="memory format of networks and images")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of a gradient; none for no clipping"
    )
    early_stop: int | None = Field(
        default=None, ge=1, description="epochs without improvement after which training ends; none for never"
    )
    select: Literal["auto", "best", "last"] = Field(
        default="auto",
        description=(
            "which weights are kept: of the best epoch by validation Dice, or of the last; auto is last for schedules "
            "that end at zero without early_stop, else best. Without validation cases the last are kept"
        ),
    )
    views: int | None = Field(
        default=None, ge=1, description="number of augmentations of a case; none for a new one in every epoch"
    )
    augment: str = Field(default="light", description="augmentation preset")
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, description="time between checkpoints; one is also written after each epoch"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="threads that prepare batches; none for the cores that the network leaves idle",
    )

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
        """Whether epoch `epoch` of `epochs`, from 0, ends with validation.

        Every epoch does if something is decided by it; else at most ten of them and the last one, for the curves.

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

    gan: Literal["minimax", "non_saturating"] = Field(
        default="minimax", description="the generator's adversarial term; minimax is printed"
    )
    condition: Literal["map", "masked_image", "concat"] = Field(
        default="map",
        description="input of a discriminator: the map (as printed), the image times the map, or both",
    )
    native: bool = Field(
        default=False, description="compare and discriminate each stage at its own size, not the image's"
    )
    alpha: list[float] = Field(
        default=[1.0, 0.1, 0.1, 0.1],
        min_length=1,
        description="weight of Dice per stage; further stages are not read",
    )
    beta: list[float] = Field(
        default=[0.05, 0.05, 0.05, 0.05], description="weight of the adversarial term per stage"
    )
    dice_stages: int | None = Field(
        default=None, ge=1, description="stages with a Dice, from the finest on; none for all"
    )
    adv_stages: int | None = Field(
        default=None,
        ge=0,
        description="stages with a discriminator; none for all, 0 for plain deep supervision",
    )
    width: int = Field(default=64, ge=1, description="channels of a discriminator's first convolution")

    @model_validator(mode="after")
    def _no_weight_is_negative(self) -> AdversarialSettings:
        for name, weights in (("alpha", self.alpha), ("beta", self.beta)):
            if any(weight < 0 for weight in weights):
                raise ValueError(f"{name} has a negative weight: use 0 to exclude a stage")
        return self


class JointSettings(_Settings):
    """LA-Net's losses (Fan et al. 2023, Eq. 6 to 10); the defaults are its second stage.

    >>> JointSettings(balance=0.0).uses_class, JointSettings().classes
    (False, ['malignant', 'benign'])
    """

    classes: list[str] = Field(
        default=["malignant", "benign"],
        min_length=2,
        description="labels of cases in the order of the network's logits; the first is the positive one",
    )
    balance: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the classification loss; 0 trains the location alone, 1 the class alone",
    )
    class_weights: list[float] | None = Field(
        default=None, description="of the cross-entropy, in the order of classes; none for equal ones"
    )
    location: Literal["map", "loss", "none"] = Field(
        default="map",
        description=(
            "map: binary cross-entropy on the network's own map at its size, with pseudo labels; loss: the stage's "
            "segmentation loss at full size; none: no location (classifiers; AGN as published)"
        ),
    )
    target: Literal["bilinear", "nearest", "area"] = Field(
        default="bilinear", description="how a mask is resized to the map"
    )
    pseudo: Literal["paper", "release", "none"] = Field(
        default="paper",
        description=(
            "target of images without a location. paper: the map at 0.5, if the class is more certain than tau; "
            "release: the map at tau; none: no target"
        ),
    )
    confidence: Literal["max", "given"] = Field(
        default="max", description="probability of the predicted class (as in the paper), or of the known one"
    )
    tau: float = Field(default=0.8, ge=0, le=1, description="threshold of pseudo labels")
    alpha: float = Field(default=0.1, ge=0, description="weight of pseudo labels")
    labelled_only: bool = Field(default=False, description="exclude training images without a location")
    judge: Literal["accuracy", "dice", "both"] = Field(
        default="accuracy",
        description="validation number that selects the epoch: accuracy (LA-Net), Dice, or their mean",
    )

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

        >>> JointSettings(judge="both").score
        ('val_accuracy', 'val_dice')
        """
        accuracy = ("val_accuracy",) if self.uses_class and self.judge != "dice" else ()
        return accuracy + (("val_dice",) if self.judge != "accuracy" or not accuracy else ())

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
