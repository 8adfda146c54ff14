"""ResNet as a classifier of whole images."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segdistill.models.network import Network
from segdistill.models.output import Output, pyramid, pyramid_info
from segdistill.models.resnet import ResNet


class ResNetClassifier(Network):
    """ResNet, average pooling, one linear layer.

    At three channels and two classes 11,177,538 parameters (ResNet-18) and 23,512,130 (ResNet-50), 2.369 and
    5.338 GMAC at 3 x 256 x 256 (He et al. 2016). Any size works.

    Args:
        in_channels: channels of the image.
        classes: channels of `label`.
        depth: 18, 34, 50 or 101.
        base: planes of the encoder's first stage, 64 in the literature.

    >>> import torch
    >>> ResNetClassifier(1, 2, base=4).eval()(torch.zeros(1, 1, 33, 40)).label.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        depth: Literal[18, 34, 50, 101] = 18,
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes)
        self.encoder = ResNet(depth, in_channels, base=base)
        self.feature_info = pyramid_info(list(zip(self.encoder.channels, self.encoder.strides, strict=True)))
        self.classifier = nn.Linear(self.encoder.channels[-1], classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> label (B, classes) and features enc1.. (stem first)."""
        self.check(image)
        maps = self.encoder(image)
        return Output(None, pyramid(maps), label=self.classifier(maps[-1].mean(dim=(2, 3))))
