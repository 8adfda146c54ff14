"""The joint task: one network that says what an image shows and, if it can, where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.losses.pseudo_labels import foreground_logit
from segdistill.models.output import Output
from segdistill.training.joint_loss import UNKNOWN, JointLoss
from segdistill.training.task import Batch, Trainee


@dataclass(frozen=True)
class Known:
    """What is known of N cases: class index (N,), UNKNOWN where there is none, and bool (N,) whether there is a mask
    or a box.
    """

    labels: Tensor
    located: Tensor

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(labels, located) of a batch, on its device."""
        index, device = batch["index"].cpu(), batch["image"].device
        return self.labels[index].to(device), self.located[index].to(device)


def know(cases: Sequence[Case], classes: Sequence[str], needed: bool = True) -> Known:
    """Class indices and locations of cases, in their order.

    Raises:
        InputError: a label that is none of `classes`, or none where it is needed; names the case.

    >>> from pathlib import Path
    >>> know([Case("a", Path("a.png"), label="benign")], ["malignant", "benign"])
    Known(labels=tensor([1]), located=tensor([False]))
    """
    index = {name: k for k, name in enumerate(classes)}
    for case in cases:
        if needed and case.label not in index:
            raise InputError(
                f"case '{case.id}' has the label '{case.label}', which is none of {', '.join(classes)}: choose "
                "data.labels, or name all in the stage's joint.classes"
            )
    return Known(
        torch.tensor([index.get(case.label, UNKNOWN) for case in cases], dtype=torch.long),
        torch.tensor([case.has_reference for case in cases], dtype=torch.bool),
    )


class Joint:
    """One player: LA-Net and its stages, RMTL, AGN, and classifiers of whole images.

    Args:
        network: returns an `Output` with a label, logits, or both.
        loss: what it is told.
        train: what is known of the training cases, in the order of their views.
        validation: the same of the validation cases.

    Attributes:
        score: the validation numbers that select the epoch.

    >>> from segdistill.models import create_model
    >>> from segdistill.training.joint_settings import JointSettings
    >>> known = Known(torch.tensor([0, 1]), torch.tensor([True, False]))
    >>> task = Joint(create_model("lanet_resnet18", base=4), JointLoss(JointSettings()), known, known)
    >>> batch = {"image": torch.zeros(2, 3, 64, 64), "mask": torch.zeros(2, 64, 64).long(), "index": torch.arange(2)}
    >>> list(task.losses(batch, "network"))
    ['loss', 'classification', 'location', 'pseudo']
    """

    def __init__(self, network: nn.Module, loss: JointLoss, train: Known, validation: Known) -> None:
        self.players: dict[str, nn.Module] = {"network": Trainee(network)}
        self.loss, self.train, self.validation = loss, train, validation
        self.score = loss.settings.score

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """Loss and its parts on a batch."""
        output = self.players["network"](batch["image"])
        return self.loss(output, batch["mask"], *self.train.of(batch))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss; Dice of the cases with a location, accuracy of those with a class."""
        return validate_joint(self.players["network"], self.loss, batch, self.validation)


@torch.no_grad()
def validate_joint(network: nn.Module, loss: JointLoss, batch: Batch, known: Known) -> dict[str, Tensor]:
    """Loss, Dice and accuracy per case; what is not known of a case, or not learned, is left out."""
    output: Output = network(batch["image"])
    labels, located = known.of(batch)
    parts = loss(output, batch["mask"], labels, located)
    values = {"loss": parts["loss"].float().expand(len(labels))}
    if output.logits is not None and located.any():
        values["dice"] = _dice(output.logits, batch["mask"])[located]
    classed = labels != UNKNOWN
    if output.label is not None and loss.settings.uses_class and classed.any():
        values["accuracy"] = (output.label.argmax(dim=1) == labels)[classed].float()
    return values


def _dice(logits: Tensor, mask: Tensor) -> Tensor:
    predicted, reference = foreground_logit(logits) > 0, mask > 0
    overlap = (predicted & reference).flatten(1).sum(1).float()
    total = predicted.flatten(1).sum(1) + reference.flatten(1).sum(1)
    return torch.where(total > 0, 2 * overlap / total.clamp(min=1), torch.ones_like(overlap))
