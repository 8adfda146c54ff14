"""The parts that need torch: a network, a loss, a distillation method and a teacher weighting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill import register_loss, register_method, register_network, register_weighting
from segdistill.distillation.base import STUDENT, DistillationMethod, Targets
from segdistill.distillation.weighting import Weighting
from segdistill.models.network import FeatureInfo, Network, Output


@register_network("example_net", "two 3x3 convolutions and a 1x1 head")
class ExampleNet(Network):
    """Any size works; the only feature is "encoder".

    Args:
        in_channels: channels of the image.
        classes: channels of the logits.
        width: channels in between.
    """

    def __init__(self, in_channels: int = 3, classes: int = 2, *, width: int = 8) -> None:
        super().__init__(in_channels, classes)
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, classes, 1)
        self.feature_info = [FeatureInfo("encoder", width, 1)]

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W) and the feature "encoder"."""
        self.check(image)
        feature = self.encoder(image)
        return Output(self.head(feature), {"encoder": feature})


@register_loss("example_smooth", "cross-entropy with smoothed references")
class SmoothCrossEntropy(nn.Module):
    """Cross-entropy against references that are `smoothing` unsure.

    Args:
        smoothing: probability that is shared by all classes.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, ...) against class indices (B, ...)."""
        return F.cross_entropy(logits, target, label_smoothing=self.smoothing)


@register_method("example_brightness", "squared difference of the mean foreground probability")
class Brightness(DistillationMethod):
    """The student's lesions become as large as its teacher's."""

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The mean probability (B,) of everything but the background."""
        assert output.logits is not None
        return {"share": 1 - output.logits.softmax(1)[:, 0].flatten(1).mean(1)}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss."""
        return (student["share"] - teacher["share"]).square()


@register_weighting("example_first", "only the first active teacher counts")
class First(Weighting):
    """Weight 1 for the first teacher that is active, 0 for the others."""

    def forward(
        self, given: Tensor, logits: Sequence[Tensor | None], mask: Tensor, student: Output | None = None
    ) -> Tensor:
        """(B, J) weights."""
        active = (given > 0).float()
        return active * (active.cumsum(1) == 1) * torch.ones_like(given)
