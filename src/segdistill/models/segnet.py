"""SegNet: a VGG16 encoder and its mirror image, which unpools where the encoder pooled."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, MaxUnpool
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_widths
from segdistill.models.registry import register_network

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions per VGG16 stage, finest first."""


@register_network("segnet", "VGG16 encoder, mirrored decoder that unpools by index")
class SegNet(Network):
    """Thirteen convolutions down, thirteen up, max-unpooling by the encoder's indices; from 32 x 32 on.

    29,442,435 parameters and 39.94 GMAC at 1 x 256 x 256 with one class (Badrinarayanan et al. 2017; the last
    convolution is batch-normalised too, as there).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels of the five stages, finest first.

    >>> SegNet(1, 2, widths=(4, 4, 8, 8, 8)).eval()(torch.zeros(1, 1, 37, 32)).logits.shape
    torch.Size([1, 2, 37, 32])
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 2, *, widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    ) -> None:
        require_widths(widths, levels=5)
        super().__init__(in_channels, classes, smallest=2 ** len(widths))  # the deepest map has a pixel left
        below = (widths[0], *widths[:-1])  # what a decoder stage hands to the next finer one
        self.feature_info = pyramid_info(
            [(width, 2 ** (level + 1)) for level, width in enumerate(widths)],
            [(width, 2**level) for level, width in enumerate(below)],
        )
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        inputs = in_channels
        for width, out, count in zip(widths, below, CONVOLUTIONS, strict=True):
            down = [inputs, *[width] * count]
            self.encoder.append(_stage(down))
            up = [*[width] * count, out]
            if not self.decoder:
                up = up[:-1]  # the finest stage ends in the head
            self.decoder.append(_stage(up))
            inputs = width
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = MaxUnpool()
        self.head = nn.Sequential(nn.Conv2d(widths[0], classes, 3, padding=1), nn.BatchNorm2d(classes))

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W); enc features are the pooled maps."""
        self.check(image)
        current = image
        encoded: list[Tensor] = []
        places: list[tuple[Tensor, torch.Size]] = []
        for stage in self.encoder:
            current = stage(current)
            size = current.shape[2:]
            current, where = self.pool(current)
            encoded.append(current)
            places.append((where, size))
        decoded: list[Tensor] = []
        for stage, (where, size) in zip(reversed(self.decoder), reversed(places), strict=True):
            current = stage(self.unpool(current, where, size))
            decoded.insert(0, current)
        return Output(self.head(current), pyramid(encoded, decoded))


def _stage(channels: list[int]) -> nn.Sequential:
    return nn.Sequential(*(ConvNormAct(i, o) for i, o in pairwise(channels)))
