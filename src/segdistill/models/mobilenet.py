"""MobileNetV2's encoder and its block; named as torchvision names their parameters."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import ConvNormAct

Conv6 = partial(ConvNormAct, bias=False, act=nn.ReLU6)
"""Convolution without bias, batch normalisation, ReLU6."""

STEM, LAST = 32, 1280
STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, channels and number of blocks of the seven stages."""
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Strides of the stages in the published classifier; the stem halves the size before them."""


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1; the input is added where it fits.

    >>> import torch
    >>> InvertedResidual(4, 8, stride=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 8, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([Conv6(inputs, inner, 1)] if expansion > 1 else []),
            Conv6(inner, inner, stride=stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 without classifier: returns the maps of the stem, the seven stages and the last 1x1.

    Args:
        in_channels: channels of the image.
        strides: strides of the seven stages, each 1 or 2; without stride nothing is dilated.

    Attributes:
        channels: channels of the nine maps, finest first.
        strides: strides of the nine maps, against the image.

    Raises:
        InputError: not seven strides of 1 or 2.

    Source: Sandler et al. 2018; parameter names equal torchvision's, so that its files load.

    >>> import torch
    >>> maps = MobileNetV2(1).eval()(torch.zeros(1, 1, 32, 32))
    >>> tuple(maps[0].shape), tuple(maps[-1].shape)
    ((1, 32, 16, 16), (1, 1280, 1, 1))
    """

    def __init__(self, in_channels: int = 3, *, strides: tuple[int, ...] = STRIDES) -> None:
        super().__init__()
        if len(strides) != len(STAGES) or not set(strides) <= {1, 2}:
            raise InputError(f"strides is {strides}: MobileNetV2 has seven stages of stride 1 or 2")
        layers: list[nn.Module] = [Conv6(in_channels, STEM, stride=2)]
        self.channels, self.strides, self.ends = [STEM], [2], [0]
        for (expansion, width, count), stride in zip(STAGES, strides, strict=True):
            for i in range(count):
                inputs = width if i else self.channels[-1]
                block = InvertedResidual(inputs, width, stride=1 if i else stride, expansion=expansion)
                layers.append(block)
            self.channels.append(width)
            self.strides.append(stride * self.strides[-1])
            self.ends.append(len(layers) - 1)
        layers.append(Conv6(self.channels[-1], LAST, 1))
        self.channels.append(LAST)
        self.strides.append(self.strides[-1])
        self.ends.append(len(layers) - 1)
        self.features = nn.ModuleList(layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> nine maps, finest first."""
        maps: list[Tensor] = []
        current = image
        for i, layer in enumerate(self.features):
            current = layer(current)
            if i in self.ends:
                maps.append(current)
        return maps
