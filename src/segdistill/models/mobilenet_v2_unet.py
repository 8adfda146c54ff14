"""LightVessel's student: a U-Net on MobileNetV2 whose decoder is of inverted residuals too."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.models.blocks import Decoder
from segdistill.models.mobilenet import InvertedResidual, MobileNetV2
from segdistill.models.network import Network
from segdistill.models.output import Output, levels_of, pyramid, pyramid_info

LEVELS = (1, 2, 3, 5, 8)
"""The encoder's maps that the decoder takes: stages 1, 2, 3 and 5 and the last 1x1 convolution."""
NECK = 3
"""Channels between the two convolutions of the head (more where there are more classes)."""


class MobileNetV2UNet(Network):
    """MobileNetV2, four decoder levels of a 4x4 transposed convolution and an inverted residual.

    The decoder ends at half resolution; the logits are brought to full size by bilinear interpolation.
    4,682,323 parameters and 0.9625 GMAC at 1 x 256 x 256 with two classes (Dang et al., LightVessel).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.

    Besides the common names, features are "pair_encoder" and "pair_decoder" (LightVessel's symmetric pair at
    a quarter of the size).

    >>> import torch
    >>> MobileNetV2UNet(1, 2)(torch.zeros(2, 1, 32, 32)).logits.shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2) -> None:
        super().__init__(in_channels, classes, size_divisor=32)
        self.encoder = MobileNetV2(in_channels)
        every = levels_of(self.encoder)
        levels = [every[i] for i in LEVELS]
        self.feature_info = pyramid_info(levels, levels[:-1], pair_encoder=levels[1], pair_decoder=levels[1])
        widths = [channels for channels, _ in levels]
        self.decoder = Decoder(widths, up="deconv4", block=InvertedResidual)
        neck = max(NECK, classes)
        self.head = nn.Sequential(nn.Conv2d(widths[0], neck, 1), nn.Conv2d(neck, classes, 1))
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(image)
        encoded = [maps[i] for i in LEVELS]
        decoded = self.decoder(encoded)
        features = pyramid(encoded, decoded, pair_encoder=encoded[1], pair_decoder=decoded[1])
        return Output(self.enlarge(self.head(decoded[0])), features)
