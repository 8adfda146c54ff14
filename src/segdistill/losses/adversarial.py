"""US-SEG's losses: Dice and an adversarial term on every supervised stage, and what the discriminators learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.errors import InputError
from segdistill.losses.base import one_hot, probabilities
from segdistill.models.discriminator import critic_input
from segdistill.options import fit_option

Gan = Literal["minimax", "non_saturating"]
Condition = Literal["map", "masked_image", "concat"]
ALPHA = (1.0, 0.1, 0.1, 0.1)
"""Published weights of Dice, finest stage first."""
BETA = (0.05, 0.05, 0.05, 0.05)
"""Published weights of the adversarial terms."""


def adversarial_loss(logits: Tensor, gan: Gan = "minimax") -> Tensor:
    """The generator's loss from a discriminator's logits on its maps (US-SEG Eq. 1, second term).

    Args:
        logits: (B,) of "this is a reference".
        gan: "minimax", as printed: mean log(1 - D), never above 0 and unbounded below, flat where D is certain;
            "non_saturating": -mean log D, which is steep there.

    >>> [round(adversarial_loss(torch.zeros(2), gan).item(), 4) for gan in ("minimax", "non_saturating")]
    [-0.6931, 0.6931]
    """
    fit_option("gan", gan, Gan)
    logits = logits.float()
    return -F.softplus(logits).mean() if gan == "minimax" else F.softplus(-logits).mean()


def discriminator_loss(real: Tensor, predicted: Tensor) -> Tensor:
    """-mean log D(reference) - mean log(1 - D(prediction)), on logits (B,) (US-SEG Eq. 2, for any stage).

    >>> round(discriminator_loss(torch.zeros(2), torch.zeros(2)).item(), 4)
    1.3863
    """
    return F.softplus(-real.float()).mean() + F.softplus(predicted.float()).mean()


def map_dice_loss(probability: Tensor, reference: Tensor, epsilon: float = 1e-5) -> Tensor:
    """1 - 2 sum(P G) / (sum P + sum G) per image and class, then the mean (US-SEG Eq. 1, first term).

    Args:
        probability: (B, K, H, W) of K foreground classes, already at the reference's size.
        reference: (B, K, H, W) of 0 and 1.
        epsilon: keeps an empty prediction of an empty reference at loss 0.

    >>> map_dice_loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item()
    0.0
    """
    predicted, truth = probability.float().flatten(2), reference.float().flatten(2)
    overlap = (predicted * truth).sum(2)
    total = predicted.sum(2) + truth.sum(2)
    return 1 - ((2 * overlap + epsilon) / (total + epsilon)).mean()


class MultiStageLoss:
    """sum over stages n of alpha_n Dice_n + beta_n Adv_n, and the discriminators' losses (US-SEG Eq. 1 and 2).

    Args:
        alpha: weight of Dice per stage, finest first; as many as have a Dice term.
        beta: weight of the adversarial term per stage; as many as have a discriminator, () for none.
        gan: see `adversarial_loss`.
        condition: input of a discriminator (models/discriminator.py): the map, the image times the map, or both.
        native: compare each stage at its own size with a resized reference (nearest), instead of a prediction resized
            to the reference (bilinear).

    >>> loss = MultiStageLoss(alpha=(1.0, 0.1), beta=())
    >>> maps = loss.maps([torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)], (8, 8))
    >>> references = loss.references(torch.ones(1, 8, 8, dtype=torch.long), maps)
    >>> round(loss.generator(maps, references, [])["loss"].item(), 4)  # Dice of P = 0.5 against 1 is 2/3
    0.3667
    """

    def __init__(
        self,
        alpha: Sequence[float] = ALPHA,
        beta: Sequence[float] = BETA,
        gan: Gan = "minimax",
        condition: Condition = "map",
        native: bool = False,
    ) -> None:
        if not alpha:
            raise InputError("adversarial.alpha is empty: give a weight for the Dice of the finest stage")
        self.alpha, self.beta = tuple(alpha), tuple(beta)
        self.gan: Gan = gan
        self.condition: Condition = condition
        self.native = native

    @property
    def stages(self) -> int:
        """Number of stages with a Dice or an adversarial term."""
        return max(len(self.alpha), len(self.beta))

    def maps(self, logits: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Foreground probabilities (B, K, H, W) of logits per stage, at the reference's size.

        The probabilities are interpolated, not the logits.
        """
        found = [probabilities(one)[:, 1:] for one in logits[: self.stages]]
        if self.native:
            return found
        return [
            one
            if tuple(one.shape[2:]) == size
            else F.interpolate(one, size, mode="bilinear", align_corners=False)
            for one in found
        ]

    def references(self, target: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """The reference (B, H, W) of class indices as maps of 0 and 1, each in its prediction's shape."""
        whole = one_hot(target, maps[0].shape[1] + 1)[:, 1:]
        return [
            whole if one.shape == whole.shape else F.interpolate(whole, one.shape[2:], mode="nearest-exact")
            for one in maps
        ]

    def inputs(self, maps: Sequence[Tensor], image: Tensor) -> list[Tensor]:
        """The input of each discriminator, from its map (B, K, h, w) and the image (B, C, H, W).

        Channels: K for "map", K C for "masked_image", C + K for "concat".
        """
        return [self._input(one, image) for one in maps[: len(self.beta)]]

    def _input(self, map_: Tensor, image: Tensor) -> Tensor:
        if self.condition != "map" and image.shape[2:] != map_.shape[2:]:
            image = F.interpolate(image, map_.shape[2:], mode="area")
        if self.condition == "masked_image":
            parts = [critic_input(one, image, self.condition) for one in torch.split(map_, 1, dim=1)]
            return torch.cat(parts, dim=1)
        return critic_input(map_, image, self.condition)

    def generator(
        self, maps: Sequence[Tensor], references: Sequence[Tensor], logits: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """`loss` with its parts before their weights: dice_n and adversarial_n, n = 1 the finest stage.

        Args:
            maps: of `maps`.
            references: of `references`.
            logits: (B,) of each discriminator on `inputs` of the maps.
        """
        parts, total = {}, maps[0].new_zeros(())
        for n, (weight, map_, reference) in enumerate(zip(self.alpha, maps, references, strict=False), 1):
            parts[f"dice_{n}"] = map_dice_loss(map_, reference)
            total = total + weight * parts[f"dice_{n}"]
        for n, (weight, one) in enumerate(zip(self.beta, logits, strict=True), 1):
            parts[f"adversarial_{n}"] = adversarial_loss(one, self.gan)
            total = total + weight * parts[f"adversarial_{n}"]
        return {"loss": total, **parts}
