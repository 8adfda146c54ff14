"""What a joint network is told: the class of the image, and where the lesion is, as far as that is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.losses.pseudo_labels import (
    class_confidence,
    foreground_logit,
    locate,
    location_loss,
    shrink_mask,
)
from segdistill.models.output import Output
from segdistill.training.joint_settings import JointSettings

UNKNOWN = -1
"""The class index of a case whose class is not known."""


class JointLoss:
    """lambda L_cls + (1 - lambda) L_sloc, L_sloc = L_w + alpha L_wo (Fan et al. 2023, Eq. 8 to 10).

    A network without a map (`logits` None) has the classification loss alone, one without a label the location
    loss alone. The map is `deep[0]` where the network has one, else its logits at full size.

    Args:
        settings: which terms, and how they are made.
        segmentation: the stage's loss, for location "loss".

    >>> said = Output(torch.zeros(1, 2, 4, 4), {}, label=torch.zeros(1, 2))
    >>> known = torch.tensor([True])
    >>> parts = JointLoss(JointSettings())(said, torch.ones(1, 4, 4).long(), torch.tensor([0]), known)
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
            logit, known, located, confident, rule=settings.pseudo, tau=settings.tau, alpha=settings.alpha
        )
        borrowed = (location.weight > 0) & ~located
        return {"location": location_loss(logit, location), "pseudo": borrowed.float().mean()}
