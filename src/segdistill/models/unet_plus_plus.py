"""U-Net++: nested skip paths of double convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.models.blocks import DoubleConv
from segdistill.models.network import Network, Output, pyramid, pyramid_info, require_widths
from segdistill.models.registry import register_network
from segdistill.models.unet import FULL


@register_network(
    "unet_plus_plus",
    "U-Net with nested skip paths",
    presets={
        "lightbtseg": {"widths": (64, 128, 256, 512, 1024)},
        "usseg": {"widths": (32, 64, 128, 256, 512)},
    },
)
class UNetPlusPlus(Network):
    """Node X(i, j): a double convolution of the nodes before it at level i and up-sampled X(i + 1, j - 1).

    Bilinear up-sampling (corners aligned). 36,629,698 parameters and 551.316 GMAC at 3 x 512 x 512 with two
    classes (Zhou et al. 2018, as LightBTSeg counted it: 64 to 1024 channels, no deep supervision). The usual
    smaller network, 32 to 512 channels, is the preset `usseg`.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        widths: channels per level, finest first.
        deep_supervision: a head on every X(0, j): the last gives the logits, the others `deep`.

    >>> UNetPlusPlus(1, 2, widths=(4, 8, 16))(torch.zeros(1, 1, 8, 8)).logits.shape
    torch.Size([1, 2, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        widths: tuple[int, ...] = FULL,
        deep_supervision: bool = False,
    ) -> None:
        require_widths(widths)
        super().__init__(in_channels, classes, size_divisor=2 ** (len(widths) - 1))
        self.depth = len(widths)
        levels = [(width, 2**level) for level, width in enumerate(widths)]
        self.feature_info = pyramid_info(levels, levels[:-1])
        inputs = (in_channels, *widths[:-1])
        self.nodes = nn.ModuleDict()
        for j in range(self.depth):
            for i in range(self.depth - j):
                joined = j * widths[i] + widths[i + 1] if j else inputs[i]
                self.nodes[f"{i}_{j}"] = DoubleConv(joined, widths[i])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        heads = self.depth - 1 if deep_supervision else 1
        self.heads = nn.ModuleList(nn.Conv2d(widths[0], classes, 1) for _ in range(heads))

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W); dec features are each level's last node."""
        self.check(image)
        rows: list[list[Tensor]] = []  # rows[i][j] is X(i, j)
        for i in range(self.depth):
            rows.append([self.nodes[f"{i}_0"](self.pool(rows[-1][0]) if rows else image)])
        for j in range(1, self.depth):
            for i in range(self.depth - j):
                joined = torch.cat([*rows[i], self.up(rows[i + 1][j - 1])], dim=1)
                rows[i].append(self.nodes[f"{i}_{j}"](joined))
        encoded, decoded = [row[0] for row in rows], [row[-1] for row in rows[:-1]]
        supervised = reversed(rows[0][-len(self.heads) :])
        logits = [head(node) for head, node in zip(self.heads, supervised, strict=True)]
        return Output(logits[0], pyramid(encoded, decoded), deep=logits[1:])
