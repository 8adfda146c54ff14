"""Tasks: the networks that are trained (players), and the losses of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.distillation.layers import pick
from segdistill.errors import InputError
from segdistill.losses import log_probabilities, probabilities
from segdistill.losses.weighted_sum import WeightedSum
from segdistill.models.network import Output

Batch = dict[str, Tensor]


class Task(Protocol):
    """Players, each with an optimiser; the first is validated, selected and saved.

    The loop replaces the entries of `players` by their distributed wrappers, so `losses` must call the networks
    through this dictionary. The attribute `score` names the validation numbers whose mean selects an epoch
    (`val_dice` without it). Players take their turns on a batch in the order of `players`, or of the attribute
    `turns`, which lists all their names. A method `columns()` adds numbers to the row of every epoch.
    `begin_step(epoch, step, is_last, is_end)` is told which step comes next, and whether it is the last of its epoch
    and of the training; `measured()` gives what it measured, for gradients.csv, and for the row of its epoch.
    """

    players: dict[str, nn.Module]

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        """`loss` and its named parts for this player's turn; None if the batch has nothing for it."""

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """(B,) values per case of the first player: `loss`, and `dice` for cases with a reference."""


def epoch_score(task: Task, row: Mapping[str, float]) -> float | None:
    """The mean of the validation numbers by which the task selects an epoch; None if none of them was measured.

    >>> epoch_score(None, {"val_dice": 0.5}), epoch_score(None, {"loss": 1.0})
    (0.5, None)
    """
    found = [row[name] for name in getattr(task, "score", ("val_dice",)) if name in row]
    return sum(found) / len(found) if found else None


class Trainee(nn.Module):
    """A player: a network that returns only the features that its task reads, since each costs a copy to float32.

    Args:
        network: trained, validated, selected and saved.
        features: layers (distillation/layers.py); the output has them under these very names.
        companions: learned parts of the task, such as those of distillation methods: optimised and checkpointed with
            the network, but not saved with its weights, so they never reach a model file.
        lr: a learning rate of its own, in place of the stage's.

    >>> Trainee(nn.Identity()).network
    Identity()
    """

    def __init__(
        self,
        network: nn.Module,
        features: tuple[str, ...] = (),
        companions: Sequence[nn.Module] = (),
        lr: float | None = None,
    ) -> None:
        super().__init__()
        self.network, self.features, self.lr = network, features, lr
        self.companions = nn.ModuleList(companions)

    def forward(self, image: Tensor) -> Output:
        """Output of the network for (B, C, H, W), with those features only."""
        output: Output = self.network(image)
        return output._replace(features=pick(output.features, self.features, image))


def segmentation_parts(loss: nn.Module, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """`loss` and, for a weighted sum, its parts.

    >>> from segdistill.losses import create_loss
    >>> parts = segmentation_parts(create_loss("weight_balance"), torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2).long())
    >>> list(parts)
    ['loss', 'cross_entropy', 'dice', 'iou']
    """
    if isinstance(loss, WeightedSum):
        parts = loss.parts(logits, target)
        return {"loss": loss.total(parts), **parts}
    return {"loss": loss(logits, target)}


@torch.no_grad()
def validate_segmentation(network: nn.Module, loss: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Loss and Dice per case at the size of the store, threshold 0.5; with several classes the most probable one, and
    the mean over the classes that the reference or the prediction holds; 1 where neither holds any.
    """
    output: Any = network(batch["image"])
    target = batch["mask"]
    known = log_probabilities(output.logits)
    classes = torch.arange(1, known.shape[1], device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    predicted, reference = (labels[:, None] == classes for labels in (known.argmax(1), target))
    overlap = (predicted & reference).flatten(2).sum(2).float()
    total = predicted.flatten(2).sum(2) + reference.flatten(2).sum(2)
    of_class, is_there = 2 * overlap / total.clamp(min=1), total > 0
    mean = (of_class * is_there).sum(1) / is_there.sum(1).clamp(min=1)
    dice = torch.where(is_there.any(1), mean, torch.ones_like(mean))
    # images have one size, so the mean over a batch is used for each of its cases
    return {"loss": loss(output.logits, target).float().expand(len(target)), "dice": dice}


class Supervised:
    """One player, one loss.

    Args:
        network: returns an `Output` with logits.
        loss: logits (B, C, H, W) and class indices (B, H, W) to a scalar.
        deep: "sum" adds the loss of every side output (`Output.deep`), each in full: U2-Net's loss (Qin et al. 2020).
            None trains the network's output alone. Validation always measures that output.

    >>> from segdistill.losses import create_loss
    >>> from segdistill.models.registry import create_network
    >>> task = Supervised(create_network("simplified_unet", widths=[2, 4, 4, 4, 4]), create_loss("dice"))
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
            InputError: `deep` is set, but the network has no side outputs.
        """
        output: Any = self.players[player](batch["image"])
        parts = segmentation_parts(self.loss, output.logits, batch["mask"])
        if self.deep is None:
            return parts
        if not output.deep:
            raise InputError("deep_supervision needs a network with side outputs, such as u2net: remove it")
        size = batch["mask"].shape[1:]
        sides = [self.loss(enlarged(logits, size), batch["mask"]) for logits in output.deep]
        deep = torch.stack(sides).sum()
        return parts | {"loss": parts["loss"] + deep, "deep": deep}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss and Dice."""
        return validate_segmentation(self.players["network"], self.loss, batch)


def enlarged(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits (B, C, h, w) at the reference's size; the probabilities are interpolated, not the logits.

    >>> enlarged(torch.zeros(1, 1, 2, 2), (4, 4)).exp().unique().tolist()
    [0.5]
    """
    if logits.shape[2:] == size:
        return logits
    raised = F.interpolate(probabilities(logits), size, mode="bilinear", align_corners=False)
    return raised.clamp(min=torch.finfo(raised.dtype).tiny).log()
