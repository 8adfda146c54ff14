"""DeepLabV3 and DeepLabV3+: a dilated encoder, atrous pyramid pooling, and for the plus a decoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import ConvNormAct, PointwiseConv, PooledMap, enlarge_like
from segdistill.models.network import (
    Output,
    PooledNetwork,
    levels_of,
    pyramid,
    pyramid_info,
    require_positive,
)
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
"""Dilations of the 3x3 convolutions at each output stride."""


class ASPP(nn.Module):
    """A 1x1 convolution, three dilated 3x3 ones and a pooled map, joined and fused by a 1x1 convolution.

    No convolution has a bias; each is followed by batch normalisation and ReLU (Chen et al. 2017).

    >>> ASPP(8, 4, (1, 2, 3)).eval()(torch.zeros(1, 8, 5, 7)).shape
    torch.Size([1, 4, 5, 7])
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvNormAct(inputs, outputs, 1, bias=False)])
        for rate in rates:
            self.branches.append(ConvNormAct(inputs, outputs, dilation=rate, bias=False))
        self.branches.append(PooledMap(inputs, outputs))
        self.fuse = ConvNormAct(len(self.branches) * outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        fused: Tensor = self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))
        return fused


def separable(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """3x3 depthwise convolution, batch norm, 1x1 convolution, batch norm; no bias.

    >>> len(separable(4, 8))
    4
    """
    return [
        nn.Conv2d(inputs, inputs, 3, stride, dilation, dilation, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class XceptionBlock(nn.Module):
    """Three separable convolutions with a ReLU before each, and a shortcut.

    Args:
        inputs: channels that come in.
        outputs: channels after each of the three convolutions.
        stride: of the last convolution.
        dilation: of all three.
        lead: False leaves out the first ReLU, where the input has been through one.
        bare_second: no batch norm after the second one's 1x1 convolution, as in the exit flow that was counted.

    >>> import torch
    >>> XceptionBlock(4, (8, 8, 8), stride=2).eval()(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: tuple[int, int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        lead: bool = True,
        bare_second: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = inputs
        for i, out in enumerate(outputs):
            if i or lead:
                layers.append(
                    nn.ReLU(inplace=i > 0)
                )  # not in place on the block's input: the shortcut needs it
            layers += separable(width, out, stride=stride if i == len(outputs) - 1 else 1, dilation=dilation)
            if i == 1 and bare_second:
                layers.pop()
            width = out
        self.body = nn.Sequential(*layers)
        same = stride == 1 and inputs == width
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(PointwiseConv(inputs, width, stride=stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs[-1], H / stride, W / stride)."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Xception65(nn.Module):
    """Entry, middle and exit flow at an eighth of the size; returns the maps that DeepLabV3+ uses.

    Args:
        in_channels: channels of the image.
        base: channels of the first convolution, 32 in the literature; all other widths scale with it.
        middle: blocks of the middle flow, 16 in the literature.

    Attributes:
        channels: channels of the four maps, finest first.
        strides: their strides.

    >>> import torch
    >>> maps = Xception65(3, base=4, middle=1).eval()(torch.zeros(1, 3, 16, 16))
    >>> [tuple(map.shape[1:]) for map in maps]
    [(4, 8, 8), (16, 4, 4), (91, 2, 2), (256, 2, 2)]
    """

    def __init__(self, in_channels: int = 3, *, base: int = 32, middle: int = 16) -> None:
        super().__init__()
        require_positive(base=base, middle=middle)
        w64, w128, w256, w728, w1024, w1536, w2048 = (
            max(1, base * width // 32) for width in (64, 128, 256, 728, 1024, 1536, 2048)
        )
        self.channels, self.strides = [base, w128, w728, w2048], [2, 4, 8, 8]
        self.first = ConvNormAct(in_channels, base, stride=2, bias=False)
        self.second = ConvNormAct(base, w64, bias=False)
        self.entry1 = XceptionBlock(w64, (w128,) * 3, stride=2, lead=False)
        self.relu = nn.ReLU(inplace=True)
        self.entry2 = XceptionBlock(w128, (w256,) * 3, stride=2, lead=False)
        self.entry3 = XceptionBlock(w256, (w728,) * 3)
        self.middle = nn.ModuleList(XceptionBlock(w728, (w728,) * 3, dilation=2) for _ in range(middle))
        self.exit = XceptionBlock(w728, (w728, w1024, w1024), dilation=2, bare_second=True)
        last: list[nn.Module] = []
        for inputs, outputs in ((w1024, w1536), (w1536, w1536), (w1536, w2048)):
            last += [*separable(inputs, outputs, dilation=4), nn.ReLU(inplace=True)]
        self.last = nn.Sequential(nn.ReLU(), *last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the stem's map, the low-level map, the middle flow's and the last one."""
        first = self.first(image)
        low = self.relu(self.entry1(self.second(first)))
        current = self.entry3(self.entry2(low))
        for block in self.middle:
            current = block(current)
        return [first, low, current, self.last(self.exit(current))]


@register_network(
    "deeplabv3_resnet50", "dilated ResNet-50 and an atrous pyramid: LA-Net's localisation baseline"
)
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


@register_network(
    "deeplabv3plus_resnet50",
    "dilated ResNet-50, atrous pyramid, decoder: AMTD's teacher as in its text",
    fixed={"backbone": "resnet50"},
)
@register_network(
    "deeplabv3plus_xception65",
    "Xception-65, atrous pyramid, decoder: AMTD's teacher as in its table",
    fixed={"backbone": "xception65"},
    presets={"published": {"unused_layers": True}},
)
class DeepLabV3Plus(PooledNetwork):
    """Atrous pyramid pooling, brought back to a quarter of the size and joined with a low-level map.

    With Xception-65 54,746,962 parameters and 136.239 GMAC at 1 x 384 x 384 with two classes: the row that
    AMTD's table prints, though its text has ResNet-50. Preset `published` declares the 2,049,000 of an
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
    which AMTD reads.

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
