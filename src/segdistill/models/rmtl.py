"""RMTL: one ResNet trunk, a lesion mask and an image label."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.lesion_map import maps_for, two_sided
from segdistill.models.network import Network, Output, levels_of, pyramid, pyramid_info, require_positive
from segdistill.models.registry import register_network
from segdistill.models.resnet import ResNet

STRIDES = (16, 4)
"""Strides of the first two maps of the mask head; the third has the image's size."""


@register_network(
    "rmtl_resnet18", "ResNet-18 with a mask head beside the classifier", kind="joint", fixed={"depth": 18}
)
@register_network(
    "rmtl_resnet50", "ResNet-50 with a mask head beside the classifier", kind="joint", fixed={"depth": 50}
)
class RMTL(Network):
    """A mask head (three times 3x3 convolution, ReLU6, resize, batch norm) and a classifier on a ResNet.

    At three channels and two classes the mask head has 1,328,643 parameters on ResNet-18 and 4,867,587 on
    ResNet-50 (Rasaee and Rivaz 2021, as LA-Net's authors rebuilt it). `label` is the class of the image.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits (the mask's classes).
        labels: classes of the whole image.
        depth: 18, 34, 50 or 101.
        sizes: heights (= widths) of the head's first two maps in pixels, for instance (16, 112) as rebuilt
            for images of 448 x 448; None takes a sixteenth and a quarter of the image. Maps of given sizes
            have no stride, so "decoder" is then not among the features.
        base: planes of the encoder's first stage, 64 in the literature; the head's widths scale with it.

    >>> import torch
    >>> output = RMTL(1, 2, base=4).eval()(torch.zeros(1, 1, 64, 64))
    >>> output.logits.shape, output.label.shape
    (torch.Size([1, 2, 64, 64]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        labels: int = 2,
        depth: Literal[18, 34, 50, 101] = 18,
        sizes: tuple[int, int] | None = None,
        base: int = 64,
    ) -> None:
        super().__init__(in_channels, classes)
        require_positive(labels=labels)
        if sizes is not None and min(sizes) < 1:
            raise InputError(f"sizes has a {min(sizes)}: every map needs at least 1 pixel")
        self.sizes = sizes
        self.encoder = ResNet(depth, in_channels, base=base)
        levels = levels_of(self.encoder)
        widths = (self.encoder.channels[-1], 4 * base, base, maps_for(classes))
        decoder = list(zip(widths[2:0:-1], STRIDES[::-1], strict=True))
        self.feature_info = pyramid_info(levels, decoder if sizes is None else ())
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.ReLU6()) for i in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.classifier = nn.Linear(widths[0], labels)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), label (B, labels) and features."""
        self.check(image)
        maps = self.encoder(image)
        height, width = image.shape[2:]
        if self.sizes is None:
            sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        else:
            sizes = [(size, size) for size in self.sizes]
        current = maps[-1]
        decoded: list[Tensor] = []
        for conv, norm, size in zip(self.convs, self.norms, [*sizes, (height, width)], strict=True):
            current = norm(F.interpolate(conv(current), size=size, mode="bilinear", align_corners=True))
            decoded.insert(0, current)
        logits = two_sided(current, self.classes)
        label = self.classifier(maps[-1].mean(dim=(2, 3)))
        return Output(logits, pyramid(maps, decoded[1:] if self.sizes is None else ()), label=label)
