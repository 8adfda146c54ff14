"""The parts that U-shaped networks share: convolutions, up-sampling, attention gate, encoder, decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution of any stride: takes every stride-th pixel first, then convolves without a stride.

    The same parameters, values and cost as `nn.Conv2d(inputs, outputs, 1, stride)`. That one is
    not used: its CPU kernel (seen in torch 2.13, oneDNN) writes past its memory in the backward pass when the tensor is
    channels_last and has fewer than 16 channels.

    >>> import torch
    >>> PointwiseConv(4, 8, stride=2)(torch.zeros(2, 4, 5, 5)).shape
    torch.Size([2, 8, 3, 3])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        down, across = self.stride
        if down > 1 or across > 1:
            x = x[..., ::down, ::across]
        return F.conv2d(x, self.weight, self.bias)


def stem_channels(in_channels: int, repeat_grey: bool) -> int:
    """Channels of the first convolution: three for a grey image that is repeated.

    >>> stem_channels(1, repeat_grey=True), stem_channels(1, repeat_grey=False), stem_channels(3, True)
    (3, 1, 3)
    """
    return 3 if repeat_grey and in_channels == 1 else in_channels


def repeat_channels(image: Tensor, channels: int) -> Tensor:
    """A one-channel batch (B, 1, H, W) repeated to (B, channels, H, W); any other as it is.

    >>> import torch
    >>> repeat_channels(torch.zeros(2, 1, 4, 4), 3).shape
    torch.Size([2, 3, 4, 4])
    """
    return image if image.shape[1] == channels else image.repeat(1, channels, 1, 1)


def enlarge_like(x: Tensor, like: Tensor, *, corners: bool = False) -> Tensor:
    """`x` bilinearly at the height and width of `like`; `corners` aligns the corner pixels' centres.

    >>> enlarge_like(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 5, 3)).shape
    torch.Size([1, 1, 5, 3])
    """
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    enlarged: Tensor = F.interpolate(x, size=like.shape[2:], mode=mode, align_corners=corners)
    return enlarged


Block = Callable[[int, int], nn.Module]
"""Builds a block from its input and output channels."""


Dimensions = Literal[2, 3]
"""Of the images that a network takes: pictures and slices, or volumes."""


def layer(kind: str, dimensions: int) -> type[nn.Module]:
    """Torch's layer of this kind for pictures or volumes.

    >>> layer("Conv", 3).__name__
    'Conv3d'
    """
    found: type[nn.Module] = getattr(nn, f"{kind}{dimensions}d")
    return found


def norm_layer(channels: int, dimensions: int) -> nn.Module:
    """Batch normalisation for pictures; instance normalisation for volumes, of which a batch holds two or so."""
    return nn.BatchNorm2d(channels) if dimensions == 2 else nn.InstanceNorm3d(channels, affine=True)


class ConvNormAct(nn.Sequential):
    """k x k convolution, normalisation (`norm_layer`), ReLU (or ReLU6); the size stays when the stride is 1.

    >>> ConvNormAct(3, 8)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        act: type[nn.ReLU] | type[nn.ReLU6] = nn.ReLU,
        dimensions: int = 2,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            layer("Conv", dimensions)(inputs, outputs, kernel, stride, padding, dilation, groups, bias=bias),
            norm_layer(outputs, dimensions),
            act(inplace=True),
        )


class DoubleConv(nn.Sequential):
    """Two times (3x3 convolution with bias, batch normalisation, ReLU).

    >>> DoubleConv(3, 8)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(ConvNormAct(inputs, outputs, kernel), ConvNormAct(outputs, outputs, kernel))


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each normalised, added to the input (by a 1x1 convolution of other channels), then ReLU.

    Source: He et al. 2016, for volumes as in Kerfoot et al. 2018.

    >>> ResidualUnit(3, 8, dimensions=3)(torch.zeros(1, 3, 4, 4, 4)).shape
    torch.Size([1, 8, 4, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, dimensions: int = 2) -> None:
        super().__init__()
        conv = layer("Conv", dimensions)
        self.first = ConvNormAct(inputs, outputs, bias=False, dimensions=dimensions)
        self.second = nn.Sequential(
            conv(outputs, outputs, 3, padding=1, bias=False), norm_layer(outputs, dimensions)
        )
        self.skip = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...)."""
        found: Tensor = self.act(self.second(self.first(x)) + self.skip(x))
        return found


