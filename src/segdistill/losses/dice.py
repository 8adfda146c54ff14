"""Soft Dice loss, per image."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.losses.base import one_hot, probabilities, register_loss


def dice_loss(
    logits: Tensor, target: Tensor, squared: bool = True, background: bool = False, epsilon: float = 1e-5
) -> Tensor:
    """1 - mean over classes of (2 sum(P G) + e) / (sum(P^2) + sum(G^2) + e), per image, then the mean over images.

    Args:
        logits: (B, C, ...).
        target: (B, ...) class indices.
        squared: squares in the denominator (LightBTSeg Eq. 5); False gives plain sums (US-SEG Eq. 1).
        background: count class 0 too.
        epsilon: keeps an empty prediction of an empty reference at loss 0.

    Returns:
        Scalar in [0, 1].

    >>> import torch
    >>> target = torch.ones(1, 4, 4, dtype=torch.long)
    >>> perfect = torch.stack([torch.full((1, 4, 4), -50.0), torch.full((1, 4, 4), 50.0)], dim=1)
    >>> round(dice_loss(perfect, target).item(), 4)
    0.0
    """
    predicted = probabilities(logits).flatten(2)
    reference = one_hot(target, predicted.shape[1]).flatten(2)
    if not background:
        predicted, reference = predicted[:, 1:], reference[:, 1:]
    overlap = (predicted * reference).sum(2)
    power = 2 if squared else 1
    total = predicted.pow(power).sum(2) + reference.sum(2)  # the reference is 0 or 1: its square is itself
    return 1 - ((2 * overlap + epsilon) / (total + epsilon)).mean()


@register_loss("dice")
class DiceLoss(nn.Module):
    """Dice loss per image, then the mean: `dice_loss` as a module.

    >>> import torch
    >>> DiceLoss(squared=False)(torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)).item() > 0.99
    True
    """

    def __init__(self, squared: bool = True, background: bool = False, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.squared, self.background, self.epsilon = squared, background, epsilon

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return dice_loss(logits, target, self.squared, self.background, self.epsilon)
