"""Af-DCD: the teacher's feature is generated from a part of the student's, and told apart from its own other parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.distillation.base import register_method
from segdistill.distillation.maps import exact
from segdistill.distillation.methods.mgd import MGD
from segdistill.errors import InputError


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most `most`.

    >>> largest_divisor(24, 16), largest_divisor(5, 16), largest_divisor(7, 4)
    (12, 5, 1)
    """
    return max(k for k in range(1, min(number, most) + 1) if number % k == 0)


def partition(feature: Tensor, groups: int, grid: int, patch: int) -> Tensor:
    """Parts of a feature in space and channels: vectors of one position and one group of channels each.

    Args:
        feature: (B, C, H, W), or (B, C, D, H, W).
        groups: of neighbouring channels; divides C.
        grid: maps are pooled to at most that many positions a side, by maxima, and to whole patches.
        patch: side of a patch in pooled positions; the whole side where there are fewer.

    Returns:
        (B, patches, positions x groups, C / groups); vector k of a patch is of group k % groups.

    >>> partition(torch.rand(2, 6, 16, 16), groups=3, grid=8, patch=4).shape
    torch.Size([2, 4, 48, 2])
    """
    sides, wanted = [], []
    for side in feature.shape[2:]:
        most = min(grid, side)
        sides.append(min(patch, most))
        wanted.append(most - most % sides[-1])
    if wanted != list(feature.shape[2:]):
        pool = F.adaptive_max_pool2d if len(wanted) == 2 else F.adaptive_max_pool3d
        feature = pool(feature, wanted)
    b, c = feature.shape[:2]
    shape = [b, groups, c // groups]
    for whole, side in zip(wanted, sides, strict=True):
        shape += [whole // side, side]
    cut = feature.reshape(shape)
    patches, positions = range(3, cut.ndim, 2), range(4, cut.ndim, 2)
    parts = cut.permute(0, *patches, *positions, 1, 2)
    return parts.reshape(b, -1, math.prod(sides) * groups, c // groups)


@register_method("af_dcd")
class AfDCD(MGD):
    """Af-DCD (Fan et al., NeurIPS 2023): masked feature mimicking, and a contrast of parts without augmentation.

    As in `MGD` two 3x3 convolutions generate the teacher's feature from the student's, of which a share of positions is
    hidden; the mimicking term is the mean square of the difference. For the contrast both maps are cut into patches of
    positions and groups of channels (`partition`). The logits of a generated part are its negative L1 distances, over
    tau, to the teacher's parts in the same patch; the loss is the cross-entropy with the part of the same place as its
    class, summed over groups, mean over positions. The official total also has soft predictions at
    temperature 1 with the weight 1: name `soft_prediction` beside it.

    Where text and official code leave a choice, it is as in the code, its "omni" form: the other parts of a patch count
    as negatives only where their group of channels is another, so that the same group at other positions, which is
    alike in smooth regions, is in no class. The official sum of squares of weight 2e-6 is, for 2048 channels of a crop
    of 512 x 1024 at an eighth of its size, a mean of weight 34; the mean is used here, since it does not depend on
    the image's size. Positions are hidden at random; the official code can also hide the middle of the map. Where the
    number of channels is not divisible by `groups`, its largest divisor below it is taken.

    Args:
        layers: that are compared, see layers.py. The original takes the backbone's last map, at an eighth of the image;
            the end of a U-Net's encoder is far coarser, so that the default is the last map before the head.
        mimic: weight of the mimicking term.
        contrast: weight of the contrast, 0.005 in the original.
        hidden: share of positions that are hidden.
        temperature: tau.
        groups: of channels, at most.
        grid: maps are pooled to at most grid x grid positions for the contrast; the original pools 4 x 4 windows.
        patch: side of a patch in these positions.
        dimensions: 2, or 3 for volumes; a recipe sets it by its data.

    Raises:
        InputError: a share that is not from 0 to below 1, a number below 1, a negative weight, or features of other
            dimensions.

    >>> from segdistill.models.network import FeatureInfo, Output
    >>> method = AfDCD()
    >>> method.build({"decoder": FeatureInfo("decoder", 3, 2)}, {"t": {"decoder": FeatureInfo("decoder", 8, 2)}})
    >>> pair = [method.targets(Output(None, {"decoder": torch.rand(2, width, 8, 8)})) for width in (3, 8)]
    >>> method(*pair, "t").shape
    torch.Size([2])
    """

    name: ClassVar[str] = "af_dcd"
    loss_options = ("hidden", "weights", "temperature", "groups", "grid", "patch")

    def __init__(
        self,
        layers: str | Sequence[str] = ("decoder",),
        mimic: float = 34.0,
        contrast: float = 0.005,
        hidden: float = 0.75,
        temperature: float = 0.07,
        groups: int = 16,
        grid: int = 16,
        patch: int = 4,
        dimensions: Literal[2, 3] = 2,
    ) -> None:
        super().__init__(layers, hidden, dimensions)
        if min(mimic, contrast) < 0 or mimic + contrast == 0:
            raise InputError(f"af_dcd: weights {mimic} and {contrast}: none below 0, and one above it")
        if temperature <= 0 or min(groups, grid, patch) < 1:
            raise InputError("af_dcd: temperature must be above 0; groups, grid and patch at least 1")
        self.weights = {"mimic": mimic, "contrast": contrast}
        self.temperature, self.groups, self.grid, self.patch = temperature, groups, grid, patch

    def layer_loss(self, generated: Tensor, teacher: Tensor, region: Tensor | None) -> Tensor:
        """(B,) weighted sum of mimicking and contrast; a balance is that of the mimicking."""
        mimic = super().layer_loss(generated, teacher, region)
        groups = largest_divisor(teacher.shape[1], self.groups)
        own, theirs = (partition(each, groups, self.grid, self.patch) for each in (generated, teacher))
        with exact(own):
            logits = -torch.cdist(own, theirs, p=1) / self.temperature
        count = logits.shape[2]
        place = torch.arange(count, device=logits.device)
        others = (place[:, None] - place) % groups == 0
        logits = logits.masked_fill(
            others & ~torch.eye(count, dtype=torch.bool, device=logits.device), -torch.inf
        )
        losses = -torch.log_softmax(logits, 3).diagonal(dim1=2, dim2=3)
        return self.weights["mimic"] * mimic + self.weights["contrast"] * groups * losses.mean((1, 2))
