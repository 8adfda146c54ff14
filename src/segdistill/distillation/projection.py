"""Learned 1x1 projections: a student's features at the width of a teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.distillation.base import Layers, module_key
from segdistill.distillation.maps import exact, resize
from segdistill.errors import InputError

When = Literal["always", "differing"]


class Projection(nn.Module):
    """A 1x1 convolution without bias over the channels of maps with one to three spatial axes, in float32.

    Args:
        in_channels: of the student.
        out_channels: of the teacher.

    >>> Projection(3, 5)(torch.zeros(2, 3, 4, 4)).shape, Projection(3, 5)(torch.zeros(2, 3, 4, 4, 4)).shape
    (torch.Size([2, 5, 4, 4]), torch.Size([2, 5, 4, 4, 4]))
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as torch's convolutions

    def forward(self, feature: Tensor) -> Tensor:
        """(B, in_channels, ...) to (B, out_channels, ...)."""
        axes = feature.ndim - 2
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
        with exact(feature):
            projected: Tensor = convolve(feature.float(), self.weight[(..., *[None] * axes)])
        return projected


def projections(
    method: str,
    layers: Sequence[str],
    student: Layers,
    teachers: Mapping[str, Layers],
    when: When = "differing",
) -> nn.ModuleDict:
    """One projection per teacher and layer, under `module_key(teacher, layer)`.

    Args:
        method: its name, for messages.
        layers: that are compared.
        student: its layers.
        teachers: name -> its layers.
        when: "always", or only if the widths are "differing".

    Raises:
        InputError: a network does not declare its features, so that its widths are not known.

    >>> from segdistill.models.network import FeatureInfo
    >>> narrow, wide = ({"encoder": FeatureInfo("encoder", width, 8)} for width in (4, 6))
    >>> list(projections("fitnet", ["encoder"], narrow, {"t": wide, "u": narrow}))
    ['t/encoder']
    """
    made = nn.ModuleDict()
    for teacher, own in teachers.items():
        for layer in layers:
            if layer not in student or layer not in own:
                if when == "differing":
                    continue  # `fitted` compares the widths of the features themselves
                raise InputError(f"{method} needs networks that declare their features (feature_info)")
            widths = student[layer].channels, own[layer].channels
            if when == "always" or widths[0] != widths[1]:
                made[module_key(teacher, layer)] = Projection(*widths)
    return made


def fitted(made: nn.ModuleDict, teacher: str, layer: str, feature: Tensor, reference: Tensor) -> Tensor:
    """The student's feature at the width and size of the teacher's: projected, then resized linearly.

    Args:
        made: of `projections`.
        teacher: its name.
        layer: of both features.
        feature: (B, C, ...) of the student.
        reference: (B, D, ...) of the teacher.

    Raises:
        InputError: the widths differ and there is no projection.

    >>> fitted(nn.ModuleDict(), "t", "encoder", torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """
    key = module_key(teacher, layer)
    if key in made:
        feature = made[key](feature)
    if feature.shape[1] != reference.shape[1]:
        raise InputError(
            f"{layer} has {feature.shape[1]} channels in the student and {reference.shape[1]} in the teacher: "
            "a projection between them needs networks that declare their features (feature_info)"
        )
    return resize(feature, reference.shape[2:])
