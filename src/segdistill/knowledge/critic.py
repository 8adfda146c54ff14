"""The critic of SKD and IFVD: it tells a teacher's predictions from a student's."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from segdistill.models.output import Output

SIDE = 64
"""Height and width of what the critic sees: the size of the original's logits (65, an eighth of 512)."""
SLOPE = 0.1


class SelfAttention(nn.Module):
    """Each position adds what it attends to, times a learned factor that begins at 0 (SAGAN, Zhang et al. 2019).

    >>> layer = SelfAttention(16)
    >>> feature = torch.rand(1, 16, 4, 4)
    >>> torch.equal(layer(feature), feature)
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.factor = nn.Parameter(torch.zeros(1))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        query, key, value = (layer(feature).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.mT @ key).softmax(2)
        found = (value @ attention.mT).unflatten(2, feature.shape[2:])
        attended: Tensor = self.factor * found + feature
        return attended


class Critic(nn.Module):
    """SAGAN's discriminator as SKD uses it: four 4x4 convolutions of stride 2 with spectral norm, attention after two.

    Batch norm on the input; self-attention after the third and the fourth convolution; a 4x4 convolution to one
    channel, whose mean over positions is the score.

    Args:
        classes: channels of the logits.
        width: channels of the first convolution; 64, 128, 256, 512 in the original.

    >>> Critic(2, width=4)(torch.zeros(3, 2, 64, 64)).label.shape
    torch.Size([3, 1])
    """

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        widths = [classes, width, 2 * width, 4 * width, 8 * width]
        self.norm = nn.BatchNorm2d(classes)
        self.stages = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(inside, outside, 4, stride=2, padding=1)), nn.LeakyReLU(SLOPE)
            )
            for inside, outside in pairwise(widths)
        )
        self.attention = nn.ModuleList(SelfAttention(channels) for channels in widths[-2:])
        self.last = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, logits: Tensor) -> Output:
        """Scores, as the label (B, 1), of logits (B, classes, 64, 64)."""
        feature = self.norm(logits)
        for i, stage in enumerate(self.stages):
            feature = stage(feature)
            if i >= 2:
                feature = self.attention[i - 2](feature)
        return Output(logits=None, features={}, label=self.last(feature).mean((2, 3)))
