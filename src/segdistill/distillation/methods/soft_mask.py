"""Soft masks: the student learns the teacher's map as if it were a mask, by cross-entropy and Dice."""

from __future__ import annotations

from torch import Tensor

from segdistill.distillation.base import Targets, register_method
from segdistill.distillation.methods.soft_prediction import SoftPrediction, soft_prediction_loss
from segdistill.errors import InputError


def semimetric_dice_loss(predicted: Tensor, target: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 - mean over classes of (mean(P + G) - mean|P - G| + e) / (mean(P + G) + e), with means over positions.

    Of a mask this is the Dice loss with plain sums. Of a soft map it is smallest where P = G, while 2 sum(P G) in the
    numerator would draw P to 0 and 1 (Wang et al. 2023, Dice semimetric losses, Eq. 6).

    Args:
        predicted: (B, C, ...) probabilities.
        target: (B, C, ...) probabilities.
        epsilon: keeps an empty prediction of an empty target at loss 0; a share of the image, whatever its size.

    Returns:
        (B,) in [0, 1].

    >>> import torch
    >>> soft = torch.full((1, 1, 2, 2), 0.3)
    >>> semimetric_dice_loss(soft, soft).tolist()
    [0.0]
    """
    both = (predicted + target).flatten(2).mean(2)
    apart = (predicted - target).abs().flatten(2).mean(2)
    return 1 - ((both - apart + epsilon) / (both + epsilon)).mean(1)


@register_method("soft_mask")
class SoftMask(SoftPrediction):
    """Soft-mask method: cross-entropy plus Dice of the foreground, both against the teacher's map.

    The cross-entropy is given without the map's own entropy, which no student changes: it is 0 at the map.

    What a student learns of a mask where there is one, it learns of the map where there is none; the same two losses
    keep both in one scale.

    Args:
        cross_entropy: weight of the cross-entropy (mean over positions).
        dice: weight of the Dice loss (Wang et al. 2023).

    Raises:
        InputError: a weight is negative, or both are 0.

    >>> import torch
    >>> from segdistill.models.network import Output
    >>> method = SoftMask()
    >>> targets = method.targets(Output(logits=torch.zeros(2, 2, 4, 4), features={}))
    >>> method(targets, targets).tolist()
    [0.0, 0.0]
    """

    name = "soft_mask"
    loss_options = ("cross_entropy", "dice")

    def __init__(self, cross_entropy: float = 1.0, dice: float = 1.0) -> None:
        super().__init__()
        if min(cross_entropy, dice) < 0 or cross_entropy + dice == 0:
            raise InputError(f"soft_mask: weights {cross_entropy} and {dice}: none below 0, and one above it")
        self.cross_entropy, self.dice = cross_entropy, dice

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss.

        Raises:
            InputError: the networks have different classes.
        """
        own, theirs = self.pair(student, teacher)
        target = theirs.exp()
        divergence = soft_prediction_loss(own, theirs, region=teacher.get("region"))
        return self.cross_entropy * divergence + self.dice * semimetric_dice_loss(
            own.exp()[:, 1:], target[:, 1:]
        )
