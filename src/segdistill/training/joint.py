"""The joint task: one network that classifies an image and, if it has a map, locates the finding."""

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
"""Class index of a case whose class is not known."""


class JointLoss:
    """lambda L_cls + (1 - lambda) L_sloc, L_sloc = L_w + alpha L_wo (Fan et al. 2023, Eq. 7).

    A network without a map (`logits` None) has the classification loss alone, one without a label the location
    loss alone. The map is `deep[0]` where the network has one, else its logits at full size.

    Args:
        settings: the terms and their options.
        segmentation: the stage's loss, for location "loss".

    >>> output = Output(torch.zeros(1, 2, 4, 4), {}, label=torch.zeros(1, 2))
    >>> known = torch.tensor([True])
    >>> parts = JointLoss(JointSettings())(output, torch.ones(1, 4, 4).long(), torch.tensor([0]), known)
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
            located: (B,) booleans: whether the image has a mask or a box.
        """
        settings = self.settings
        share = settings.balance
        parts: dict[str, Tensor] = {}
        total = mask.new_zeros((), dtype=torch.float32)
        if output.label is not None:
            logits = output.label.float()
            if settings.uses_class:
                parts["classification"] = self._classification(logits, labels)
                only_term = output.logits is None or settings.location == "none"
                total = total + (1.0 if only_term else share) * parts["classification"]
            else:
                total = total + 0.0 * logits.sum()  # distributed training needs a gradient of every parameter
        if output.logits is not None and settings.uses_location:
            parts |= self._location(output, mask, labels, located)
            total = total + (1 - share if output.label is not None else 1.0) * parts["location"]
        elif output.logits is not None:
            total = total + 0.0 * output.logits.float().sum()
        return {"loss": total, **parts}

    def _classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = labels != UNKNOWN
        if not known.any():
            return 0.0 * logits.sum()
        weights = self.settings.class_weights
        scale = None if weights is None else torch.tensor(weights, device=logits.device)
        return F.cross_entropy(logits, labels, weight=scale, ignore_index=UNKNOWN)

    def _location(self, output: Output, mask: Tensor, labels: Tensor, located: Tensor) -> dict[str, Tensor]:
        assert output.logits is not None
        if self.settings.location == "loss":
            if self.segmentation is None:
                raise InputError("joint.location: loss needs the stage's loss: set loss")
            if not located.any():
                return {"location": 0.0 * output.logits.float().sum()}
            return {"location": self.segmentation(output.logits[located], mask[located])}
        settings = self.settings
        logit = foreground_logit(output.deep[0] if output.deep else output.logits)
        known = shrink_mask(mask, (logit.shape[1], logit.shape[2]), settings.target)
        if output.label is None:
            confidence = torch.zeros_like(located, dtype=torch.float32)
        else:
            confidence = class_confidence(output.label, labels, settings.confidence)
        location = locate(
            logit,
            known,
            located,
            confidence,
            rule=settings.pseudo_labels,
            tau=settings.tau,
            alpha=settings.alpha,
        )
        pseudo = (location.weight > 0) & ~located
        return {"location": location_loss(logit, location), "pseudo": pseudo.float().mean()}


@dataclass(frozen=True)
class CaseLabels:
    """Class indices (N,) of cases, UNKNOWN where not known, and booleans (N,): whether there is a mask or a box."""

    labels: Tensor
    located: Tensor

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(labels, located) of a batch, on its device."""
        index, device = batch["index"].cpu(), batch["image"].device
        return self.labels[index].to(device), self.located[index].to(device)


def case_labels(cases: Sequence[Case], classes: Sequence[str], needed: bool = True) -> CaseLabels:
    """The labels of cases, in their order.

    Raises:
        InputError: a label is `needed`, but missing or none of `classes`; names the case.

    >>> from pathlib import Path
    >>> case_labels([Case("a", Path("a.png"), label="benign")], ["malignant", "benign"])
    CaseLabels(labels=tensor([1]), located=tensor([False]))
    """
    index = {name: k for k, name in enumerate(classes)}
    for case in cases:
        if needed and case.label not in index:
            raise InputError(
                f"the label of case '{case.id}' is '{case.label}', not one of {', '.join(classes)}: select labels with "
                "data.labels, or list all in the stage's joint.classes"
            )
    return CaseLabels(
        torch.tensor([index.get(case.label, UNKNOWN) for case in cases], dtype=torch.long),
        torch.tensor([case.has_reference for case in cases], dtype=torch.bool),
    )


class Joint:
    """One player: LA-Net and its stages, RMTL, AGN, and classifiers of whole images.

    Args:
        network: returns an `Output` with a label, logits, or both.
        loss: against the references.
        train: labels of the training cases, in the order of their views.
        validation: labels of the validation cases.

    Attributes:
        score: names of the validation numbers that select the epoch.

    >>> from segdistill.models.registry import create_network
    >>> from segdistill.training.settings import JointSettings
    >>> labels = CaseLabels(torch.tensor([0, 1]), torch.tensor([True, False]))
    >>> task = Joint(create_network("lanet_resnet18", base=4), JointLoss(JointSettings()), labels, labels)
    >>> batch = {"image": torch.zeros(2, 3, 64, 64), "mask": torch.zeros(2, 64, 64).long(), "index": torch.arange(2)}
    >>> list(task.losses(batch, "network"))
    ['loss', 'classification', 'location', 'pseudo']
    """

    def __init__(
        self, network: nn.Module, loss: JointLoss, train: CaseLabels, validation: CaseLabels
    ) -> None:
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
def validate_joint(network: nn.Module, loss: JointLoss, batch: Batch, known: CaseLabels) -> dict[str, Tensor]:
    """Loss, Dice and accuracy per case; without values that are not known of a case, or not learned."""
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
        joint: the loss against the references.
        train, validation: labels of the cases, in the order of their views.
        rest, named: arguments of `Distillation`.

    >>> JointDistillation(None, None, None, None, None, [], None, {})
    Traceback (most recent call last):
    segdistill.errors.InputError: distillation needs at least one teacher
    """

    def __init__(
        self, joint: JointLoss, train: CaseLabels, validation: CaseLabels, *rest: Any, **named: Any
    ) -> None:
        super().__init__(*rest, **named)
        if self.finetune is not None:
            raise InputError("teachers of a joint student cannot be fine-tuned: remove finetune_teachers")
        self.joint, self.train, self.validation = joint, train, validation
        self.score = joint.settings.score

    def hard(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The joint loss and its parts."""
        return self.joint(output, batch["mask"], *self.train.of(batch))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss, Dice and accuracy of the student; see `validate_joint`."""
        return validate_joint(self.players[STUDENT], self.joint, batch, self.validation)
