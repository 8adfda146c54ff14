"""U2-Net: a U of residual U-blocks, supervised at six scales."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, enlarge_like
from segdistill.models.network import Network, Output, pyramid, pyramid_info
from segdistill.models.registry import register_network


class ResidualU(nn.Module):
    """RSU: a convolution, and a small U of `depth` levels on its output, added.

    With `flat` nothing is pooled: the levels dilate by 1, 2, 4, 8 instead (RSU-4F).

    >>> ResidualU(5, 3, 4, 8)(torch.zeros(1, 3, 17, 16)).shape
    torch.Size([1, 8, 17, 16])
    """

    def __init__(self, depth: int, inputs: int, middle: int, outputs: int, *, flat: bool = False) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, outputs)
        self.pool: nn.Module = nn.Identity() if flat else nn.MaxPool2d(2, ceil_mode=True)
        dilations = [2**level for level in range(depth - 1)] if flat else [1] * (depth - 1)
        self.down = nn.ModuleList(
            ConvNormAct(middle if level else outputs, middle, dilation=dilation)
            for level, dilation in enumerate(dilations)
        )
        self.bottom = ConvNormAct(middle, middle, dilation=2 * dilations[-1] if flat else 2)
        self.up = nn.ModuleList(
            ConvNormAct(2 * middle, middle if level else outputs, dilation=dilation)
            for level, dilation in enumerate(dilations)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        first = self.first(x)
        maps: list[Tensor] = []
        for level, conv in enumerate(self.down):
            maps.append(conv(self.pool(maps[-1]) if level else first))
        current: Tensor = self.bottom(maps[-1])
        for conv, skip in zip(reversed(self.up), reversed(maps), strict=True):
            if current.shape[2:] != skip.shape[2:]:
                current = enlarge_like(current, skip)
            current = conv(torch.cat([current, skip], dim=1))
        out: Tensor = current + first
        return out


class Stage(NamedTuple):
    """Depth (0 means the flat RSU-4F), middle and output channels of one residual U-block."""

    depth: int
    middle: int
    outputs: int


ENCODERS = {
    "full": [(7, 32, 64), (6, 32, 128), (5, 64, 256), (4, 128, 512), (0, 256, 512), (0, 256, 512)],
    "small": [(7, 16, 64), (6, 16, 64), (5, 16, 64), (4, 16, 64), (0, 16, 64), (0, 16, 64)],
    "tiny": [(7, 2, 4), (6, 2, 4), (5, 2, 4), (4, 2, 4), (0, 2, 4), (0, 2, 4)],
}
DECODERS = {
    "full": [(7, 16, 64), (6, 32, 64), (5, 64, 128), (4, 128, 256), (0, 256, 512)],
    "small": [(7, 16, 64), (6, 16, 64), (5, 16, 64), (4, 16, 64), (0, 16, 64)],
    "tiny": [(7, 2, 4), (6, 2, 4), (5, 2, 4), (4, 2, 4), (0, 2, 4)],
}


@register_network(
    "u2net",
    "U of residual U-blocks, supervised at six scales",
    presets={"full": {"scale": "full"}, "small": {"scale": "small"}},
)
class U2Net(Network):
    """Six residual U-blocks down, five up, a logit map at each decoder scale, fused by a 1x1 convolution.

    44,009,869 parameters (one class, three channels) and 37.43 GMAC at 1 x 256 x 256; preset `small`:
    1,131,181 (Qin et al. 2020). Any size works. `deep` holds the six side maps, at the image's size.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        scale: "full", "small" (U2-Net-P), or "tiny" for tests.

    >>> U2Net(1, 2, scale="tiny").eval()(torch.zeros(1, 1, 33, 40)).logits.shape
    torch.Size([1, 2, 33, 40])
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 2, *, scale: Literal["full", "small", "tiny"] = "full"
    ) -> None:
        super().__init__(in_channels, classes)
        down = [Stage(*stage) for stage in ENCODERS[scale]]
        up = [Stage(*stage) for stage in DECODERS[scale]]
        self.feature_info = pyramid_info(
            [(stage.outputs, 2**level) for level, stage in enumerate(down)],
            [(stage.outputs, 2**level) for level, stage in enumerate(up)],
        )
        inputs = [in_channels, *(stage.outputs for stage in down[:-1])]
        self.encoder = nn.ModuleList(_block(stage, i) for stage, i in zip(down, inputs, strict=True))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        below = [*(stage.outputs for stage in up[1:]), down[-1].outputs]
        self.decoder = nn.ModuleList(
            _block(stage, skip.outputs + b) for stage, skip, b in zip(up, down[:-1], below, strict=True)
        )
        sides = [*(stage.outputs for stage in up), down[-1].outputs]
        self.sides = nn.ModuleList(nn.Conv2d(channels, classes, 3, padding=1) for channels in sides)
        self.head = nn.Conv2d(len(sides) * classes, classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), `deep`, and features enc1.., dec1.."""
        self.check(image)
        encoded: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            encoded.append(block(self.pool(encoded[-1]) if level else image))
        decoded: list[Tensor] = []
        current = encoded[-1]
        for block, skip in zip(reversed(self.decoder), reversed(encoded[:-1]), strict=True):
            current = block(torch.cat([enlarge_like(current, skip), skip], dim=1))
            decoded.insert(0, current)
        scales = zip(self.sides, [*decoded, encoded[-1]], strict=True)
        deep = [enlarge_like(side(map_), image) for side, map_ in scales]
        return Output(self.head(torch.cat(deep, dim=1)), pyramid(encoded, decoded), deep=deep)


def _block(stage: Stage, inputs: int) -> ResidualU:
    return ResidualU(stage.depth or 4, inputs, stage.middle, stage.outputs, flat=stage.depth == 0)
