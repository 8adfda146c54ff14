"""One ResNet family: depth, groups, stem and output stride; named as torchvision names its parameters."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import PointwiseConv


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut; as wide as its stage (ResNet-18 and -34)."""

    expansion = 1

    def __init__(
        self, inputs: int, planes: int, stride: int, dilation: int, *, groups: int = 1, base_width: int = 64
    ) -> None:
        super().__init__()
        if groups != 1 or base_width != 64:
            raise InputError("a ResNet of basic blocks has no groups: use depth 50 or 101 for a ResNeXt")
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.relu(self.bn2(self.conv2(out)) + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, dilated, grouped), 1x1 to four times the planes, and a shortcut (from ResNet-50)."""

    expansion = 4

    def __init__(
        self, inputs: int, planes: int, stride: int, dilation: int, *, groups: int = 1, base_width: int = 64
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 planes, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        result: Tensor = self.relu(self.bn3(self.conv3(out)) + shortcut)
        return result


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(PointwiseConv(inputs, outputs, stride=stride, bias=False), nn.BatchNorm2d(outputs))


class Layout(NamedTuple):
    """The block class of a depth and the number of blocks per stage."""

    block: type[Basic] | type[Bottleneck]
    blocks: tuple[int, int, int, int]


LAYOUTS = {
    18: Layout(Basic, (2, 2, 2, 2)),
    34: Layout(Basic, (3, 4, 6, 3)),
    50: Layout(Bottleneck, (3, 4, 6, 3)),
    101: Layout(Bottleneck, (3, 4, 23, 3)),
}


FIRST = 3
"""Modules of the deep stem up to its first ReLU."""


class ResNet(nn.Module):
    """ResNet or ResNeXt without pooling and classifier: returns the stem's map and the four stages' maps.

    Args:
        depth: 18, 34, 50 or 101.
        in_channels: channels of the image.
        groups: groups of the 3x3 convolution (32 for ResNeXt).
        base_width: width per group (8 for ResNeXt 32x8d, 64 for a ResNet).
        stem: "7x7" (`base` wide), or "deep": three 3x3 convolutions (the last 2 x `base` wide) as in PSPNet.
        output_stride: 32, 16 or 8; stages that would go further keep the size and dilate instead (the first
            block of such a stage uses the dilation of the stage before).
        base: planes of the first stage; 64 everywhere in the literature, less for tests and tiny teachers.

    Attributes:
        channels: channels of the five maps, finest first.
        strides: strides of the five maps.

    Raises:
        InputError: a depth, stem or output stride that does not exist.

    Sources: He et al. 2016; Xie et al. 2017; parameter names equal torchvision's, so that its files load.

    >>> import torch
    >>> [tuple(map.shape[1:]) for map in ResNet(18, base=8).eval()(torch.zeros(1, 3, 32, 32))]
    [(8, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2), (64, 1, 1)]
    """

    def __init__(
        self,
        depth: int,
        in_channels: int = 3,
        *,
        groups: int = 1,
        base_width: int = 64,
        stem: str = "7x7",
        output_stride: int = 32,
        base: int = 64,
    ) -> None:
        super().__init__()
        for what, value, valid in (
            ("depth", depth, tuple(LAYOUTS)),
            ("stem", stem, ("7x7", "deep")),
            ("output_stride", output_stride, (8, 16, 32)),
        ):
            if value not in valid:
                raise InputError(f"ResNet {what} {value!r} does not exist: use {', '.join(map(str, valid))}")
        block, blocks = LAYOUTS[depth]
        width = base if stem == "7x7" else 2 * base
        self.conv1: nn.Module
        if stem == "7x7":
            self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        else:
            self.conv1 = _deep_stem(in_channels, base, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = [width]
        self.strides = [2]
        stride_so_far, dilation = 4, 1
        for stage, count in enumerate(blocks):
            planes = base * 2**stage
            stride, first_dilation = (1 if stage == 0 else 2), dilation
            if stride_so_far * stride > output_stride:
                dilation *= stride
                stride = 1
            stride_so_far *= stride
            layers = []
            for i in range(count):
                first = i == 0
                layers.append(
                    block(
                        width,
                        planes,
                        stride if first else 1,
                        first_dilation if first else dilation,
                        groups=groups,
                        base_width=base_width,
                    )
                )
                width = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            self.channels.append(width)
            self.strides.append(stride_so_far)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> maps of the stem (after its ReLU) and of stages 1 to 4."""
        return self.with_first(image)[1]

    def with_first(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The map of the stem's first convolution (after its ReLU), then what `forward` gives.

        With the 7x7 stem the first convolution is the stem; the deep stem has two more.
        """
        if isinstance(self.conv1, nn.Sequential):
            first = self.conv1[:FIRST](image)
            maps: list[Tensor] = [self.relu(self.bn1(self.conv1[FIRST:](first)))]
        else:
            maps = [self.relu(self.bn1(self.conv1(image)))]
            first = maps[0]
        current = self.maxpool(maps[0])
        for name in ("layer1", "layer2", "layer3", "layer4"):
            current = self.get_submodule(name)(current)
            maps.append(current)
        return first, maps


def _deep_stem(in_channels: int, half: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, half, 3, 2, 1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, half, 3, 1, 1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, width, 3, 1, 1, bias=False),
    )
