"""What looks at the whole image: a pooled, convolved and re-enlarged map, and the networks that hold one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.blocks import ConvNormAct
from segdistill.models.network import Network
from segdistill.models.u2net import enlarge_like


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


class PooledNetwork(Network):
    """A network that normalises a map of one cell per image, and so cannot train on one image at a time."""

    def check(self, image: Tensor) -> None:
        """As `Network.check`; in training it also refuses a batch of one."""
        super().check(image)
        if self.training and image.shape[0] == 1 and not torch.compiler.is_compiling():
            raise InputError(
                "one image leaves batch normalisation a single value in the branch that pools the whole "
                "image: train with at least two per batch"
            )
