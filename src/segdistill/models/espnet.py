"""ESPNet: spatial pyramids of thin dilated convolutions, and a decoder of a few channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.models.blocks import repeat_channels, stem_channels
from segdistill.models.network import Network, Output, pyramid, pyramid_info
from segdistill.models.registry import register_network

DILATIONS = (1, 2, 4, 8, 16)
WIDTHS = (16, 64, 128)
REPEATS = (2, 3)
"""Pyramids without down-sampling at a quarter and at an eighth of the size (p and q of the article)."""


class NormPReLU(nn.Sequential):
    """Batch normalisation and a PReLU with one slope per channel.

    >>> NormPReLU(4)(torch.zeros(2, 4, 2, 2)).shape
    torch.Size([2, 4, 2, 2])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels, eps=1e-3), nn.PReLU(channels))


class SpatialPyramid(nn.Module):
    """ESP: a reduction to a fifth, five dilated 3x3 convolutions side by side, summed one upon the other.

    The reduction is a 1x1 convolution, or a strided 3x3 one with `down`. The smallest dilation takes the
    channels that a division by five leaves over, and stays out of the sums.

    >>> SpatialPyramid(4, 10, down=True)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 10, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool = False, residual: bool = False) -> None:
        super().__init__()
        thin = outputs // len(DILATIONS)
        kernel, stride, padding = (3, 2, 1) if down else (1, 1, 0)
        self.reduce = nn.Conv2d(inputs, thin, kernel, stride, padding, bias=False)
        first = outputs - thin * (len(DILATIONS) - 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(thin, thin if i else first, 3, padding=dilation, dilation=dilation, bias=False)
            for i, dilation in enumerate(DILATIONS)
        )
        self.act = NormPReLU(outputs)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), or half the size with `down`."""
        reduced = self.reduce(x)
        first, *others = (branch(reduced) for branch in self.branches)
        sums = [others[0]]
        for other in others[1:]:
            sums.append(sums[-1] + other)
        joined = torch.cat([first, *sums], dim=1)
        out: Tensor = self.act(joined + x if self.residual else joined)
        return out


@register_network(
    "espnet",
    "spatial pyramids of thin dilated convolutions: a student of AMTD",
    presets={"amtd": {"repeat_grey": True}},
)
class ESPNet(Network):
    """Pyramids at a quarter and an eighth of the size, which see the image again, and a thin decoder.

    183,725 parameters and 0.6145 GMAC at 1 x 384 x 384 with two classes (preset `amtd`, a grey image
    repeated three times; Mehta et al. 2018 with p = 2 and q = 3). No convolution has a bias.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        repeat_grey: a one-channel image is repeated three times, as in AMTD.

    Besides the common names, features are "low" (the first convolution's map) and "high" (AMTD). "decoder"
    is what the last 3x3 convolution sees.

    >>> ESPNet(1, 2)(torch.zeros(2, 1, 16, 16)).logits.shape
    torch.Size([2, 2, 16, 16])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, repeat_grey: bool = False) -> None:
        super().__init__(in_channels, classes, size_divisor=8)
        self.stem_channels = image = stem_channels(in_channels, repeat_grey)
        first, second, third = WIDTHS
        half, quarter, eighth = first + image, 2 * second + image, 2 * third
        mixed = max(classes, len(DILATIONS))
        encoder, decoder = [(half, 2), (quarter, 4), (eighth, 8)], [(half + classes, 2), (mixed, 4)]
        self.feature_info = pyramid_info(encoder, decoder, low=(first, 2), high=encoder[-1])
        self.first = nn.Sequential(nn.Conv2d(image, first, 3, 2, 1, bias=False), NormPReLU(first))
        self.shrink2, self.shrink4 = nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)
        self.act2, self.act4, self.act8 = NormPReLU(half), NormPReLU(quarter), NormPReLU(eighth)
        self.down4 = SpatialPyramid(half, second, down=True)
        self.down8 = SpatialPyramid(quarter, third, down=True)
        self.stage4 = _pyramids(second, REPEATS[0])
        self.stage8 = _pyramids(third, REPEATS[1])
        self.score4 = nn.Conv2d(quarter, classes, 1, bias=False)
        self.score8 = nn.Sequential(
            nn.Conv2d(eighth, classes, 1, bias=False),
            nn.BatchNorm2d(classes, eps=1e-3),
            nn.ConvTranspose2d(classes, classes, 2, 2, bias=False),
        )
        self.mix4 = nn.Sequential(NormPReLU(2 * classes), SpatialPyramid(2 * classes, mixed))
        self.up4 = nn.Sequential(nn.ConvTranspose2d(mixed, classes, 2, 2, bias=False), NormPReLU(classes))
        self.mix2 = nn.Sequential(
            nn.Conv2d(half + classes, classes, 3, padding=1, bias=False), NormPReLU(classes)
        )
        self.head = nn.ConvTranspose2d(classes, classes, 2, 2, bias=False)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        image = repeat_channels(image, self.stem_channels)
        low = self.first(image)
        image2 = self.shrink2(image)
        half = self.act2(torch.cat([low, image2], dim=1))
        down = self.down4(half)
        quarter = self.act4(torch.cat([self.stage4(down), down, self.shrink4(image2)], dim=1))
        down = self.down8(quarter)
        eighth = self.act8(torch.cat([down, self.stage8(down)], dim=1))
        up4 = self.mix4(torch.cat([self.score4(quarter), self.score8(eighth)], dim=1))
        up2 = torch.cat([self.up4(up4), half], dim=1)
        features = pyramid([half, quarter, eighth], [up2, up4], low=low, high=eighth)
        return Output(self.head(self.mix2(up2)), features)


def _pyramids(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(SpatialPyramid(channels, channels, residual=True) for _ in range(count)))
