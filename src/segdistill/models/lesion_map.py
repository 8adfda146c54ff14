"""One lesion map as the logits of one, two or more classes."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.models.blocks import enlarge_like

EPSILON = 1e-6
"""How close a probability may come to 0 and 1 before its logit is taken."""


def maps_for(classes: int) -> int:
    """Maps to predict for that many classes: two classes need one, whose negative is the background's.

    >>> [maps_for(classes) for classes in (1, 2, 4)]
    [1, 1, 4]
    """
    return 1 if classes <= 2 else classes


def two_sided(maps: Tensor, classes: int) -> Tensor:
    """`maps_for(classes)` maps -> logits (B, classes, H, W); softmax over two gives the map's own sigmoid.

    >>> two_sided(torch.tensor([[[[0.3]]]]), 2).softmax(1)[0, 1].item() == torch.tensor(0.3).sigmoid().item()
    True
    """
    return torch.cat([torch.zeros_like(maps), maps], dim=1) if classes == 2 else maps


def lesion_probability(maps: Tensor) -> Tensor:
    """Predicted maps (B, 1 or more than 2, H, W) -> the probability (B, 1, H, W) of foreground.

    >>> lesion_probability(torch.zeros(1, 4, 2, 2))[0, 0, 0, 0].item()
    0.75
    """
    if maps.shape[1] == 1:
        return maps.sigmoid()
    return 1 - maps.softmax(dim=1)[:, :1]


def enlarge_probability(maps: Tensor, like: Tensor, classes: int) -> Tensor:
    """Logits at the size of `like` whose probability is the maps' probability, bilinearly enlarged.

    Not the enlarged logit: half-way between 0.9 and 0.2 is 0.55, whatever their logits are.
    """
    wide = maps.float()
    if classes <= 2:
        probability = enlarge_like(wide.sigmoid(), like, corners=True)
        return two_sided(torch.logit(probability, eps=EPSILON), classes)
    return enlarge_like(wide.softmax(dim=1), like, corners=True).clamp_min(EPSILON).log()
