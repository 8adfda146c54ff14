"""Multi-scale discriminators: one patch critic per supervised stage of a generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.network import require_positive
from segdistill.models.registry import register_network

LAYERS = ((7, 2, 3), (5, 2, 2), (4, 2, 1), (4, 2, 1), (4, 1, 1))
"""Kernel, stride and padding of the five convolutions."""
SMALLEST = 32
"""Height and width below which the last convolution finds no patch."""


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> int:
    """Side of the square of input pixels that decides one output of convolutions (kernel, stride, padding).

    >>> receptive_field([(3, 1, 1), (3, 1, 1)]), receptive_field([(3, 2, 1), (3, 1, 1)])
    (5, 7)
    """
    side, step = 1, 1
    for kernel, stride, _ in layers:
        side += (kernel - 1) * step
        step *= stride
    return side


RECEPTIVE_FIELD = receptive_field(LAYERS)
"""Pixels behind one logit; on smaller maps every logit depends on the padding and on most of the map."""


class PatchDiscriminator(nn.Sequential):
    """Five convolutions (kernels 7, 5, 4, 4, 4) to one logit per patch; batch norm on the inner three.

    >>> PatchDiscriminator(1, 8)(torch.zeros(2, 1, 512, 512)).shape
    torch.Size([2, 1, 31, 31])
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        channels = [in_channels, width, 2 * width, 4 * width, 8 * width, 1]
        layers: list[nn.Module] = []
        for i, shape in enumerate(LAYERS):
            layers.append(nn.Conv2d(channels[i], channels[i + 1], *shape))
            if 0 < i < len(LAYERS) - 1:
                layers.append(nn.BatchNorm2d(channels[i + 1]))
            if i < len(LAYERS) - 1:
                layers.append(nn.LeakyReLU(0.2, inplace=True))
        super().__init__(*layers)


@register_network("multi_scale_discriminator", "one patch critic per stage: US-SEG's", kind="discriminator")
class MultiScaleDiscriminator(nn.Module):
    """Separate patch discriminators, one per stage, each on that stage's map at full resolution.

    2,840,321 parameters each at one channel (Li et al., US-SEG; the widths follow SegAN's critic).

    Args:
        in_channels: channels of its input, see `critic_input`.
        levels: number of discriminators.
        width: channels of the first convolution.

    Raises:
        InputError: a wrong number of maps or channels, or maps below 32 x 32.

    >>> maps = [torch.rand(2, 1, 64, 64)] * 4
    >>> [tuple(logit.shape) for logit in MultiScaleDiscriminator(width=4)(maps)]
    [(2,), (2,), (2,), (2,)]
    """

    def __init__(self, in_channels: int = 1, *, levels: int = 4, width: int = 64) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, levels=levels, width=width)
        self.in_channels = in_channels
        self.levels = nn.ModuleList(PatchDiscriminator(in_channels, width) for _ in range(levels))

    def forward(self, maps: Sequence[Tensor] | Tensor) -> list[Tensor]:
        """One (B, in_channels, H, W) map per level, finest first (or one for all) -> a logit (B,) per level.

        A positive logit means reference, a negative one prediction; it is the mean over patches.
        """
        if isinstance(maps, Tensor):
            maps = [maps] * len(self.levels)
        if len(maps) != len(self.levels):
            raise InputError(f"{len(maps)} maps for {len(self.levels)} discriminators: give one map each")
        for map_ in maps:
            if map_.ndim != 4 or map_.shape[1] != self.in_channels or min(map_.shape[2:]) < SMALLEST:
                raise InputError(
                    f"a map is {tuple(map_.shape)}: the discriminator takes (batch, {self.in_channels}, "
                    f"height, width) from {SMALLEST} x {SMALLEST}"
                )
        return [critic(map_).mean(dim=(1, 2, 3)) for critic, map_ in zip(self.levels, maps, strict=True)]


def critic_input(
    probability: Tensor, image: Tensor, condition: Literal["map", "masked_image", "concat"] = "map"
) -> Tensor:
    """The input of a discriminator from a probability map (B, 1, H, W) and its image (B, C, H, W).

    Args:
        probability: a predicted probability, or the reference as 0 and 1.
        image: the image that it belongs to.
        condition: "map": the map alone; "masked_image": image x map (as SegAN); "concat": both.

    >>> critic_input(torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4), "concat").shape
    torch.Size([1, 4, 4, 4])
    """
    if condition == "map":
        return probability
    if condition == "masked_image":
        return image * probability
    if condition == "concat":
        return torch.cat([image, probability], dim=1)
    raise InputError(f"unknown condition {condition!r}: choose from map, masked_image, concat")
