"""Focal loss, and EMKD's segmentation loss that is half of it."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.losses.base import log_probabilities, register_loss
from segdistill.losses.dice import DiceLoss
from segdistill.losses.weighted_sum import WeightedSum


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - p)^gamma log p of the reference's class (Lin et al. 2017, Eq. 4), mean over positions and images.

    Args:
        logits: (B, C, ...).
        target: (B, ...) class indices.
        gamma: 0 gives the cross-entropy.

    Returns:
        Scalar in nats.

    >>> import torch
    >>> round(focal_loss(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)).item(), 4)
    0.1733
    """
    known = log_probabilities(logits).gather(1, target[:, None])
    return -((1 - known.exp()).pow(gamma) * known).mean()


@register_loss("focal")
class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017), which counts hard pixels more: `focal_loss` as a module.

    >>> FocalLoss(gamma=-1.0)
    Traceback (most recent call last):
    segdistill.errors.InputError: focal: gamma must not be negative, not -1.0
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        if gamma < 0:
            raise InputError(f"focal: gamma must not be negative, not {gamma}")
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return focal_loss(logits, target, self.gamma)


@register_loss("emkd_seg")
def emkd_seg_loss(focal: float = 0.5, dice: float = 0.5, gamma: float = 2.0) -> WeightedSum:
    """Half focal loss, half Dice loss of the foreground (plain sums, smooth 1, per image): EMKD, Qin et al. 2021.

    >>> sorted(emkd_seg_loss().weights.items())
    [('dice', 0.5), ('focal', 0.5)]
    """
    return WeightedSum(
        {"focal": (focal, FocalLoss(gamma)), "dice": (dice, DiceLoss(squared=False, epsilon=1.0))}
    )
