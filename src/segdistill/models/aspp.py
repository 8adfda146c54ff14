"""Atrous spatial pyramid pooling: one map seen at several dilations and as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.models.blocks import ConvNormAct
from segdistill.models.image_pooling import PooledMap

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
"""Dilations of the 3x3 convolutions at each output stride."""


class ASPP(nn.Module):
    """A 1x1 convolution, three dilated 3x3 ones and a pooled map, joined and fused by a 1x1 convolution.

    No convolution has a bias; each is followed by batch normalisation and ReLU (Chen et al. 2017).

    >>> ASPP(8, 4, (1, 2, 3)).eval()(torch.zeros(1, 8, 5, 7)).shape
    torch.Size([1, 4, 5, 7])
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvNormAct(inputs, outputs, 1, bias=False)])
        for rate in rates:
            self.branches.append(ConvNormAct(inputs, outputs, dilation=rate, bias=False))
        self.branches.append(PooledMap(inputs, outputs))
        self.fuse = ConvNormAct(len(self.branches) * outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        fused: Tensor = self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))
        return fused
