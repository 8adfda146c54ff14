"""A small U-Net whose shape was chosen by its milliseconds on a CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct, Dimensions, layer
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_positive, require_widths
from segdistill.models.registry import register_network

WIDTHS = (16, 32, 64, 128, 256)
LEVEL_BLOCKS = 2
"""Blocks per level of encoder and decoder; the first level of the encoder has one, since the stem is before it."""
PRESETS = {
    "tiny": {"stem": 4, "widths": [16, 32, 32, 32]},
    "small": {"stem": 4, "widths": [16, 32, 64, 128]},
    "medium": {"stem": 2, "widths": [16, 32, 64, 128, 256]},
    "large": {"stem": 2, "widths": [16, 32, 64, 128, 256], "expansion": 2},
    "huge": {"stem": 2, "widths": [32, 64, 128, 256, 512]},
    "volume_large": {"stem": 1, "widths": [16, 32, 64, 96], "dimensions": 3},
    "volume_medium": {"stem": 1, "widths": [8, 16, 32, 48], "dimensions": 3},
    "volume_wide": {"stem": 2, "widths": [32, 64, 96], "dimensions": 3},
    "volume_small": {"stem": 1, "widths": [5, 10, 20, 28], "dimensions": 3},
    "volume_half": {"stem": 2, "widths": [16, 32, 64], "dimensions": 3},
    "volume_tiny": {"stem": 2, "widths": [8, 16, 32], "dimensions": 3},
}
"""Sizes by name; milliseconds in the docstring of `LiteUNet`."""


class SeparableBlock(nn.Module):
    """Depthwise 3x3, then 1x1 convolutions; the input is added where the channels are the same.

    With `expansion` 1 there is one 1x1 convolution, with more there are two, with that many times the channels between
    them. No activation follows the depthwise convolution.

    Source: Howard et al. 2017 (depthwise separable convolutions); the expansion after the depthwise convolution as in
    Liu et al. 2022 (ConvNeXt).

    >>> import torch
    >>> SeparableBlock(4, 8, expansion=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, expansion: int = 1) -> None:
        super().__init__()
        self.residual = inputs == outputs
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        inner = outputs if expansion == 1 else inputs * expansion
        self.pointwise = ConvNormAct(inputs, inner, 1, bias=False)
        if expansion > 1:
            self.pointwise.append(nn.Conv2d(inner, outputs, 1, bias=False))
            self.pointwise.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        out: Tensor = self.pointwise(self.norm(self.depthwise(x)))
        return x + out if self.residual else out


