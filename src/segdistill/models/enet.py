"""ENet in the two forms that the papers counted: LightVessel's (the common one) and AMTD's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import MaxUnpool, repeat_channels, stem_channels
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_share
from segdistill.models.registry import register_network

Dialect = Literal["lightvessel", "amtd"]
Act = Callable[[], nn.Module]

FIRST = 16
"""Channels of the initial block, those of the pooled image included."""
ASYMMETRIC = 0
MIDDLES = (1, 2, ASYMMETRIC, 4, 1, 8, ASYMMETRIC, 16)
"""The middle convolutions of stages 2 and 3: a 3x3 of that dilation, or a 5x1 and a 1x5."""
SKIPPED = 4
"""The bottleneck of stage 3 that AMTD's network declares and never runs."""


def _conv(
    inputs: int, outputs: int, kernel: int = 1, act: Act | None = None, **shape: Any
) -> list[nn.Module]:
    """Convolution without bias, batch normalisation, and the activation if there is one."""
    layers = [nn.Conv2d(inputs, outputs, kernel, bias=False, **shape), nn.BatchNorm2d(outputs)]
    return [*layers, act()] if act else layers


def _middle(width: int, dilation: int, act: Act, dialect: Dialect) -> list[nn.Module]:
    if dilation != ASYMMETRIC:
        return _conv(width, width, 3, act, padding=dilation, dilation=dilation)
    column = nn.Conv2d(width, width, (5, 1), padding=(2, 0), bias=False)
    row = nn.Conv2d(width, width, (1, 5), padding=(0, 2), bias=False)
    between = [nn.BatchNorm2d(width), act()] if dialect == "lightvessel" else []
    return [column, *between, row, nn.BatchNorm2d(width), act()]


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, the middle convolution, 1x1 back, added to the input.

    >>> Bottleneck(8, "amtd", nn.PReLU, dilation=ASYMMETRIC)(torch.zeros(2, 8, 4, 4)).shape
    torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self, channels: int, dialect: Dialect, act: Act, *, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        inner = channels // 4
        self.body = nn.Sequential(
            *_conv(channels, inner, act=act),
            *_middle(inner, dilation, act, dialect),
            *_conv(inner, channels, act=act if dialect == "lightvessel" else None),
            nn.Dropout2d(dropout),
        )
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        out: Tensor = self.act(self.body(x) + x)
        return out


class Down(nn.Module):
    """Halves the size; the shortcut is max-pooled and its places are kept for unpooling.

    LightVessel: zeros fill the shortcut's missing channels. AMTD: a 1x1 convolution does.

    >>> out, where = Down(4, 8, "lightvessel")(torch.zeros(2, 4, 4, 4))
    >>> out.shape, where.shape
    (torch.Size([2, 8, 2, 2]), torch.Size([2, 4, 2, 2]))
    """

    def __init__(self, inputs: int, outputs: int, dialect: Dialect, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        if dialect == "lightvessel":
            inner = inputs // 4
            layers = [
                *_conv(inputs, inner, 2, nn.PReLU, stride=2),
                *_conv(inner, inner, 3, nn.PReLU, padding=1),
                *_conv(inner, outputs, act=nn.PReLU),
            ]
            self.project: nn.Module = nn.ConstantPad3d((0, 0, 0, 0, 0, outputs - inputs), 0.0)
        else:
            inner = outputs // 4
            layers = [
                *_conv(inputs, inner, act=nn.PReLU),
                *_conv(inner, inner, 2, nn.PReLU, stride=2),
                *_conv(inner, outputs),
            ]
            self.project = nn.Sequential(*_conv(inputs, outputs))
        self.body = nn.Sequential(*layers, nn.Dropout2d(dropout))
        self.act = nn.PReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) -> (B, outputs, H/2, W/2) and the pooling's indices (B, inputs, H/2, W/2)."""
        shortcut, where = self.pool(x)
        return self.act(self.body(x) + self.project(shortcut)), where


