"""One-channel images for networks whose first convolution takes three channels."""

from __future__ import annotations

from torch import Tensor


def stem_channels(in_channels: int, repeat_grey: bool) -> int:
    """Channels of the first convolution: three for a grey image that is to be repeated.

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
