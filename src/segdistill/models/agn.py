"""AG-Sononet: a VGG-like classifier whose attention maps show which pixels decide."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import ConvNormAct, enlarge_like
from segdistill.models.lesion_map import EPSILON, two_sided
from segdistill.models.network import (
    FeatureInfo,
    Network,
    Output,
    pyramid,
    pyramid_info,
    require_positive,
    require_widths,
)
from segdistill.models.registry import register_network

CONVOLUTIONS = (3, 3, 3, 2, 2)
"""Convolutions per stage, finest first."""


class GridAttention(nn.Module):
    """Additive attention whose weights over all positions sum to one ("mean flow").

    Unlike `blocks.AttentionGate` it normalises over the image and not by a sigmoid, and gives a vector.

    >>> vector, weight = GridAttention(4, 8)(torch.rand(2, 4, 8, 8), torch.rand(2, 8, 2, 2))
    >>> vector.shape, weight.shape
    (torch.Size([2, 4]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, inputs: int, gate: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(inputs, gate, 1, bias=False)
        self.phi = nn.Conv2d(gate, gate, 1)
        self.psi = nn.Conv2d(gate, 1, 1)

    def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (B, inputs, H, W), `gate` (B, gate, h, w) -> weighted sum (B, inputs), weights (B, 1, H, W)."""
        mixed = self.theta(x) + enlarge_like(self.phi(gate), x)
        score = self.psi(torch.relu(mixed)).float()
        score = score - score.amin(dim=(2, 3), keepdim=True)
        weight = score / score.sum(dim=(2, 3), keepdim=True).clamp_min(EPSILON)
        return (x * weight).sum(dim=(2, 3)), weight


@register_network("agn", "AG-Sononet: a classifier with attention maps", kind="joint")
class AGN(Network):
    """Five stages, attention on the third and fourth guided by the fifth, three linear classifiers averaged.

    Schlemper et al. 2019, with the widths of their ultrasound set-up (64 to 512, divided by 8). `label` is
    the class of the image. `logits` localises it as LA-Net's comparison does: both attention maps enlarged,
    each stretched to [0, 1], averaged. Nothing supervises them unless a loss on the logits does.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits: 1 or 2, attention does not distinguish kinds of lesions.
        labels: classes of the whole image.
        aggregation: "mean" of three classifiers' logits, or "concat": one classifier on all vectors.
        widths: channels per stage, finest first.

    Besides the common names, features are the attention maps: "attention3" and "attention4"; "decoder" is the
    first of them.

    >>> output = AGN(1, 2).eval()(torch.zeros(1, 1, 32, 32))
    >>> output.logits.shape, output.label.shape
    (torch.Size([1, 2, 32, 32]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        labels: int = 2,
        aggregation: Literal["mean", "concat"] = "mean",
        widths: tuple[int, ...] = (8, 16, 32, 64, 64),
    ) -> None:
        require_widths(widths, levels=5)
        super().__init__(in_channels, classes, size_divisor=16)
        require_positive(labels=labels)
        if classes > 2:
            raise InputError(
                f"classes is {classes}: attention separates only lesion from background, use 1 or 2"
            )
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        self.feature_info = [
            *pyramid_info(levels, [(1, 4)]),
            FeatureInfo("attention3", 1, 4),
            FeatureInfo("attention4", 1, 8),
        ]
        self.encoder = nn.ModuleList()
        for inputs, width, count in zip((in_channels, *widths), widths, CONVOLUTIONS, strict=False):
            channels = [inputs, *[width] * count]
            self.encoder.append(nn.Sequential(*(ConvNormAct(i, o) for i, o in pairwise(channels))))
        self.pool = nn.MaxPool2d(2)
        self.attention3 = GridAttention(widths[2], widths[4])
        self.attention4 = GridAttention(widths[3], widths[4])
        ends = widths[2:] if aggregation == "mean" else (sum(widths[2:]),)
        self.classifiers = nn.ModuleList(nn.Linear(width, labels) for width in ends)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), label (B, labels) and features."""
        self.check(image)
        maps: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            maps.append(stage(self.pool(maps[-1]) if level else image))
        third, weight3 = self.attention3(maps[2], maps[4])
        fourth, weight4 = self.attention4(maps[3], maps[4])
        vectors = [third, fourth, maps[4].mean(dim=(2, 3))]
        if len(self.classifiers) == 1:
            vectors = [torch.cat(vectors, dim=1)]
        scores = [classifier(vector) for classifier, vector in zip(self.classifiers, vectors, strict=True)]
        both = _stretched(enlarge_like(weight3, image)) + _stretched(enlarge_like(weight4, image))
        features = pyramid(maps, [weight3]) | {"attention3": weight3, "attention4": weight4}
        return Output(
            two_sided(torch.logit(both / 2, eps=EPSILON), self.classes),
            features,
            label=torch.stack(scores).mean(dim=0),
        )


def _stretched(weight: Tensor) -> Tensor:
    low, high = weight.amin(dim=(2, 3), keepdim=True), weight.amax(dim=(2, 3), keepdim=True)
    return (weight - low) / (high - low).clamp_min(EPSILON)
