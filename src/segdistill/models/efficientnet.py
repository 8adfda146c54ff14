"""EfficientNet-B0 as a classifier of whole images, built by MONAI."""

from __future__ import annotations

from monai.networks.nets.efficientnet import EfficientNetBN
from torch import Tensor, nn

from segdistill.models.network import Network, require_share
from segdistill.models.output import Output, pyramid, pyramid_info

LEVELS = (0, 1, 2, 4)
"""Stages that end a size; the head's map ends the last."""
CHANNELS = (16, 24, 40, 112, 1280)
NORM = ("batch", {"eps": 1e-3, "momentum": 0.1})
"""MONAI's momentum of 0.01 needs hundreds of steps until evaluation agrees with training."""


class EfficientNetB0(Network):
    """MONAI's EfficientNet-B0 with a new classifier.

    4,010,110 parameters at three channels and two classes (Tan and Le 2019, as LA-Net compares with it).

    Args:
        in_channels: channels of the image.
        classes: channels of `label`.
        dropout: share of the pooled vector that training drops.

    >>> import torch
    >>> EfficientNetB0(1, 2).eval()(torch.zeros(1, 1, 32, 64)).label.shape
    torch.Size([1, 2])
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, dropout: float = 0.25) -> None:
        super().__init__(in_channels, classes, size_divisor=32)
        require_share(dropout=dropout)
        self.feature_info = pyramid_info([(width, 2 ** (i + 1)) for i, width in enumerate(CHANNELS)])
        self.encoder = EfficientNetBN(
            "efficientnet-b0", pretrained=False, in_channels=in_channels, num_classes=classes, norm=NORM
        )
        self.encoder.set_swish(memory_efficient=False)  # the other one cannot be exported
        del self.encoder._fc
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(CHANNELS[-1], classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> label (B, classes) and features enc1.. to enc5."""
        self.check(image)
        net = self.encoder
        current = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(image))))
        stages: list[Tensor] = []
        for stage in net._blocks:
            current = stage(current)
            stages.append(current)
        last = net._swish(net._bn1(net._conv_head(net._conv_head_padding(current))))
        label = self.classifier(self.dropout(last.mean(dim=(2, 3))))
        return Output(None, pyramid([*(stages[i] for i in LEVELS), last]), label=label)
