"""US-SEG's generator: a U-Net with a head on every decoder stage."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.output import Output
from segdistill.models.unet import FULL, UNet


class USUNet(UNet):
    """U-Net with 2x2 transposed convolutions and deep-supervision heads.

    31,043,268 parameters at one input channel and one class: 31,042,369 of the network, the rest in three
    more heads (Li et al., US-SEG). `deep` holds the logits of the coarser stages at their own size, finest
    first: what is compared with the mask is the up-sampled probability, not an up-sampled logit.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first.
        stages: decoder stages with a head, counted from the finest; None for all.

    >>> import torch
    >>> output = USUNet(1, 1, widths=(4, 8, 16))(torch.zeros(1, 1, 8, 8))
    >>> output.logits.shape, [tuple(level.shape) for level in output.deep]
    (torch.Size([1, 1, 8, 8]), [(1, 1, 4, 4)])
    """

    up = "deconv2"

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        widths: tuple[int, ...] = FULL,
        stages: int | None = None,
    ) -> None:
        super().__init__(in_channels, classes, widths=widths)
        stages = len(widths) - 1 if stages is None else stages
        if not 1 <= stages < len(widths):
            raise InputError(f"stages is {stages}: this network has 1 to {len(widths) - 1} decoder stages")
        self.deep_heads = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths[1:stages])

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), `deep`, and features enc1.., dec1.."""
        output = super().forward(image)
        deep = [head(output.features[f"dec{i}"]) for i, head in enumerate(self.deep_heads, 2)]
        return output._replace(deep=deep)
