"""The light multi-task student: the simplified U-Net with a class for the whole image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.models.lesion_map import lesion_probability
from segdistill.models.network import require_positive
from segdistill.models.output import Output
from segdistill.models.unet import QUARTER, SimplifiedUNet


class SimplifiedUNetJoint(SimplifiedUNet):
    """Mask and class in one network: the deepest map, weighed by the mask as in LA-Net, pooled, one linear layer.

    2,162,660 parameters at three channels and two labels, 514 more than the simplified U-Net.

    Args:
        in_channels: channels of the image.
        classes: channels of the logits (the mask's classes).
        labels: classes of the whole image.
        mam: the classifier sees f + f x mask instead of f (LA-Net's mask attention, without parameters).
        widths: channels per level, finest first.

    >>> import torch
    >>> output = SimplifiedUNetJoint(1, 2, widths=(4, 8, 16))(torch.zeros(2, 1, 8, 8))
    >>> output.logits.shape, output.label.shape
    (torch.Size([2, 2, 8, 8]), torch.Size([2, 2]))
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        labels: int = 2,
        mam: bool = True,
        widths: tuple[int, ...] = QUARTER,
    ) -> None:
        super().__init__(in_channels, classes, widths=widths)
        require_positive(labels=labels)
        self.mam = mam
        self.classifier = nn.Linear(widths[-1], labels)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> logits (B, classes, H, W), label (B, labels) and the U-Net's features."""
        output = super().forward(image)
        assert output.logits is not None
        deepest = output.features["encoder"]
        if self.mam:
            lesion = F.avg_pool2d(lesion_probability(output.logits), self.size_divisor)
            deepest = deepest + deepest * lesion
        return output._replace(label=self.classifier(deepest.mean(dim=(2, 3))))
