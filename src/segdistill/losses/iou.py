"""Soft intersection-over-union loss, per image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.losses.base import one_hot, probabilities, register_loss


def iou_loss(logits: Tensor, target: Tensor, epsilon: float = 1e-5) -> Tensor:
    """-ln((I + e) / (U + e)) with I = sum(P G) and U = sum(P) + sum(G) - I (soft form of LightBTSeg Eq. 6).

    Args:
        logits: (B, C, ...).
        target: (B, ...) class indices.
        epsilon: in positions; also bounds the loss: at most about -ln(e / (U + e)) without overlap.

    Returns:
        Scalar in nats, mean over foreground classes and images. With several foreground classes those that an image's
        reference does not hold are not counted: the logarithm of an overlap that cannot be would drown all else.

    >>> target = torch.ones(1, 4, 4, dtype=torch.long)
    >>> round(iou_loss(torch.zeros(1, 2, 4, 4), target).item(), 4)  # P = 0.5 everywhere: I / U = 0.5
    0.6931
    """
    predicted = probabilities(logits).flatten(2)[:, 1:]
    reference = one_hot(target, predicted.shape[1] + 1).flatten(2)[:, 1:]
    intersection = (predicted * reference).sum(2)
    union = predicted.sum(2) + reference.sum(2) - intersection
    losses = -torch.log((intersection + epsilon) / (union + epsilon))
    if losses.shape[1] == 1:
        return losses.mean()
    is_there = (reference.sum(2) > 0).to(losses.dtype)
    return (losses * is_there).sum() / is_there.sum().clamp(min=1)


@register_loss("iou")
class IoULoss(nn.Module):
    """IoU (Jaccard) loss per image, then the mean: `iou_loss` as a module.

    >>> IoULoss()(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)).ndim
    0
    """

    def __init__(self, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return iou_loss(logits, target, self.epsilon)
