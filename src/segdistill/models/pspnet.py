"""PSPNet: a dilated ResNet-50 and a pyramid of pooled maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, PooledMap, enlarge_like, repeat_channels, stem_channels
from segdistill.models.network import Output, PooledNetwork, levels_of, pyramid, pyramid_info, require_share
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet

BINS = (1, 2, 3, 6)
"""Cells per side of the pooled maps."""


@register_network(
    "pspnet_resnet50",
    "dilated ResNet-50 and a pyramid of pooled maps: a teacher of AMTD",
    presets={"amtd": {"repeat_grey": True}},
)
class PSPNet(PooledNetwork):
    """ResNet-50 with a three-convolution stem at an eighth of the size, pooled to 1, 2, 3 and 6 cells a side.

    46,706,626 parameters and 103.588 GMAC at 1 x 384 x 384 with two classes (preset `amtd`, a grey image
    repeated three times; Zhao et al. 2017 without the auxiliary head, as AMTD counted it). Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        repeat_grey: a one-channel image is repeated three times, as in AMTD.
        dropout: share of the channels that training drops before the head.
        base: planes of the encoder's first stage, 64 in the literature; the pyramid is 8 times as wide.

    Besides the common names, features are "low" (the first convolution's map) and "high" (the encoder's end),
    which AMTD reads.

    >>> PSPNet(1, 2, base=4).eval()(torch.zeros(1, 1, 20, 32)).logits.shape
    torch.Size([1, 2, 20, 32])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        repeat_grey: bool = False,
        dropout: float = 0.1,
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes)
        require_share(dropout=dropout)
        self.stem_channels = stem_channels(in_channels, repeat_grey)
        self.encoder = ResNet(50, self.stem_channels, stem="deep", output_stride=8, base=base)
        levels = levels_of(self.encoder)
        deepest, width = self.encoder.channels[-1], 8 * base
        self.feature_info = pyramid_info(levels, [(width, 8)], low=(base, 2), high=levels[-1])
        self.pooled = nn.ModuleList(PooledMap(deepest, width, bins) for bins in BINS)
        self.decoder = ConvNormAct(deepest + len(BINS) * width, width, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        low, maps = self.encoder.with_first(repeat_channels(image, self.stem_channels))
        joined = torch.cat([maps[-1], *(pooled(maps[-1]) for pooled in self.pooled)], dim=1)
        decoded = self.decoder(joined)
        logits = enlarge_like(self.head(self.dropout(decoded)), image)
        return Output(logits, pyramid(maps, [decoded], low=low, high=maps[-1]))
