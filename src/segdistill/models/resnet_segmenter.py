"""Segmenters that are little more than a ResNet: FCN-ResNet101 and ResNeXt101 with a 1x1 head."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, enlarge_like
from segdistill.models.network import Network, Output, levels_of, pyramid, pyramid_info
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet

CLASSES_OF_THE_UNUSED_HEAD = 21


@register_network(
    "fcn_resnet101",
    "dilated ResNet-101 with a 3x3 head: a teacher of AMTD",
    presets={
        "standard": {"head": "standard"},
        "counted": {"head": "single"},
        "published": {"head": "single", "unused_layers": True},
    },
)
class FCNResNet101(Network):
    """ResNet-101 at an eighth of the size, a 3x3 convolution to a quarter of the channels, a 1x1 head.

    51,933,122 parameters at one channel and two classes (Long et al. 2015 with dilation). AMTD's table was
    counted otherwise: preset `counted` is its 199.748 G (body and one 1x1 convolution, 99.480 GMAC at
    1 x 384 x 384), `published` its parameters too (51,946,967: a standard 21-class head is declared and never
    runs). Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        head: "standard", or "single": one 1x1 convolution.
        unused_layers: declares the standard 21-class head beside the single one.
        base: planes of the encoder's first stage, 64 in the literature.

    Besides the common names, features are "low" (the stem) and "high" (the encoder's end), as AMTD layers them.
    With the single head "decoder" is the encoder's end.

    >>> import torch
    >>> FCNResNet101(1, 2, base=2).eval()(torch.zeros(1, 1, 20, 32)).logits.shape
    torch.Size([1, 2, 20, 32])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        head: Literal["standard", "single"] = "standard",
        unused_layers: bool = False,
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes)
        self.encoder = ResNet(101, in_channels, output_stride=8, base=base)
        levels = levels_of(self.encoder)
        deepest = self.encoder.channels[-1]
        width = deepest // 4 if head == "standard" else deepest
        self.feature_info = pyramid_info(levels, [(width, 8)], low=levels[0], high=levels[-1])
        self.decoder = ConvNormAct(deepest, width, bias=False) if head == "standard" else None
        self.dropout = nn.Dropout(0.1 if head == "standard" else 0.0)
        self.head = nn.Conv2d(width, classes, 1)
        if unused_layers:
            self.unused = nn.Sequential(
                ConvNormAct(deepest, deepest // 4, bias=False),
                nn.Conv2d(deepest // 4, CLASSES_OF_THE_UNUSED_HEAD, 1),
            )

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(image)
        decoded = maps[-1] if self.decoder is None else self.decoder(maps[-1])
        logits = enlarge_like(self.head(self.dropout(decoded)), image)
        return Output(logits, pyramid(maps, [decoded], low=maps[0], high=maps[-1]))


@register_network("resnext101_32x8d", "ResNeXt-101 with a 1x1 head at stride 32: a teacher of AMTD")
class ResNeXt101(Network):
    """ResNeXt-101 32x8d at a thirty-second of the size and a 1x1 head, enlarged by 32.

    86,740,162 parameters and 48.001 GMAC at 1 x 384 x 384 with two classes (Xie et al. 2017, as AMTD counted
    it). Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        base: planes of the encoder's first stage, 64 in the literature; at least 8.

    As AMTD layers them, "encoder" is the third stage, "decoder" and "high" the fourth, "low" the stem.

    >>> import torch
    >>> ResNeXt101(1, 2, base=8).eval()(torch.zeros(1, 1, 40, 64)).logits.shape
    torch.Size([1, 2, 40, 64])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, base: int = 64) -> None:
        super().__init__(in_channels, classes)
        self.encoder = ResNet(101, in_channels, groups=32, base_width=8, base=base)
        levels = levels_of(self.encoder)
        self.feature_info = pyramid_info(levels[:-1], levels[-1:], low=levels[0], high=levels[-1])
        self.head = nn.Conv2d(self.encoder.channels[-1], classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(image)
        features = pyramid(maps[:-1], maps[-1:], low=maps[0], high=maps[-1])
        return Output(enlarge_like(self.head(maps[-1]), image), features)
