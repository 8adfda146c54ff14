"""The 1x1 convolution of a shortcut, with a stride that only leaves pixels out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution of any stride: takes every stride-th pixel first, then convolves without a stride.

    The same parameters, values and cost as `nn.Conv2d(inputs, outputs, 1, stride)`. Not left to torch, whose
    CPU kernel (seen in 2.13, oneDNN) writes past its memory in the backward pass of just that convolution when the
    tensor is channels_last and has fewer than 16 channels.

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
