"""The supervised task: one network against the reference masks."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.losses import probabilities
from segdistill.training.task import Batch, Trainee, segmentation_parts, validate_segmentation


class Supervised:
    """One player, one loss.

    Args:
        network: returns an `Output` with logits.
        loss: logits (B, C, H, W) and class indices (B, H, W) to a scalar.
        deep: "sum" adds the loss of every side output (`Output.deep`), each in full: U2-Net's loss (Qin et al. 2020).
            None trains the network's output alone. Validation is of that in either case.

    >>> import torch
    >>> from segdistill.losses import create_loss
    >>> from segdistill.models import create_model
    >>> task = Supervised(create_model("simplified_unet", widths=[2, 4, 4, 4, 4]), create_loss("dice"))
    >>> batch = {"image": torch.zeros(2, 3, 16, 16), "mask": torch.zeros(2, 16, 16, dtype=torch.long)}
    >>> list(task.losses(batch, "network"))
    ['loss']
    """

    def __init__(self, network: nn.Module, loss: nn.Module, deep: Literal["sum"] | None = None) -> None:
        self.players: dict[str, nn.Module] = {"network": Trainee(network)}
        self.loss, self.deep = loss, deep

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Loss of the network on a batch; with side outputs `deep` is the sum of theirs.

        Raises:
            InputError: side outputs are asked for, and the network has none.
        """
        output: Any = self.players[player](batch["image"])
        parts = segmentation_parts(self.loss, output.logits, batch["mask"])
        if self.deep is None:
            return parts
        if not output.deep:
            raise InputError("deep: sum needs a network with side outputs, such as u2net: leave deep out")
        size = batch["mask"].shape[1:]
        sides = [self.loss(enlarged(logits, size), batch["mask"]) for logits in output.deep]
        deep = torch.stack(sides).sum()
        return parts | {"loss": parts["loss"] + deep, "deep": deep}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss and Dice."""
        return validate_segmentation(self.players["network"], self.loss, batch)


def enlarged(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits (B, C, h, w) at the reference's size; it is the probability that is brought up, not the logit.

    >>> enlarged(torch.zeros(1, 1, 2, 2), (4, 4)).exp().unique().tolist()
    [0.5]
    """
    if logits.shape[2:] == size:
        return logits
    raised = F.interpolate(probabilities(logits), size, mode="bilinear", align_corners=False)
    return raised.clamp(min=torch.finfo(raised.dtype).tiny).log()
