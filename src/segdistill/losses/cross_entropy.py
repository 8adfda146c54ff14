"""Cross-entropy, mean over positions and images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.losses.base import log_probabilities, register_loss


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with every class counted (LightBTSeg Eq. 4, whose printed form excludes the background).

    Args:
        logits: (B, C, ...); C = 1 is the binary form with a sigmoid.
        target: (B, ...) class indices.

    Returns:
        Scalar in nats, mean over positions and images.

    >>> import torch
    >>> round(cross_entropy(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long)).item(), 4)
    0.6931
    """
    return F.nll_loss(log_probabilities(logits), target)


@register_loss("cross_entropy")
class CrossEntropy(nn.Module):
    """Cross-entropy, the mean over pixels: `cross_entropy` as a module.

    >>> import torch
    >>> CrossEntropy()(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.long)).ndim
    0
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return cross_entropy(logits, target)