class Up(nn.Module):
    """Doubles the size; the shortcut is unpooled to where `Down` found its values.

    >>> where = torch.zeros(2, 4, 2, 2, dtype=torch.int64)
    >>> Up(8, 4, inner=2, act=nn.ReLU)(torch.zeros(2, 8, 2, 2), where, torch.Size((4, 4))).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, *, inner: int, act: Act, dropout: float = 0.0) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(*_conv(inputs, outputs))
        self.unpool = MaxUnpool()
        self.body = nn.Sequential(
            *_conv(inputs, inner, act=act),
            nn.ConvTranspose2d(inner, inner, 2, 2, bias=False),
            nn.BatchNorm2d(inner),
            act(),
            *_conv(inner, outputs),
            nn.Dropout2d(dropout),
        )
        self.act = act()

    def forward(self, x: Tensor, where: Tensor, size: torch.Size) -> Tensor:
        """(B, inputs, H, W) and the indices of `Down` -> (B, outputs, *size)."""
        out: Tensor = self.act(self.body(x) + self.unpool(self.shortcut(x), where, size))
        return out


@register_network(
    "enet",
    "thin dilated bottlenecks, unpooling by index: a student of AMTD and LightVessel",
    presets={
        "lightvessel": {"dialect": "lightvessel"},
        "amtd": {"dialect": "amtd", "repeat_grey": True},
        "amtd_published": {"dialect": "amtd", "repeat_grey": True, "unused_layers": True},
    },
)
class ENet(Network):
    """ENet: early down-sampling, thin dilated bottlenecks, a small decoder that unpools by index.

    At two classes 348,996 parameters and 0.4610 GMAC at 1 x 256 x 256 (preset `lightvessel`, the default
    form), and 353,761 and 1.0239 GMAC at 1 x 384 x 384 (preset `amtd_published`, which counts a bottleneck
    that never runs; `amtd` leaves it out). Paszke et al. 2016; the two forms differ in the shortcuts, in
    the inner widths where the size changes, and in the decoder's activation.

    Args:
        in_channels: channels of the image, at most 15.
        classes: channels of the logits.
        dialect: "lightvessel" or "amtd".
        repeat_grey: a one-channel image is repeated three times, as in AMTD.
        dropout: share of channels dropped in training from stage 2 on; a tenth of it in stage 1.
        unused_layers: declares AMTD's fifth bottleneck of stage 3, which never runs.

    Besides the common names, features are "low" and "high" (AMTD), and "pair_encoder" and "pair_decoder"
    (LightVessel's symmetric pair at a quarter of the size).

    >>> ENet(1, 2)(torch.zeros(2, 1, 16, 16)).logits.shape
    torch.Size([2, 2, 16, 16])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        dialect: Dialect = "lightvessel",
        repeat_grey: bool = False,
        dropout: float = 0.1,
        unused_layers: bool = False,
    ) -> None:
        super().__init__(in_channels, classes, size_divisor=8)
        require_share(dropout=dropout)
        amtd = dialect == "amtd"
        if unused_layers and not amtd:
            raise InputError("only the dialect amtd of enet has a layer that never runs: drop unused_layers")
        self.stem_channels = stem_channels(in_channels, repeat_grey)
        if self.stem_channels >= FIRST:
            raise InputError(f"enet takes at most {FIRST - 1} input channels, not {in_channels}")
        encoder, decoder = [(FIRST, 2), (64, 4), (128, 8)], [(FIRST, 2), (64, 4)]
        further = {
            "low": encoder[0],
            "high": encoder[-1],
            "pair_encoder": encoder[1],
            "pair_decoder": decoder[1],
        }
        self.feature_info = pyramid_info(encoder, decoder, **further)
        self.first = nn.Conv2d(self.stem_channels, FIRST - self.stem_channels, 3, 2, 1, bias=False)
        self.pool = nn.MaxPool2d(2) if amtd else nn.MaxPool2d(3, 2, 1)
        self.first_norm = nn.Sequential(nn.BatchNorm2d(FIRST), nn.PReLU())

        def plain(channels: int, act: Act, drop: float, dilation: int = 1) -> Bottleneck:
            return Bottleneck(channels, dialect, act, dilation=dilation, dropout=drop)

        early = dropout / 10
        self.down1 = Down(FIRST, 64, dialect, dropout=early)
        self.stage1 = nn.Sequential(*(plain(64, nn.PReLU, early) for _ in range(4)))
        self.down2 = Down(64, 128, dialect, dropout=dropout)
        stage2 = [plain(128, nn.PReLU, dropout, dilation) for dilation in MIDDLES]
        third = [d for i, d in enumerate(MIDDLES) if not (amtd and i == SKIPPED)]
        stage3 = [plain(128, nn.PReLU, dropout, dilation) for dilation in third]
        self.stage2, self.stage3 = nn.Sequential(*stage2), nn.Sequential(*stage3)
        if unused_layers:
            self.unused = plain(128, nn.PReLU, dropout)
        act: Act = nn.PReLU if amtd else nn.ReLU
        self.up4 = Up(128, 64, inner=16 if amtd else 32, act=act, dropout=dropout)
        self.stage4 = nn.Sequential(*(plain(64, act, dropout) for _ in range(2)))
        self.up5 = Up(64, FIRST, inner=4 if amtd else 16, act=act, dropout=dropout)
        self.stage5 = plain(FIRST, act, dropout)
        if amtd:
            self.head = nn.ConvTranspose2d(FIRST, classes, 2, 2, bias=False)
        else:
            self.head = nn.ConvTranspose2d(FIRST, classes, 3, 2, 1, output_padding=1, bias=False)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        image = repeat_channels(image, self.stem_channels)
        half: Tensor = self.first_norm(torch.cat([self.first(image), self.pool(image)], dim=1))
        down, where1 = self.down1(half)
        quarter = self.stage1(down)
        down, where2 = self.down2(quarter)
        eighth = self.stage3(self.stage2(down))
        up4 = self.stage4(self.up4(eighth, where2, quarter.shape[2:]))
        up5 = self.stage5(self.up5(up4, where1, half.shape[2:]))
        further = {"low": half, "high": eighth, "pair_encoder": quarter, "pair_decoder": up4}
        features = pyramid([half, quarter, eighth], [up5, up4], **further)
        return Output(self.head(up5), features)
