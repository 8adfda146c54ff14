"""AMTD's MobileNetV2 segmenter: the classifier at an eighth of the size with a 1x1 head."""

from __future__ import annotations

from torch import Tensor, nn

from segdistill.models.grey import repeat_channels, stem_channels
from segdistill.models.mobilenet import LAST, MobileNetV2
from segdistill.models.network import Network
from segdistill.models.output import Output, levels_of, pyramid, pyramid_info

STRIDES = (1, 1, 2, 1, 1, 2, 1)
LEVELS = (2, 5, 7)
"""The encoder's maps that end a size: of the second, fifth and seventh stage."""


class MobileNetV2Segmenter(Network):
    """MobileNetV2 with two strides removed, a 1x1 convolution to the classes, bilinear up-sampling by 8.

    2,228,996 parameters (preset `published`: 2,562 of them in a classifier that never runs) and
    9.5703 GMAC at 1 x 384 x 384 with two classes (Sandler et al. 2018, as AMTD counted it).

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        repeat_grey: a one-channel image is repeated three times, as in AMTD.
        unused_layers: declares the image classifier, which never runs.

    Besides the common names, features are "low" (the stem) and "high" (the last 1x1, which is "decoder" too),
    as AMTD taps them; "encoder" is the last stage.

    >>> import torch
    >>> MobileNetV2Segmenter(1, 2)(torch.zeros(2, 1, 16, 16)).logits.shape
    torch.Size([2, 2, 16, 16])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        repeat_grey: bool = False,
        unused_layers: bool = False,
    ) -> None:
        super().__init__(in_channels, classes, size_divisor=8)
        self.stem_channels = stem_channels(in_channels, repeat_grey)
        self.encoder = MobileNetV2(self.stem_channels, strides=STRIDES)
        levels = levels_of(self.encoder)
        shown = [levels[i] for i in LEVELS]
        self.feature_info = pyramid_info(shown, levels[-1:], low=levels[0], high=levels[-1])
        self.head = nn.Conv2d(LAST, classes, 1)
        self.enlarge = nn.Upsample(scale_factor=8, mode="bilinear", align_corners=False)
        if unused_layers:
            self.classifier = nn.Linear(LAST, classes)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the features of the class's docstring."""
        self.check(image)
        maps = self.encoder(repeat_channels(image, self.stem_channels))
        features = pyramid([maps[i] for i in LEVELS], maps[-1:], low=maps[0], high=maps[-1])
        return Output(self.enlarge(self.head(maps[-1])), features)
