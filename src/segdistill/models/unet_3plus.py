"""U-Net 3+: every decoder level reads every scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, Encoder
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_widths
from segdistill.models.registry import register_network
from segdistill.models.unet import FULL


def _enlarge(levels: int) -> nn.Upsample:
    return nn.Upsample(scale_factor=2**levels, mode="bilinear", align_corners=False)


class FullScaleLevel(nn.Module):
    """Brings all scales to one level, each through its own 3x3 convolution, and fuses them by another.

    Args:
        level: this level, 0 is full resolution.
        inputs: channels of the maps of all levels, finest first: encoder maps down to this level, then
            decoder maps.
        each: channels that each scale contributes.
    """

    def __init__(self, level: int, inputs: list[int], each: int) -> None:
        super().__init__()
        self.resize = nn.ModuleList()
        for i in range(len(inputs)):
            if i < level:
                self.resize.append(nn.MaxPool2d(2 ** (level - i), ceil_mode=True))
            elif i == level:
                self.resize.append(nn.Identity())
            else:
                self.resize.append(_enlarge(i - level))
        self.convs = nn.ModuleList(ConvNormAct(channels, each) for channels in inputs)
        self.fuse = ConvNormAct(each * len(inputs), each * len(inputs))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps of all levels, finest first -> (B, each x levels, H / 2^level, W / 2^level)."""
        steps = zip(self.resize, self.convs, maps, strict=True)
        fused: Tensor = self.fuse(torch.cat([conv(resize(map_)) for resize, conv, map_ in steps], dim=1))
        return fused


@register_network("unet_3plus", "U-Net whose decoder levels read every scale")
class UNet3Plus(Network):
    """U-Net encoder with full-scale skip connections.

    26,974,658 parameters and 791.364 GMAC at 3 x 512 x 512 with two classes (Huang et al. 2020, as
    LightBTSeg counted it; that paper prints 30.0 M, a misprint for 27.0). The head is a 3x3 convolution.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per encoder level, finest first; each scale adds widths[0] to each decoder level.
        deep_supervision: heads on the coarser decoder levels and the bottleneck too, up-sampled into `deep`.

    >>> UNet3Plus(1, 2, widths=(4, 8, 16))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        widths: tuple[int, ...] = FULL,
        deep_supervision: bool = False,
    ) -> None:
        require_widths(widths)
        depth = len(widths)
        super().__init__(in_channels, classes, size_divisor=2 ** (depth - 1))
        each = widths[0]
        decoded = [each * depth] * (depth - 1)
        self.feature_info = pyramid_info(
            [(width, 2**level) for level, width in enumerate(widths)],
            [(width, 2**level) for level, width in enumerate(decoded)],
        )
        self.encoder = Encoder(in_channels, widths)
        self.levels = nn.ModuleList(
            FullScaleLevel(level, [*widths[: level + 1], *decoded[level + 1 :], widths[-1]], each)
            for level in range(depth - 1)
        )
        heads = [*decoded, widths[-1]] if deep_supervision else decoded[:1]
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, classes, 3, padding=1),
                _enlarge(level) if level else nn.Identity(),
            )
            for level, channels in enumerate(heads)
        )

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.., dec1.."""
        self.check(image)
        encoded: list[Tensor] = self.encoder(image)
        maps = list(encoded)
        for level in reversed(range(len(self.levels))):
            maps[level] = self.levels[level]([*encoded[: level + 1], *maps[level + 1 :]])
        logits = [head(map_) for head, map_ in zip(self.heads, maps, strict=False)]
        return Output(logits[0], pyramid(encoded, maps[:-1]), deep=logits[1:])
