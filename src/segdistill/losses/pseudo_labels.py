"""LA-Net's location loss: for an image without a location, the network's own map can be the target (a pseudo label)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["paper", "release", "none"]
Confidence = Literal["max", "given"]
Reduce = Literal["bilinear", "nearest", "area"]


class Location(NamedTuple):
    """The target of a map, (B, h, w) in [0, 1], and the weight (B,) of each image."""

    target: Tensor
    weight: Tensor


def foreground_logit(logits: Tensor) -> Tensor:
    """Logit (B, h, w) of "no background" for 1, 2 or more classes (B, C, h, w), in float32.

    >>> foreground_logit(torch.tensor([[[[1.0]], [[3.0]]]])).tolist()
    [[[2.0]]]
    """
    wide = logits.float()
    if wide.shape[1] == 1:
        return wide[:, 0]
    return torch.logsumexp(wide[:, 1:], dim=1) - wide[:, 0]


def shrink_mask(mask: Tensor, size: tuple[int, int], how: Reduce = "bilinear") -> Tensor:
    """A mask (B, H, W) as a target (B, h, w) in [0, 1]; "bilinear" has aligned corners and stays soft, as in LA-Net.

    >>> shrink_mask(torch.tensor([[[1, 1], [0, 0]]]), (1, 2), "area").tolist()
    [[[0.5, 0.5]]]
    """
    wide = (mask > 0).float()[:, None]
    if wide.shape[2:] == size:
        return wide[:, 0]
    corners = True if how == "bilinear" else None
    return F.interpolate(wide, size=size, mode=how, align_corners=corners)[:, 0]


def class_confidence(label_logits: Tensor, labels: Tensor, confidence: Confidence = "max") -> Tensor:
    """(B,) probability of the predicted class ("max"), or of the known class ("given").

    >>> class_confidence(torch.zeros(1, 4), torch.tensor([2]), "given").tolist()
    [0.25]
    """
    probability = label_logits.detach().float().softmax(dim=1)
    if confidence == "max":
        return probability.amax(dim=1)
    return probability.gather(1, labels.clamp(min=0)[:, None])[:, 0] * (labels >= 0)


def locate(
    logit: Tensor,
    known: Tensor,
    located: Tensor,
    confidence: Tensor,
    *,
    rule: Rule = "paper",
    tau: float = 0.8,
    alpha: float = 0.1,
) -> Location:
    """Targets and weights of a batch (Fan et al. 2023, section 3.2; no gradient flows into either).

    Args:
        logit: (B, h, w) of the predicted map.
        known: (B, h, w) reduced reference; its rows count only where `located`.
        located: bool (B,), whether an image has a mask or a box.
        confidence: (B,) of the image's class, see `class_confidence`.
        rule: for images without a location. "paper": if the confidence is above `tau`, the map at 0.5 is the target;
            "release": the map at `tau` is the target of all of them; "none": they have weight 0.
        tau: of the class or, by the release's rule, of each pixel.
        alpha: weight of an image whose target is its own map.

    >>> none = torch.tensor([False])
    >>> location = locate(torch.tensor([[[2.0]]]), torch.zeros(1, 1, 1), none, torch.tensor([0.9]))
    >>> location.target.item(), round(location.weight.item(), 2)
    (1.0, 0.1)
    """
    probability = logit.detach().sigmoid()
    if rule == "release":
        own, counts = probability >= tau, torch.ones_like(located)
    else:
        own, counts = probability > 0.5, confidence > tau
    if rule == "none":
        counts = torch.zeros_like(located)
    target = torch.where(located[:, None, None], known, own.to(known.dtype))
    weight = torch.where(located, 1.0, alpha * counts.to(known.dtype))
    return Location(target, weight)


def location_loss(logit: Tensor, location: Location) -> Tensor:
    """Binary cross-entropy with both terms, times each image's weight, mean over all pixels of the batch.

    The weights are not normalised: a batch without any location has a small loss (the release's reduction).

    >>> half = Location(torch.ones(2, 1, 1), torch.tensor([1.0, 0.0]))
    >>> round(location_loss(torch.zeros(2, 1, 1), half).item(), 4)
    0.3466
    """
    each = F.binary_cross_entropy_with_logits(logit, location.target, reduction="none")
    return (each.flatten(1).mean(dim=1) * location.weight).mean()
