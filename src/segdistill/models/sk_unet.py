"""LightVessel's teacher: a U-Net whose encoder chooses between kernel sizes."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.models.blocks import Block, ConvNormAct, Decoder, DoubleConv, Encoder
from segdistill.models.network import (
    Output,
    PooledNetwork,
    pyramid,
    pyramid_info,
    require_positive,
    require_widths,
)
from segdistill.models.registry import register_network


class SelectiveKernel(nn.Module):
    """A 5x5 and a 3x3 branch, weighted per channel from the pooled sum of both.

    >>> SelectiveKernel(8, reduction=2)(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNormAct(channels, channels, kernel) for kernel in (5, 3))
        inner = max(1, channels // reduction)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = ConvNormAct(channels, inner, 1)
        self.excite = nn.ModuleList(nn.Conv2d(inner, channels, 1) for _ in self.branches)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        wide, near = (branch(x) for branch in self.branches)
        squeezed = self.squeeze(self.pool(wide + near))
        weights = torch.stack([excite(squeezed) for excite in self.excite]).softmax(0)
        out: Tensor = weights[0] * wide + weights[1] * near
        return out


class SKBlock(nn.Module):
    """1x1, selective kernel, 1x1, and a shortcut (1x1 where the channels change).

    >>> SKBlock(4, 8, reduction=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, reduction: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNormAct(inputs, outputs, 1, bias=False),
            SelectiveKernel(outputs, reduction=reduction),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            *_conv_norm(outputs, outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Sequential(*_conv_norm(inputs, outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def _conv_norm(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)


def _stage(inputs: int, outputs: int, *, reduction: int) -> nn.Module:
    first = SKBlock(inputs, outputs, reduction=reduction)
    return nn.Sequential(first, SKBlock(outputs, outputs, reduction=reduction))


def _light(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs),
        nn.Conv2d(outputs, outputs, 1),
        nn.ReLU(inplace=True),
    )


DECODERS: dict[str, Block] = {
    "counted": partial(ConvNormAct, kernel=1),
    "plain": DoubleConv,
    "light": _light,
}
"""What follows each join, by the decoder's name."""


@register_network(
    "sk_unet",
    "U-Net whose encoder chooses between kernel sizes: LightVessel's teacher",
    presets={
        "counted": {"decoder": "counted", "reduction": 4},
        "A": {"decoder": "plain", "reduction": 2},
        "B": {"decoder": "light", "reduction": 2},
    },
)
class SKUNet(PooledNetwork):
    """Four stages of two selective-kernel blocks, and a decoder that the paper does not define.

    26,478,114 parameters and 80.280 GMAC at 1 x 256 x 256 with two classes (Dang et al., LightVessel: 26.489
    M). The encoder alone has 98.7 % of the printed parameters, so the decoder is inferred from the counts:
    "counted" (2x2 transposed convolution, join, one 1x1 convolution) fits both columns within 0.05 %.
    Preset `A` is the textbook U-Net decoder (10 % more parameters), preset `B` a bilinear, depthwise
    one made to fit the printed parameters.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        decoder: "counted", "plain" (A: two 3x3 convolutions) or "light" (B).
        reduction: how much narrower the weighting of the kernels is than its block.
        widths: channels per level, finest first.

    Besides the common names, features are "pair_encoder" and "pair_decoder": LightVessel's symmetric pair,
    the second-deepest encoder map and the first up-sampled map before it meets that one.

    >>> SKUNet(1, 2, widths=(4, 8))(torch.zeros(2, 1, 8, 8)).logits.shape
    torch.Size([2, 2, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        decoder: Literal["counted", "plain", "light"] = "counted",
        reduction: int = 4,
        widths: tuple[int, ...] = (64, 128, 256, 512),
    ) -> None:
        require_widths(widths)
        require_positive(reduction=reduction)
        super().__init__(in_channels, classes, size_divisor=2 ** (len(widths) - 1))
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        raised = widths[-1] if decoder == "light" else widths[-2]
        pair = {"pair_encoder": levels[-2], "pair_decoder": (raised, levels[-2][1])}
        self.feature_info = pyramid_info(levels, levels[:-1], **pair)
        self.encoder = Encoder(in_channels, widths, block=partial(_stage, reduction=reduction))
        up = "bilinear" if decoder == "light" else "deconv2"
        self.decoder = Decoder(widths, up=up, block=DECODERS[decoder])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        encoded = self.encoder(image)
        raised, decoded = self.decoder.steps(encoded)
        features = pyramid(encoded, decoded, pair_encoder=encoded[-2], pair_decoder=raised[-1])
        return Output(self.head(decoded[0]), features)
