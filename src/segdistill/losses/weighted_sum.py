"""Losses that are a weighted sum of others, with every term visible."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segdistill.losses.base import probabilities, register_loss
from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.dice import DiceLoss
from segdistill.losses.iou import IoULoss
from segdistill.losses.lovasz import LovaszSoftmax


class WeightedSum(nn.Module):
    """Sum of weight x loss.

    Args:
        terms: name -> (weight, loss module that maps logits and target to a scalar).

    >>> loss = WeightedSum({"cross_entropy": (2.0, CrossEntropy())})
    >>> round(loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long)).item(), 4)
    1.3863
    """

    def __init__(self, terms: Mapping[str, tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: module for name, (_, module) in terms.items()})

    def parts(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each term before its weight."""
        return {name: module(logits, target) for name, module in self.terms.items()}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `parts`."""
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return self.total(self.parts(logits, target))


@register_loss("weight_balance")
def weight_balance_loss(
    cross_entropy: float = 2.0, dice: float = 1.0, iou: float = 1.0, background: bool = False
) -> WeightedSum:
    """L_WB = 2 L_ce + L_dice + L_IoU (LightBTSeg Eq. 7).

    Args:
        cross_entropy: weight of the cross-entropy.
        dice: weight of the Dice loss.
        iou: weight of the IoU loss.
        background: the Dice loss is the mean over both classes, as Eq. 5 prints it with w_k = 1 / K; by default that of
            the foreground, since the background of a large image hides a small lesion.

    >>> sorted(weight_balance_loss().weights.items())
    [('cross_entropy', 2.0), ('dice', 1.0), ('iou', 1.0)]
    """
    return WeightedSum(
        {
            "cross_entropy": (cross_entropy, CrossEntropy()),
            "dice": (dice, DiceLoss(background=background)),
            "iou": (iou, IoULoss()),
        }
    )


@register_loss("cross_entropy_dice")
def cross_entropy_dice_loss(cross_entropy: float = 1.0, dice: float = 1.0) -> WeightedSum:
    """Cross-entropy plus Dice, the usual choice without a paper.

    >>> sorted(cross_entropy_dice_loss().weights)
    ['cross_entropy', 'dice']
    """
    return WeightedSum({"cross_entropy": (cross_entropy, CrossEntropy()), "dice": (dice, DiceLoss())})


class RootMeanSquare(nn.Module):
    """Root mean square error of the probability of foreground, per image, then the mean (LightVessel Eq. 4, over n).

    >>> round(RootMeanSquare()(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)).item(), 4)
    0.5
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        error = probabilities(logits)[:, 1:].sum(1) - (target > 0).float()
        return (error.square().flatten(1).mean(1) + 1e-12).sqrt().mean()


@register_loss("cross_entropy_rmse")
def cross_entropy_rmse_loss(cross_entropy: float = 1.0, rmse: float = 1.0) -> WeightedSum:
    """Cross-entropy plus root mean square error: what LightVessel's ASD (Eq. 4, 5) is without its teacher.

    >>> sorted(cross_entropy_rmse_loss().weights)
    ['cross_entropy', 'rmse']
    """
    return WeightedSum({"cross_entropy": (cross_entropy, CrossEntropy()), "rmse": (rmse, RootMeanSquare())})


@register_loss("amtd_seg")
def amtd_seg_loss(dice: float = 0.2, lovasz: float = 0.3) -> WeightedSum:
    """Seg_loss = 0.2 Dice + 0.3 Lovasz-softmax (AMTD Eq. 5).

    Dice with plain sums and smoothing 1, per image. (EMKD's code takes the batch as one image, where a large organ
    hides a small one.) Smoothing 1 is one position, as published: it matters only at sizes of a few pixels.

    >>> sorted(amtd_seg_loss().weights.items())
    [('dice', 0.2), ('lovasz', 0.3)]
    """
    return WeightedSum(
        {"dice": (dice, DiceLoss(squared=False, epsilon=1.0)), "lovasz": (lovasz, LovaszSoftmax())}
    )
