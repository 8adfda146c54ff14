"""Deep residual U-Net: pre-activation residual units, strided convolutions instead of pooling."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.models.blocks import PointwiseConv
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_widths
from segdistill.models.registry import register_network


class PreActUnit(nn.Module):
    """(BN, ReLU, 3x3 convolution) twice plus a projected shortcut.

    `first` leaves out the leading BN and ReLU; `norm` normalises the shortcut's projection of `kernel` size.

    >>> PreActUnit(4, 8, stride=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 8, 2, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        kernel: int = 1,
        first: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        lead = (
            [] if first else [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        )  # not in place: the shortcut needs the input
        self.body = nn.Sequential(
            *lead,
            nn.Conv2d(inputs, outputs, 3, stride, 1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1),
        )
        shortcut: nn.Module
        if kernel == 1:
            shortcut = PointwiseConv(inputs, outputs, stride=stride)
        else:
            shortcut = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.shortcut = nn.Sequential(shortcut, *([nn.BatchNorm2d(outputs)] if norm else []))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


@register_network(
    "deep_resunet",
    "U-Net of pre-activation residual units",
    presets={"port": {"projection": 3, "decoder_up": "deconv2"}},
)
class DeepResUNet(Network):
    """Residual units at 64, 128, 256 channels and a bridge of 512, then up-sample, join, unit.

    8,222,529 parameters and 45.14 GMAC at 1 x 256 x 256 with one class (Zhang et al. 2018; their 7.8 M leave
    out the projections). Preset `port`: 3x3 projections and transposed convolutions, 13,040,705
    parameters.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first, the bridge last.
        projection: kernel of the shortcut's convolution.
        decoder_up: "nearest", or "deconv2" (2x2 transposed convolution of equal width).

    >>> DeepResUNet(1, 2, widths=(4, 8))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        projection: Literal[1, 3] = 1,
        decoder_up: Literal["nearest", "deconv2"] = "nearest",
    ) -> None:
        require_widths(widths)
        super().__init__(in_channels, classes, size_divisor=2 ** (len(widths) - 1))
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        first = PreActUnit(in_channels, widths[0], kernel=projection, first=True, norm=projection == 1)
        self.encoder = nn.ModuleList([first])
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for wide, deep in pairwise(widths):
            self.encoder.append(PreActUnit(wide, deep, stride=2, kernel=projection))
            up = (
                nn.Upsample(scale_factor=2)
                if decoder_up == "nearest"
                else nn.ConvTranspose2d(deep, deep, 2, 2)
            )
            self.ups.append(up)
            self.decoder.append(PreActUnit(deep + wide, wide, kernel=projection))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.., dec1.."""
        self.check(image)
        encoded: list[Tensor] = []
        current = image
        for unit in self.encoder:
            current = unit(current)
            encoded.append(current)
        decoded: list[Tensor] = []
        for up, unit, skip in zip(
            reversed(self.ups), reversed(self.decoder), reversed(encoded[:-1]), strict=True
        ):
            current = unit(torch.cat([up(current), skip], dim=1))
            decoded.insert(0, current)
        return Output(self.head(current), pyramid(encoded, decoded))
