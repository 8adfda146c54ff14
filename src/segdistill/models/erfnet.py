"""ERFNet: factorised residual convolutions at an eighth of the size and a light decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_share
from segdistill.models.registry import register_network

EPS = 1e-3
DILATIONS = (2, 4, 8, 16) * 2
"""Dilations of the blocks at an eighth of the size."""
WIDTHS = (16, 64, 128)


class Down(nn.Module):
    """A strided 3x3 convolution beside a 2x2 max-pooling, joined, normalised, ReLU.

    >>> Down(3, 8)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 8, 2, 2])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/2, W/2)."""
        return F.relu(self.norm(torch.cat([self.conv(x), self.pool(x)], dim=1)))


class FactorisedResidual(nn.Module):
    """Two 3x3 convolutions, each as a column and a row, the second one dilated, added to the input.

    >>> FactorisedResidual(4, dilation=2)(torch.zeros(2, 4, 4, 4)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(self, channels: int, *, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.column1, self.row1 = _column_and_row(channels, 1)
        self.norm1 = nn.BatchNorm2d(channels, eps=EPS)
        self.column2, self.row2 = _column_and_row(channels, dilation)
        self.norm2 = nn.BatchNorm2d(channels, eps=EPS)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        out = F.relu(self.norm1(self.row1(F.relu(self.column1(x)))))
        out = self.norm2(self.row2(F.relu(self.column2(out))))
        return F.relu(self.dropout(out) + x)


def _column_and_row(channels: int, dilation: int) -> tuple[nn.Module, nn.Module]:
    return (
        nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1)),
        nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation)),
    )


class Up(nn.Module):
    """A strided 3x3 transposed convolution, normalised, ReLU, and two factorised residual blocks.

    >>> Up(8, 4)(torch.zeros(2, 8, 2, 2)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1)
        self.norm = nn.BatchNorm2d(outputs, eps=EPS)
        self.blocks = nn.Sequential(FactorisedResidual(outputs), FactorisedResidual(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2H, 2W)."""
        out: Tensor = self.blocks(F.relu(self.norm(self.conv(x))))
        return out


@register_network(
    "erfnet",
    "factorised residual convolutions: a student of LightVessel",
    presets={"published": {"unused_layers": True}},
)
class ERFNet(Network):
    """Down-sampling blocks, factorised residual blocks with dilations 2 to 16, transposed convolutions.

    2,063,130 parameters (preset `published`: 258 of them in a 1x1 convolution that never runs) and 3.304
    GMAC at 1 x 256 x 256 with two classes (Romera et al. 2018, as LightVessel counted it).

    Args:
        in_channels: channels of the image, at most 15.
        classes: channels of the logits.
        dropout: share of channels dropped in training at an eighth of the size; a tenth of it at a quarter.
        unused_layers: declares the encoder's own classifier, which never runs.

    Besides the common names, features are "pair_encoder" and "pair_decoder" (LightVessel's symmetric pair at
    a quarter of the size).

    >>> ERFNet(1, 2)(torch.zeros(2, 1, 16, 16)).logits.shape
    torch.Size([2, 2, 16, 16])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        dropout: float = 0.3,
        unused_layers: bool = False,
    ) -> None:
        super().__init__(in_channels, classes, size_divisor=8)
        require_share(dropout=dropout)
        first, second, third = WIDTHS
        if in_channels >= first:
            raise InputError(f"erfnet takes at most {first - 1} input channels, not {in_channels}")
        encoder, decoder = [(first, 2), (second, 4), (third, 8)], [(first, 2), (second, 4)]
        self.feature_info = pyramid_info(encoder, decoder, pair_encoder=encoder[1], pair_decoder=decoder[1])
        early = (FactorisedResidual(second, dropout=dropout / 10) for _ in range(5))
        late = (FactorisedResidual(third, dilation=dilation, dropout=dropout) for dilation in DILATIONS)
        self.encoder = nn.ModuleList(
            [
                Down(in_channels, first),
                nn.Sequential(Down(first, second), *early),
                nn.Sequential(Down(second, third), *late),
            ]
        )
        self.up2, self.up1 = Up(third, second), Up(second, first)
        self.head = nn.ConvTranspose2d(first, classes, 2, 2)
        if unused_layers:
            self.unused = nn.Conv2d(third, classes, 1)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        half = self.encoder[0](image)
        quarter = self.encoder[1](half)
        eighth = self.encoder[2](quarter)
        up2 = self.up2(eighth)
        up1 = self.up1(up2)
        features = pyramid([half, quarter, eighth], [up1, up2], pair_encoder=quarter, pair_decoder=up2)
        return Output(self.head(up1), features)
