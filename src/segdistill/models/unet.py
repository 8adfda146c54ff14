"""U-Net as LightBTSeg counted it, and its quarter-width student, the simplified U-Net."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.models.blocks import Decoder, Encoder
from segdistill.models.network import Network, require_widths
from segdistill.models.output import Output, pyramid, pyramid_info

FULL = (64, 128, 256, 512, 1024)
QUARTER = (16, 32, 64, 128, 256)


class UNet(Network):
    """U-Net: double convolutions, max-pooling, nearest up-sampling with a 3x3 convolution, joined skips.

    34,527,106 parameters and 261.406 GMAC at 3 x 512 x 512 with two classes (Ronneberger et al. 2015, as
    LightBTSeg counted it).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first; n levels need sizes divisible by 2^(n - 1).

    >>> import torch
    >>> UNet(1, 2, widths=(4, 8, 16))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    """

    up = "upsample"

    def __init__(self, in_channels: int = 3, classes: int = 2, *, widths: tuple[int, ...] = FULL) -> None:
        require_widths(widths)
        super().__init__(in_channels, classes, size_divisor=2 ** (len(widths) - 1))
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        self.encoder = Encoder(in_channels, widths)
        self.decoder = Decoder(widths, gates=self.gate_widths(widths), up=self.up)
        self.head = nn.Conv2d(widths[0], classes, 1)

    @staticmethod
    def gate_widths(widths: tuple[int, ...]) -> list[int] | None:
        """Inner widths of attention gates on the skips, finest first; None for plain skips."""
        return None

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.., dec1.."""
        self.check(image)
        encoded = self.encoder(image)
        decoded = self.decoder(encoded)
        return Output(self.head(decoded[0]), pyramid(encoded, decoded))


class SimplifiedUNet(UNet):
    """The LightBTSeg student, a U-Net of a quarter of the width: 16.429 GMAC at 3 x 512 x 512.

    >>> sum(p.numel() for p in SimplifiedUNet(3, 2).parameters())
    2162146
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, widths: tuple[int, ...] = QUARTER) -> None:
        super().__init__(in_channels, classes, widths=widths)
