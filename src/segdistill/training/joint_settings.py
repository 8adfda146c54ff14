"""How a network that classifies, and perhaps localises, is trained: plain settings, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
