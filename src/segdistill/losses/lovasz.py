"""Lovasz-softmax: the loss whose value at hard predictions is one minus the intersection over union."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.losses.base import one_hot, probabilities, register_loss
from segdistill.options import fit_option

Classes = Literal["present", "all"]


def lovasz_softmax(
    logits: Tensor, target: Tensor, classes: Classes = "present", per_image: bool = False
) -> Tensor:
    """Lovasz extension of the Jaccard loss, on probabilities (Berman et al. 2018, Eq. 8 to 12; AMTD Eq. 5).

    Per class: errors e = |G - P| in descending order, each times its step: the increase of 1 - IoU when the positions
    are counted as wrong from the largest error on. The original code computes steps as differences of neighbouring IoU
    values, which in float32 are lost to rounding beyond a few hundred thousand positions. Here they are computed from
    counts in int64: 1 / (g + n) for a position of the class and (g - c) / ((g + n)(g + n - 1)) for another one, with g
    positions of the class in all, c of them and n others counted so far.

    Args:
        logits: (B, C, ...); C = 1 counts as background and foreground.
        target: (B, ...) class indices.
        classes: "present" averages over classes that occur in the reference (as AMTD and the original code do, the
            background is one of them); "all" counts absent ones too, whose loss is the largest wrong probability.
        per_image: False takes the batch as one image (AMTD, as coded), so that an image without foreground does not
            count as entirely wrong; True averages over images, each with its own classes.

    Returns:
        Scalar in [0, 1], in float32.

    >>> target = torch.ones(1, 4, 4, dtype=torch.long)
    >>> round(lovasz_softmax(torch.zeros(1, 2, 4, 4), target).item(), 4)  # only class 1 is present, P = 0.5 of it
    0.5
    """
    fit_option("lovasz_softmax: classes", classes, Classes)
    predicted = probabilities(logits).flatten(2)
    reference = one_hot(target, predicted.shape[1]).flatten(2)
    if not per_image:
        predicted = predicted.transpose(0, 1).flatten(1)[None]
        reference = reference.transpose(0, 1).flatten(1)[None]
    errors, order = (reference - predicted).abs().sort(dim=2, descending=True, stable=True)
    losses = (errors * _jaccard_steps(reference.gather(2, order))).sum(2)
    counted = torch.ones_like(losses) if classes == "all" else (reference.sum(2) > 0).float()
    return ((losses * counted).sum(1) / counted.sum(1)).mean()


def _jaccard_steps(reference: Tensor) -> Tensor:
    """The steps of the Jaccard loss at each position of (..., N) maps of 0 and 1."""
    belongs = reference.long()
    hits = belongs.cumsum(-1)
    others = (1 - belongs).cumsum(-1)
    size = hits[..., -1:]
    union = (size + others).float()
    step_hit = 1 / union.clamp(min=1)
    step_other = (size - hits).float() / union.clamp(min=1) / (union - 1).clamp(min=1)
    steps = torch.where(belongs.bool(), step_hit, step_other)
    # an absent class: the first wrong position raises the loss from 0 to 1
    first = torch.zeros_like(steps)
    first[..., 0] = 1
    return torch.where(size == 0, first, steps)


@register_loss("lovasz_softmax")
class LovaszSoftmax(nn.Module):
    """Lovasz-softmax (Berman et al. 2018), a surrogate of IoU: `lovasz_softmax` as a module.

    >>> LovaszSoftmax(per_image=True)(torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)).item()
    0.5
    """

    def __init__(self, classes: Classes = "present", per_image: bool = False) -> None:
        super().__init__()
        fit_option("lovasz_softmax: classes", classes, Classes)
        self.classes: Classes = classes
        self.per_image = per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return lovasz_softmax(logits, target, self.classes, self.per_image)
