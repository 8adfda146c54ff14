"""How a stage is trained against discriminators: plain settings, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


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
