"""The joint task: one network that says what an image shows and, if it can, where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.data.case import Case
from segdistill.distillation import STUDENT
from segdistill.errors import InputError
from segdistill.losses.pseudo_labels import (
    class_confidence,
    foreground_logit,
    locate,
    location_loss,
    shrink_mask,
)
from segdistill.models.network import Output
from segdistill.training.distillation import Distillation
from segdistill.training.settings import JointSettings
from segdistill.training.task import Batch, Trainee

UNKNOWN = -1
"""The class index of a case whose class is not known."""


class JointLoss:
    """lambda L_cls + (1 - lambda) L_sloc, L_sloc = L_w + alpha L_wo (Fan et al. 2023, Eq. 8 to 10).

    A network without a map (`logits` None) has the classification loss alone, one without a label the location
    loss alone. The map is `deep[0]` where the network has one, else its logits at full size.

    Args:
        settings: which terms, and how they are made.
        segmentation: the stage's loss, for location "loss".

    >>> targets = Output(torch.zeros(1, 2, 4, 4), {}, label=torch.zeros(1, 2))
    >>> known = torch.tensor([True])
    >>> parts = JointLoss(JointSettings())(targets, torch.ones(1, 4, 4).long(), torch.tensor([0]), known)
    >>> {name: round(value.item(), 4) for name, value in parts.items()}
    {'loss': 0.6931, 'classification': 0.6931, 'location': 0.6931, 'pseudo': 0.0}
    """

    def __init__(self, settings: JointSettings, segmentation: nn.Module | None = None) -> None:
        self.settings, self.segmentation = settings, segmentation

    def __call__(self, output: Output, mask: Tensor, labels: Tensor, located: Tensor) -> dict[str, Tensor]:
        """`loss` and its parts before their shares; `pseudo` is the share of images with a pseudo label.

        Args:
            output: of a batch of B images.
            mask: (B, H, W), read only where `located`.
            labels: (B,) class indices; UNKNOWN where not known.
            located: bool (B,).
        """
        settings = self.settings
        share = settings.balance
        parts: dict[str, Tensor] = {}
        total = mask.new_zeros((), dtype=torch.float32)
        if output.label is not None:
            spoken = output.label.float()
            if settings.uses_class:
                parts["classification"] = self._classification(spoken, labels)
                alone = output.logits is None or settings.location == "none"
                total = total + (1.0 if alone else share) * parts["classification"]
            else:
                total = total + 0.0 * spoken.sum()  # its parameters take part, as distributed training wants
        if output.logits is not None and settings.uses_location:
            parts |= self._location(output, mask, labels, located)
            total = total + (1 - share if output.label is not None else 1.0) * parts["location"]
        elif output.logits is not None:
            total = total + 0.0 * output.logits.float().sum()
        return {"loss": total, **parts}

    def _classification(self, spoken: Tensor, labels: Tensor) -> Tensor:
        known = labels != UNKNOWN
        if not known.any():
            return 0.0 * spoken.sum()
        weights = self.settings.class_weights
        scale = None if weights is None else torch.tensor(weights, device=spoken.device)
        return F.cross_entropy(spoken, labels, weight=scale, ignore_index=UNKNOWN)

    def _location(self, output: Output, mask: Tensor, labels: Tensor, located: Tensor) -> dict[str, Tensor]:
        assert output.logits is not None
        if self.settings.location == "loss":
            if self.segmentation is None:
                raise InputError("location: loss needs the stage's loss")
            if not located.any():
                return {"location": 0.0 * output.logits.float().sum()}
            return {"location": self.segmentation(output.logits[located], mask[located])}
        settings = self.settings
        logit = foreground_logit(output.deep[0] if output.deep else output.logits)
        known = shrink_mask(mask, (logit.shape[1], logit.shape[2]), settings.target)
        if output.label is None:
            confident = torch.zeros_like(located, dtype=torch.float32)
        else:
            confident = class_confidence(output.label, labels, settings.confidence)
        location = locate(
            logit,
            known,
            located,
            confident,
            rule=settings.pseudo_labels,
            tau=settings.tau,
            alpha=settings.alpha,
        )
        borrowed = (location.weight > 0) & ~located
        return {"location": location_loss(logit, location), "pseudo": borrowed.float().mean()}


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

    >>> from segdistill.models.registry import create_network
    >>> from segdistill.training.settings import JointSettings
    >>> known = Known(torch.tensor([0, 1]), torch.tensor([True, False]))
    >>> task = Joint(create_network("lanet_resnet18", base=4), JointLoss(JointSettings()), known, known)
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


class JointDistillation(Distillation):
    """As `Distillation`, with a joint loss against the references in place of the segmentation loss.

    Args:
        joint: what the student is told by the references.
        train, validation: what is known of the cases, in the order of their views.
        rest, named: what `Distillation` takes.

    >>> JointDistillation(None, None, None, None, None, [], None, {})
    Traceback (most recent call last):
    segdistill.errors.InputError: distillation needs at least one teacher
    """

    def __init__(self, joint: JointLoss, train: Known, validation: Known, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        if self.finetune is not None:
            raise InputError("a joint student's teachers cannot be fine-tuned: leave out finetune_teachers")
        self.joint, self.train, self.validation = joint, train, validation
        self.score = joint.settings.score

    def hard(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The joint loss and its parts."""
        return self.joint(output, batch["mask"], *self.train.of(batch))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss, Dice and accuracy of the student, as far as they are known."""
        return validate_joint(self.players[STUDENT], self.joint, batch, self.validation)
