"""The Xception-65 encoder of DeepLabV3+: residual blocks of depthwise separable convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct
from segdistill.models.network import require_positive
from segdistill.models.pointwise import PointwiseConv


def separable(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """3x3 depthwise convolution, batch norm, 1x1 convolution, batch norm; no bias.

    >>> len(separable(4, 8))
    4
    """
    return [
        nn.Conv2d(inputs, inputs, 3, stride, dilation, dilation, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class XceptionBlock(nn.Module):
    """Three separable convolutions with a ReLU before each, and a shortcut.

    Args:
        inputs: channels that come in.
        outputs: channels after each of the three convolutions.
        stride: of the last convolution.
        dilation: of all three.
        lead: False leaves out the first ReLU, where the input has been through one.
        bare_second: no batch norm after the second one's 1x1 convolution, as in the exit flow that was counted.

    >>> import torch
    >>> XceptionBlock(4, (8, 8, 8), stride=2).eval()(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: tuple[int, int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        lead: bool = True,
        bare_second: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = inputs
        for i, out in enumerate(outputs):
            if i or lead:
                layers.append(
                    nn.ReLU(inplace=i > 0)
                )  # not in place on the block's input: the shortcut needs it
            layers += separable(width, out, stride=stride if i == len(outputs) - 1 else 1, dilation=dilation)
            if i == 1 and bare_second:
                layers.pop()
            width = out
        self.body = nn.Sequential(*layers)
        same = stride == 1 and inputs == width
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(PointwiseConv(inputs, width, stride=stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs[-1], H / stride, W / stride)."""
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Xception65(nn.Module):
    """Entry, middle and exit flow at an eighth of the size; returns the maps that DeepLabV3+ uses.

    Args:
        in_channels: channels of the image.
        base: channels of the first convolution, 32 in the literature; all other widths scale with it.
        middle: blocks of the middle flow, 16 in the literature.

    Attributes:
        channels: channels of the four maps, finest first.
        strides: their strides.

    >>> import torch
    >>> maps = Xception65(3, base=4, middle=1).eval()(torch.zeros(1, 3, 16, 16))
    >>> [tuple(map.shape[1:]) for map in maps]
    [(4, 8, 8), (16, 4, 4), (91, 2, 2), (256, 2, 2)]
    """

    def __init__(self, in_channels: int = 3, *, base: int = 32, middle: int = 16) -> None:
        super().__init__()
        require_positive(base=base, middle=middle)
        w64, w128, w256, w728, w1024, w1536, w2048 = (
            max(1, base * width // 32) for width in (64, 128, 256, 728, 1024, 1536, 2048)
        )
        self.channels, self.strides = [base, w128, w728, w2048], [2, 4, 8, 8]
        self.first = ConvNormAct(in_channels, base, stride=2, bias=False)
        self.second = ConvNormAct(base, w64, bias=False)
        self.entry1 = XceptionBlock(w64, (w128,) * 3, stride=2, lead=False)
        self.relu = nn.ReLU(inplace=True)
        self.entry2 = XceptionBlock(w128, (w256,) * 3, stride=2, lead=False)
        self.entry3 = XceptionBlock(w256, (w728,) * 3)
        self.middle = nn.ModuleList(XceptionBlock(w728, (w728,) * 3, dilation=2) for _ in range(middle))
        self.exit = XceptionBlock(w728, (w728, w1024, w1024), dilation=2, bare_second=True)
        last: list[nn.Module] = []
        for inputs, outputs in ((w1024, w1536), (w1536, w1536), (w1536, w2048)):
            last += [*separable(inputs, outputs, dilation=4), nn.ReLU(inplace=True)]
        self.last = nn.Sequential(nn.ReLU(), *last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the stem's map, the low-level map, the middle flow's and the last one."""
        first = self.first(image)
        low = self.relu(self.entry1(self.second(first)))
        current = self.entry3(self.entry2(low))
        for block in self.middle:
            current = block(current)
        return [first, low, current, self.last(self.exit(current))]
