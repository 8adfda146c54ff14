"""Segmentation losses: logits (B, C, ...) and class indices (B, ...) to a scalar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from segdistill.losses.cross_entropy import CrossEntropy, cross_entropy
from segdistill.losses.dice import DiceLoss, dice_loss
from segdistill.losses.focal import FocalLoss, emkd_seg_loss, focal_loss
from segdistill.losses.iou import IoULoss, iou_loss
from segdistill.losses.lovasz import LovaszSoftmax, lovasz_softmax
from segdistill.losses.probability import log_probabilities, one_hot, probabilities
from segdistill.losses.protokd_seg import BalancedCrossEntropy, balanced_cross_entropy, protokd_seg_loss
from segdistill.losses.weighted_sum import (
    WeightedSum,
    amtd_seg_loss,
    cross_entropy_dice_loss,
    weight_balance_loss,
)
from segdistill.registry import build

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": CrossEntropy,
    "dice": DiceLoss,
    "iou": IoULoss,
    "weight_balance": weight_balance_loss,
    "cross_entropy_dice": cross_entropy_dice_loss,
    "lovasz_softmax": LovaszSoftmax,
    "amtd_seg": amtd_seg_loss,
    "focal": FocalLoss,
    "emkd_seg": emkd_seg_loss,
    "balanced_cross_entropy": BalancedCrossEntropy,
    "protokd_seg": protokd_seg_loss,
}


def create_loss(name: str, **options: Any) -> nn.Module:
    """Builds the loss that is registered as `name`.

    Raises:
        InputError: unknown name or option; the message lists the near names or the valid options.

    >>> type(create_loss("dice", squared=False)).__name__
    'DiceLoss'
    """
    return build("loss", LOSSES, name, options)


__all__ = [
    "LOSSES",
    "BalancedCrossEntropy",
    "CrossEntropy",
    "DiceLoss",
    "FocalLoss",
    "IoULoss",
    "LovaszSoftmax",
    "WeightedSum",
    "amtd_seg_loss",
    "balanced_cross_entropy",
    "create_loss",
    "cross_entropy",
    "cross_entropy_dice_loss",
    "dice_loss",
    "emkd_seg_loss",
    "focal_loss",
    "iou_loss",
    "log_probabilities",
    "lovasz_softmax",
    "one_hot",
    "probabilities",
    "protokd_seg_loss",
    "weight_balance_loss",
]
