"""U-Net and its variants: LightBTSeg's student, attention gates, US-SEG's generator, mask and class in one."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import Decoder, Dimensions, DoubleConv, Encoder, ResidualUnit, layer
from segdistill.models.lesion_map import lesion_probability
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_positive, require_widths
from segdistill.models.registry import register_network

FULL = (64, 128, 256, 512, 1024)
QUARTER = (16, 32, 64, 128, 256)


@register_network("unet", "U-Net, nearest up-sampling with 3x3 convolutions; for volumes with residual units")
class UNet(Network):
    """U-Net: double convolutions, max-pooling, nearest up-sampling with a 3x3 convolution, joined skips.

    For volumes each level is a residual unit, and features are normalised per volume.

    34,527,106 parameters and 261.406 GMAC at 3 x 512 x 512 with two classes (Ronneberger et al. 2015, as
    LightBTSeg counted it).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first; n levels need sizes divisible by 2^(n - 1).
        dimensions: 2 for pictures and slices, 3 for volumes.

    >>> import torch
    >>> UNet(1, 2, widths=(4, 8, 16))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    >>> UNet(1, 3, widths=(4, 8), dimensions=3)(torch.zeros(1, 1, 8, 8, 8)).logits.shape
    torch.Size([1, 3, 8, 8, 8])
    """

    up = "upsample"

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        widths: tuple[int, ...] = FULL,
        dimensions: Dimensions = 2,
    ) -> None:
        require_widths(widths)
        super().__init__(in_channels, classes, 2 ** (len(widths) - 1), dimensions=dimensions)
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        block = DoubleConv if dimensions == 2 else partial(ResidualUnit, dimensions=3)
        self.encoder = Encoder(in_channels, widths, block, dimensions)
        self.decoder = Decoder(
            widths, gates=self.gate_widths(widths), up=self.up, block=block, dimensions=dimensions
        )
        self.head = layer("Conv", dimensions)(widths[0], classes, 1)

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


@register_network("simplified_unet", "U-Net, quarter width: LightBTSeg's student")
class SimplifiedUNet(UNet):
    """The LightBTSeg student, a U-Net of a quarter of the width: 16.429 GMAC at 3 x 512 x 512.

    >>> sum(p.numel() for p in SimplifiedUNet(3, 2).parameters())
    2162146
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, widths: tuple[int, ...] = QUARTER) -> None:
        super().__init__(in_channels, classes, widths=widths)


@register_network("attention_unet", "U-Net with an attention gate on each skip")
class AttentionUNet(UNet):
    """U-Net with an attention gate on each skip, driven by the up-sampled decoder map.

    Gates are half as wide as their skip. 34,878,638 parameters and 265.717 GMAC at 3 x 512 x 512 with two
    classes (Oktay et al. 2018, as LightBTSeg counted it).

    >>> import torch
    >>> AttentionUNet(1, 1, widths=(4, 8))(torch.zeros(1, 1, 8, 8)).features["decoder"].shape
    torch.Size([1, 4, 8, 8])
    """

    @staticmethod
    def gate_widths(widths: tuple[int, ...]) -> list[int] | None:
        """Half of each skip, at least one channel."""
        return [max(1, width // 2) for width in widths[:-1]]


@register_network(
    "us_unet",
    "U-Net with a head on every decoder stage: US-SEG's generator",
    presets={"published": {"stages": 1}},
)
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


@register_network("simplified_unet_joint", "U-Net, quarter width, with a class for the image", kind="joint")
class SimplifiedUNetJoint(SimplifiedUNet):
    """Mask and class in one network: the deepest map, weighted by the mask as in LA-Net, pooled, one linear layer.

    2,162,660 parameters at three channels and two labels, 514 more than the simplified U-Net.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits (the mask's classes).
        labels: classes of the whole image.
        mam: the classifier sees f + f x mask instead of f (LA-Net's mask attention, without parameters).
        widths: channels per level, finest first.

    >>> import torch
    >>> output = SimplifiedUNetJoint(1, 2, widths=(4, 8, 16))(torch.zeros(2, 1, 8, 8))
    >>> output.logits.shape, output.label.shape
    (torch.Size([2, 2, 8, 8]), torch.Size([2, 2]))
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        labels: int = 2,
        mam: bool = True,
        widths: tuple[int, ...] = QUARTER,
    ) -> None:
        super().__init__(in_channels, classes, widths=widths)
        require_positive(labels=labels)
        self.mam = mam
        self.classifier = nn.Linear(widths[-1], labels)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), label (B, labels) and the U-Net's features."""
        output = super().forward(image)
        assert output.logits is not None
        deepest = output.features["encoder"]
        if self.mam:
            lesion = F.avg_pool2d(lesion_probability(output.logits), self.size_divisor)
            deepest = deepest + deepest * lesion
        return output._replace(label=self.classifier(deepest.mean(dim=(2, 3))))
