"""CBAM: attention over channels, then over positions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Spatial = Literal["three_3x3", "original", "off"]
"""Three 3x3 convolutions (LA-Net's release), one of 7x7 (the original CBAM), or none."""


class ChannelAttention(nn.Module):
    """Weighs channels by what their mean and maximum say through one shared two-layer perceptron.

    >>> ChannelAttention(32)(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.shared = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        weight = torch.sigmoid(self.shared(x.mean(dim=(2, 3))) + self.shared(x.amax(dim=(2, 3))))
        return x * weight[:, :, None, None]


class SpatialAttention(nn.Module):
    """Weighs positions by what the maximum and mean over channels say; convolutions without bias, batch norm.

    >>> SpatialAttention("original")(torch.zeros(2, 32, 4, 4)).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(self, kind: Literal["three_3x3", "original"] = "three_3x3") -> None:
        super().__init__()
        shapes = [(2, 1, 7)] if kind == "original" else [(2, 8, 3), (8, 8, 3), (8, 1, 3)]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in shapes:
            layers.append(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))
            layers.append(nn.BatchNorm2d(outputs, momentum=0.01))
            layers.append(nn.ReLU(inplace=True))
        self.convs = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        seen = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        weighted: Tensor = x * torch.sigmoid(self.convs(seen))
        return weighted


class CBAM(nn.Sequential):
    """Channel attention, then spatial attention, either of which may be left out.

    >>> len(CBAM(32, channel=False, spatial="off"))
    0
    """

    def __init__(self, channels: int, *, channel: bool = True, spatial: Spatial = "three_3x3") -> None:
        parts: list[nn.Module] = [ChannelAttention(channels)] if channel else []
        if spatial != "off":
            parts.append(SpatialAttention(spatial))
        super().__init__(*parts)
