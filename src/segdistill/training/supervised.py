"""The supervised task: one network against the reference masks."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.training.task import Batch, Trainee, segmentation_parts, validate_segmentation


class Supervised:
    """One player, one loss.

    Args:
        network: returns an `Output` with logits.
        loss: logits (B, C, H, W) and class indices (B, H, W) to a scalar.

    >>> import torch
    >>> from segdistill.losses import create_loss
    >>> from segdistill.models import create_model
    >>> task = Supervised(create_model("simplified_unet", widths=[2, 4, 4, 4, 4]), create_loss("dice"))
    >>> batch = {"image": torch.zeros(2, 3, 16, 16), "mask": torch.zeros(2, 16, 16, dtype=torch.long)}
    >>> list(task.losses(batch, "network"))
    ['loss']
    """

    def __init__(self, network: nn.Module, loss: nn.Module) -> None:
        self.players: dict[str, nn.Module] = {"network": Trainee(network)}
        self.loss = loss

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Loss of the network on a batch."""
        return segmentation_parts(self.loss, self.players[player](batch["image"]).logits, batch["mask"])

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss and Dice."""
        return validate_segmentation(self.players["network"], self.loss, batch)