class PooledMap(nn.Module):
    """Average pooling to bins x bins cells, 1x1 convolution, batch norm, ReLU, bilinearly back to size.

    >>> PooledMap(8, 4, bins=2).eval()(torch.zeros(1, 8, 5, 7)).shape
    torch.Size([1, 4, 5, 7])
    """

    def __init__(self, inputs: int, outputs: int, bins: int = 1) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(bins)
        self.conv = ConvNormAct(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return enlarge_like(self.conv(self.pool(x)), x)


class UpConv(nn.Sequential):
    """Nearest up-sampling by 2, 3x3 convolution with bias, normalisation, ReLU.

    >>> UpConv(8, 4)(torch.zeros(1, 8, 2, 2)).shape
    torch.Size([1, 4, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, dimensions: int = 2) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"), *ConvNormAct(inputs, outputs, dimensions=dimensions)
        )


def _deconv2(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 2, 2)


def _deconv3(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1)


def _deconv4(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1)


def _bilinear(inputs: int, outputs: int) -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


UPSAMPLERS: dict[str, Block] = {
    "upsample": UpConv,
    "deconv2": _deconv2,
    "deconv3": _deconv3,
    "deconv4": _deconv4,
    "bilinear": _bilinear,
}
"""Ways to double the size: `UpConv`, a bare 2x2, 3x3 or 4x4 transposed convolution of stride 2, or bilinear
interpolation, which keeps the channels."""


class MaxUnpool(nn.Module):
    """Puts each value where max-pooling took it from, zeros elsewhere; unlike torch's, ONNX can express it.

    >>> pooled, where = nn.MaxPool2d(2, return_indices=True)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    >>> MaxUnpool()(pooled, where, (2, 2)).flatten().tolist()
    [0.0, 0.0, 0.0, 4.0]
    """

    def forward(self, pooled: Tensor, where: Tensor, size: Sequence[int]) -> Tensor:
        """`pooled` and the pooling's indices `where`, both (B, C, h, w) -> (B, C, *size)."""
        batch, channels = pooled.shape[:2]
        empty = pooled.new_zeros(batch, channels, size[0] * size[1])
        filled = empty.scatter(2, where.flatten(2), pooled.flatten(2))
        return filled.reshape(batch, channels, size[0], size[1])


class AttentionGate(nn.Module):
    """Additive attention on a skip connection (Attention U-Net), computed from the decoder's map.

    skip * sigmoid(BN(psi(ReLU(BN(W_g gate) + BN(W_x skip))))), all convolutions 1x1 with bias.

    >>> AttentionGate(gate=8, skip=8, inner=4)(torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, gate: int, skip: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(gate, inner, 1), nn.BatchNorm2d(inner))
        self.skip = nn.Sequential(nn.Conv2d(skip, inner, 1), nn.BatchNorm2d(inner))
        self.relu = nn.ReLU(inplace=True)
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Weights `skip` (B, skip, H, W) by `gate` (B, gate, H, W), of the same size."""
        weight: Tensor = self.psi(self.relu(self.gate(gate) + self.skip(skip)))
        return skip * weight


class Encoder(nn.Module):
    """Blocks with 2x2 max-pooling between them; returns one map per level, finest first.

    >>> [tuple(map.shape) for map in Encoder(3, (4, 8))(torch.zeros(1, 3, 4, 4))]
    [(1, 4, 4, 4), (1, 8, 2, 2)]
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], block: Block = DoubleConv, dimensions: int = 2
    ) -> None:
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        self.blocks = nn.ModuleList(block(i, o) for i, o in zip(inputs, widths, strict=True))
        self.pools = nn.ModuleList(layer("MaxPool", dimensions)(2) for _ in widths[1:])

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> maps at strides 1, 2, 4, ..."""
        maps = [self.blocks[0](image)]
        for pool, block in zip(self.pools, self.blocks[1:], strict=True):
            maps.append(block(pool(maps[-1])))
        return maps


class DecoderLevel(nn.Module):
    """Up-sample, gate the skip where `gate` is given, concatenate (skip first), block.

    >>> DecoderLevel(8, 4, 4)(torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, 4, 4)).shape
    torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        below: int,
        skip: int,
        outputs: int,
        *,
        gate: int | None = None,
        up: str = "upsample",
        block: Block = DoubleConv,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.up = UPSAMPLERS[up](below, outputs) if dimensions == 2 else UpConv(below, outputs, dimensions)
        raised = below if up == "bilinear" else outputs
        self.gate = AttentionGate(raised, skip, gate) if gate else None
        self.block = block(skip + raised, outputs)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """`below` (B, below, H/2, W/2) and `skip` (B, skip, H, W) -> (B, outputs, H, W)."""
        return self.join(self.up(below), skip)

    def join(self, up: Tensor, skip: Tensor) -> Tensor:
        """What follows the up-sampling: `up` and `skip` of the same size -> (B, outputs, H, W)."""
        if self.gate is not None:
            skip = self.gate(up, skip)
        joined: Tensor = self.block(torch.cat([skip, up], dim=1))
        return joined


class Decoder(nn.Module):
    """Levels from the deepest map back to the finest skip; each is as wide as its skip.

    Args:
        widths: channels of the encoder's maps, finest first.
        gates: inner widths of the attention gates, finest first, or None for plain skips.
        up: one of `UPSAMPLERS`; of volumes always "upsample".
        block: builds what follows each concatenation.
        dimensions: 2 for pictures, 3 for volumes.

    >>> maps = [torch.zeros(1, 4, 4, 4), torch.zeros(1, 8, 2, 2)]
    >>> [tuple(map.shape) for map in Decoder((4, 8))(maps)]
    [(1, 4, 4, 4)]
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        gates: Sequence[int] | None = None,
        up: str = "upsample",
        block: Block = DoubleConv,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            DecoderLevel(
                below, skip, skip, gate=gates[i] if gates else None, up=up, block=block, dimensions=dimensions
            )
            for i, (skip, below) in enumerate(pairwise(widths))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The encoder's maps, finest first -> decoded maps, finest first (one fewer)."""
        return self.steps(maps)[1]

    def steps(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As `forward`, but with the up-sampled maps before they meet their skips, finest first, in front."""
        current = maps[-1]
        raised: list[Tensor] = []
        decoded: list[Tensor] = []
        levels = cast("Iterable[DecoderLevel]", reversed(self.levels))
        for level, skip in zip(levels, reversed(maps[:-1]), strict=True):
            raised.insert(0, level.up(current))
            current = level.join(raised[0], skip)
            decoded.insert(0, current)
        return raised, decoded
