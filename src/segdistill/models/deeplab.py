"""DeepLabV3 and DeepLabV3+: a dilated encoder, atrous pyramid pooling, and for the plus a decoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.aspp import ASPP, RATES
from segdistill.models.blocks import ConvNormAct
from segdistill.models.image_pooling import PooledNetwork
from segdistill.models.output import Output, levels_of, pyramid, pyramid_info
from segdistill.models.resnet import ResNet
from segdistill.models.u2net import enlarge_like
from segdistill.models.xception import Xception65


class DeepLabV3(PooledNetwork):
    """ResNet-50 at an eighth of the size, atrous pyramid pooling, a 3x3 convolution, a 1x1 head.

    39,633,729 parameters with one class (Chen et al. 2017 without the auxiliary head; the localisation
    baseline of LA-Net). Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        base: planes of the encoder's first stage, 64 in the literature; the pyramid is 4 times as wide.

    Besides the common names, features are "low" (the stem) and "high" (the encoder's end).

    >>> DeepLabV3(1, 1, base=4).eval()(torch.zeros(1, 1, 20, 32)).logits.shape
    torch.Size([1, 1, 20, 32])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, base: int = 64) -> None:
        super().__init__(in_channels, classes)
        self.encoder = ResNet(50, in_channels, output_stride=8, base=base)
        levels = levels_of(self.encoder)
        width = 4 * base
        self.feature_info = pyramid_info(levels, [(width, 8)], low=levels[0], high=levels[-1])
        self.aspp = ASPP(self.encoder.channels[-1], width, RATES[8])
        self.dropout = nn.Dropout(0.5)
        self.decoder = ConvNormAct(width, width, bias=False)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(image)
        decoded = self.decoder(self.dropout(self.aspp(maps[-1])))
        features = pyramid(maps, [decoded], low=maps[0], high=maps[-1])
        return Output(enlarge_like(self.head(decoded), image), features)


class DeepLabV3Plus(PooledNetwork):
    """Atrous pyramid pooling, brought back to a quarter of the size and joined with a low-level map.

    With Xception-65 54,746,962 parameters and 136.239 GMAC at 1 x 384 x 384 with two classes: the row that
    AMTD's table prints, though its text says ResNet-50. Preset `published` declares the 2,049,000 of an
    image classifier that never runs. With ResNet-50 at three channels 40,347,298 parameters and 102.651 GMAC
    (38.894 at output stride 16). Chen et al. 2018. Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        backbone: "resnet50" (low-level map by a 1x1 convolution) or "xception65" (by a 3x3 one).
        output_stride: 8 or 16; Xception-65 has only 8.
        base: planes of a ResNet's first stage; 64 in the literature, where Xception-65 begins with half.
        middle: blocks of Xception-65's middle flow.
        unused_layers: declares the image classifier, which never runs.

    Besides the common names, features are "low" (the first convolution's map) and "high" (the encoder's end),
    as AMTD taps them.

    >>> DeepLabV3Plus(1, 2, base=4).eval()(torch.zeros(1, 1, 20, 32)).logits.shape
    torch.Size([1, 2, 20, 32])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        backbone: Literal["resnet50", "xception65"] = "resnet50",
        output_stride: Literal[8, 16] = 8,
        base: int = 64,
        middle: int = 16,
        unused_layers: bool = False,
    ) -> None:
        super().__init__(in_channels, classes)
        if backbone == "xception65" and output_stride != 8:
            raise InputError(f"output_stride is {output_stride}: Xception-65 has only 8")
        self.encoder: ResNet | Xception65
        if backbone == "resnet50":
            self.encoder = ResNet(50, in_channels, output_stride=output_stride, base=base)
        else:
            self.encoder = Xception65(in_channels, base=max(1, base // 2), middle=middle)
        levels = levels_of(self.encoder)
        width, low_width = 4 * base, max(1, 3 * base // 4)
        self.feature_info = pyramid_info(levels, [(width, 4)], low=levels[0], high=levels[-1])
        self.aspp = ASPP(self.encoder.channels[-1], width, RATES[output_stride])
        kernel = 1 if backbone == "resnet50" else 3
        self.low = ConvNormAct(self.encoder.channels[1], low_width, kernel, bias=False)
        self.decoder = nn.Sequential(
            ConvNormAct(width + low_width, width, bias=False),
            nn.Dropout(0.5),
            ConvNormAct(width, width, bias=False),
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Conv2d(width, classes, 1)
        if unused_layers:
            self.classifier = nn.Linear(self.encoder.channels[-1], 1000)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(image)
        low = self.low(maps[1])
        decoded = self.decoder(torch.cat([enlarge_like(self.aspp(maps[-1]), low), low], dim=1))
        logits = enlarge_like(self.head(self.dropout(decoded)), image)
        return Output(logits, pyramid(maps, [decoded], low=maps[0], high=maps[-1]))
