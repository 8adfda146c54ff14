"""ProtoKD's segmentation loss: cross-entropy with more weight on rare classes, and Dice of the batch as one image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.losses.base import log_probabilities, one_hot, register_loss
from segdistill.losses.dice import dice_loss
from segdistill.losses.weighted_sum import WeightedSum


def balanced_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with class weight w = 1 - the class's share of the batch's positions (ProtoKD, Wang et al. 2023).

    Mean weighted by w[y] of each position, as in the official code. If all positions are of one class, whose w is 0,
    it is the plain mean: the limit, and not 0 / 0.

    Args:
        logits: (B, C, ...); C = 1 is the binary form with a sigmoid.
        target: (B, ...) class indices.

    Returns:
        Scalar in nats.

    >>> logits = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])[None]
    >>> target = torch.tensor([[0, 0, 0, 1]])  # shares 3/4 and 1/4: the one position counts as much as the three
    >>> round(balanced_cross_entropy(logits, target).item(), 4)
    0.5988
    """
    known = log_probabilities(logits)
    shares = one_hot(target, known.shape[1]).flatten(2).mean((0, 2))
    weights = (1 - shares)[target]
    weights = torch.where(shares.max() < 1, weights, 1)
    return (weights * F.nll_loss(known, target, reduction="none")).sum() / weights.sum()


@register_loss("balanced_cross_entropy")
class BalancedCrossEntropy(nn.Module):
    """Cross-entropy weighted by how rare a class is in the batch: `balanced_cross_entropy` as a module.

    >>> BalancedCrossEntropy()(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.long)).ndim
    0
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return balanced_cross_entropy(logits, target)


class BatchDice(nn.Module):
    """`dice_loss` with squares and the background, the batch taken as one image.

    >>> logits, target = torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    >>> round(BatchDice()(logits, target).item(), 4)  # 1 - (4/5 + 0) / 2
    0.6
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return dice_loss(logits.movedim(1, 0).flatten(1)[None], target.flatten()[None], background=True)


@register_loss("protokd_seg")
def protokd_seg_loss(cross_entropy: float = 1.0, dice: float = 1.0) -> WeightedSum:
    """ProtoKD's own segmentation loss: balanced cross-entropy plus Dice of all classes (Wang et al. 2023).

    Both terms take the batch as one image, as in the official code: a class that an image lacks adds no loss if another
    image has it.

    >>> sorted(protokd_seg_loss().weights.items())
    [('cross_entropy', 1.0), ('dice', 1.0)]
    """
    return WeightedSum(
        {"cross_entropy": (cross_entropy, BalancedCrossEntropy()), "dice": (dice, BatchDice())}
    )
