"""MSU-Net: a U-Net whose blocks convolve with two kernel sizes in parallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.models.blocks import Decoder, DoubleConv, Encoder
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_widths
from segdistill.models.registry import register_network


class MultiScaleBlock(nn.Module):
    """A double 3x3 and a double 7x7 convolution side by side, joined and fused by a 1x1 convolution.

    >>> MultiScaleBlock(3, 8)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.near = DoubleConv(inputs, outputs, 3)
        self.far = DoubleConv(inputs, outputs, 7)
        self.fuse = nn.Conv2d(2 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        fused: Tensor = self.fuse(torch.cat([self.near(x), self.far(x)], dim=1))
        return fused


@register_network("msu_net", "U-Net of parallel 3x3 and 7x7 double convolutions")
class MSUNet(Network):
    """U-Net of 32 to 512 channels with multi-scale blocks and 2x2 transposed convolutions.

    47,084,545 parameters and 75.82 GMAC at 1 x 256 x 256 with one class (Su et al. 2021).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first.

    >>> MSUNet(1, 2, widths=(4, 8))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self, in_channels: int = 3, classes: int = 2, *, widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    ) -> None:
        require_widths(widths)
        super().__init__(in_channels, classes, size_divisor=2 ** (len(widths) - 1))
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        self.encoder = Encoder(in_channels, widths, block=MultiScaleBlock)
        self.decoder = Decoder(widths, up="deconv2", block=MultiScaleBlock)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.., dec1.."""
        self.check(image)
        encoded = self.encoder(image)
        decoded = self.decoder(encoded)
        return Output(self.head(decoded[0]), pyramid(encoded, decoded))