class PlainBlock(nn.Module):
    """One 3x3x3 convolution, normalised, with ReLU; the input is added where the channels are the same.

    >>> import torch
    >>> PlainBlock(4, 8)(torch.zeros(1, 4, 4, 4, 4)).shape
    torch.Size([1, 8, 4, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = inputs == outputs
        self.conv = ConvNormAct(inputs, outputs, bias=False, dimensions=3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, D, H, W) -> (B, outputs, D, H, W)."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def lite_block(inputs: int, outputs: int, expansion: int, dimensions: int) -> nn.Module:
    """A block for pictures or for volumes, where depthwise convolutions take longer than plain ones.

    >>> type(lite_block(4, 4, 1, 3)).__name__
    'PlainBlock'
    """
    if dimensions == 3:
        return PlainBlock(inputs, outputs)
    return SeparableBlock(inputs, outputs, expansion=expansion)


class LiteLevel(nn.Module):
    """A decoder level: 1x1 convolution to the skip's width, nearest up-sampling, the skip added, blocks.

    >>> import torch
    >>> LiteLevel(8, 4)(torch.zeros(2, 8, 2, 2), torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(self, below: int, skip: int, *, expansion: int = 1, dimensions: int = 2) -> None:
        super().__init__()
        self.narrow = ConvNormAct(below, skip, 1, bias=False, dimensions=dimensions)
        self.blocks = nn.Sequential(
            *(lite_block(skip, skip, expansion, dimensions) for _ in range(LEVEL_BLOCKS))
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`below` (B, below, H/2, W/2) and `skip` (B, skip, H, W) -> (B, skip, H, W)."""
        joined: Tensor = self.blocks(
            F.interpolate(self.narrow(below), scale_factor=2.0, mode="nearest") + skip
        )
        return joined


@register_network(
    "lite_unet", "small U-Net, 0.02 M to 0.9 M, chosen by milliseconds on a CPU", presets=PRESETS
)
class LiteUNet(Network):
    """U-Net of depthwise separable convolutions behind a strided stem, for one thread of a CPU.

    The stem halves or quarters the size at once, the decoder ends there, and the logits are enlarged bilinearly: full
    size is where a CPU spends most of its time. Skips are added, not concatenated. Widths are multiples of 16, since
    the convolutions of ONNX Runtime work on 8 or 16 channels at a time: fewer are hardly faster. The model file has
    only the operators Conv, Relu, Add, MaxPool and Resize before its softmax, so int8 has nothing to leave out.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first; n levels need sizes divisible by stem * 2^(n - 1).
        stem: stride of the stem, 1, 2 or 4.
        expansion: how many times its channels a block has between its 1x1 convolutions; 1: it has only one of them.
        dimensions: 2 for pictures and slices. 3 for volumes: blocks are plain 3x3x3 convolutions then, since on a CPU a
            depthwise one takes 1.7 times as long (16 channels of 40x56x40, one thread, torch 2.13), and features are
            normalised per volume.

    The presets, medium being the default, with milliseconds of one thread in ONNX Runtime, and what `simplified_unet`
    needs for as many parameters in the same run (benchmarks/lite_unet.py, docs/results/lite-unet.md):

    ====== ========== ======== ======== ======================== ========================
    preset parameters ms, 128² ms, 256² simplified_unet, ms 128² simplified_unet, ms 256²
    ====== ========== ======== ======== ======================== ========================
    tiny   20,658     1.08     3.1      3.6 (its smallest)       14 (its smallest)
    small  64,786     1.20     3.3      4.6                      17
    medium 235,122    2.02     6.4      8.3                      31
    large  719,474    3.09     10.7     13.6                     48
    huge   905,954    4.06     14.6     16.6                     58
    ====== ========== ======== ======== ======================== ========================

    Those of volumes take patches whose sides are multiples of 8; milliseconds of one thread in ONNX Runtime for a patch
    of 40x56x40 (processor time on a busy machine; `segdistill shrink` measures them on yours):

    ============= ========== === ============= ========== ===
    preset        parameters ms  preset        parameters ms
    ============= ========== === ============= ========== ===
    volume_large  929,970    173 volume_small  86,982     49
    volume_medium 232,986    80  volume_half   287,154    27
    volume_wide   895,202    59  volume_tiny   72,090     15
    ============= ========== === ============= ========== ===

    Source: Ronneberger et al. 2015 (U-Net); blocks as in `SeparableBlock`.

    >>> import torch
    >>> LiteUNet(1, 2, widths=(8, 16))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        widths: tuple[int, ...] = WIDTHS,
        stem: Literal[1, 2, 4] = 2,
        expansion: int = 1,
        dimensions: Dimensions = 2,
    ) -> None:
        require_widths(widths)
        require_positive(expansion=expansion)
        super().__init__(in_channels, classes, stem * 2 ** (len(widths) - 1), dimensions=dimensions)
        levels = [(width, stem * 2**level) for level, width in enumerate(widths)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        first = [widths[0]] * (2 if stem == 4 else 1)
        steps = pairwise([in_channels, *first])
        stride = min(stem, 2)
        self.stem = nn.Sequential(
            *(ConvNormAct(i, o, stride=stride, bias=False, dimensions=dimensions) for i, o in steps)
        )
        self.encoder = nn.ModuleList([lite_block(widths[0], widths[0], expansion, dimensions)])
        for inputs, outputs in pairwise(widths):
            blocks = [lite_block(inputs, outputs, expansion, dimensions)]
            blocks += [lite_block(outputs, outputs, expansion, dimensions) for _ in range(LEVEL_BLOCKS - 1)]
            self.encoder.append(nn.Sequential(layer("MaxPool", dimensions)(2), *blocks))
        self.decoder = nn.ModuleList(
            LiteLevel(below, skip, expansion=expansion, dimensions=dimensions)
            for skip, below in pairwise(widths)
        )
        self.head = layer("Conv", dimensions)(widths[0], classes, 1)
        mode = "bilinear" if dimensions == 2 else "trilinear"
        self.enlarge = (
            nn.Identity() if stem == 1 else nn.Upsample(scale_factor=stem, mode=mode, align_corners=False)
        )

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and features enc1.., dec1.. from the stem's stride on."""
        self.check(image)
        current = self.stem(image)
        encoded: list[Tensor] = []
        for level in self.encoder:
            current = level(current)
            encoded.append(current)
        decoded: list[Tensor] = []
        for level, skip in zip(reversed(self.decoder), reversed(encoded[:-1]), strict=True):
            current = level(current, skip)
            decoded.insert(0, current)
        return Output(self.enlarge(self.head(current)), pyramid(encoded, decoded))
