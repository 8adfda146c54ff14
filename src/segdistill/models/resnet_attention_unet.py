"""The LightBTSeg teacher: an Attention U-Net on a ResNet encoder."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segdistill.models.blocks import Decoder
from segdistill.models.network import Network, Output, levels_of, pyramid, pyramid_info
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet

PUBLISHED_GATES = (32, 64, 256, 512)
"""Gate widths at depth 101, finest first, as its counts settle them: the second is not half its skip."""


@register_network("resnet_attention_unet", "ResNet encoder, gated skips: LightBTSeg's teacher")
@register_network(
    "resnet101_attention_unet", "LightBTSeg's teacher at its published depth", fixed={"depth": 101}
)
class ResNetAttentionUNet(Network):
    """ResNet encoder, four decoder levels as wide as their skips, an attention gate on each skip.

    The decoder ends at half resolution; the logits are brought to full size by bilinear interpolation. At
    depth 101: 106,060,206 parameters and 205.580 GMAC at 3 x 512 x 512 with two classes (Guo et al.,
    LightBTSeg, Table I). At any other depth every gate is half as wide as its skip.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        depth: 18, 34, 50 or 101.
        decoder_up: "upsample" (nearest, then 3x3 convolution, as counted in the paper), or "deconv3" (3x3
            transposed convolution, as in the paper's text: a quarter fewer MACs).
        base: planes of the encoder's first stage; less than 64 for tests and tiny teachers.

    >>> import torch
    >>> ResNetAttentionUNet(1, 2, depth=18, base=8).eval()(torch.zeros(1, 1, 32, 32)).logits.shape
    torch.Size([1, 2, 32, 32])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        depth: Literal[18, 34, 50, 101] = 101,
        decoder_up: Literal["upsample", "deconv3"] = "upsample",
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes, size_divisor=32)
        self.encoder = ResNet(depth, in_channels, base=base)
        widths = self.encoder.channels
        levels = levels_of(self.encoder)
        self.feature_info = pyramid_info(levels, levels[:-1])
        published = depth == 101 and base == 64
        gates = PUBLISHED_GATES if published else [max(1, width // 2) for width in widths[:-1]]
        self.decoder = Decoder(widths, gates=gates, up=decoder_up)
        self.head = nn.Conv2d(widths[0], classes, 1)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.. (stem first), dec1.."""
        self.check(image)
        encoded = self.encoder(image)
        decoded = self.decoder(encoded)
        return Output(self.enlarge(self.head(decoded[0])), pyramid(encoded, decoded))
