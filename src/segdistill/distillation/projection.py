"""Learned 1x1 projections: a student's features at the width of a teacher's.

They train with the student, are checkpointed with it, and are no part of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.distillation.base import Layers
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
    methods: str,
    layers: Sequence[str],
    student: Layers,
    teachers: Mapping[str, Layers],
    when: When = "differing",
) -> dict[str, nn.Module]:
    """One projection per teacher and layer, under `teacher/layer`.

    Args:
        methods: its name, for messages.
        layers: what is compared.
        student: its layers.
        teachers: name -> its layers.
        when: "always", or only where the widths are "differing".

    Raises:
        InputError: a network does not declare its features, so that its widths are not known.

    >>> from segdistill.models.network import FeatureInfo
    >>> narrow, wide = ({"encoder": FeatureInfo("encoder", width, 8)} for width in (4, 6))
    >>> list(projections("fitnet", ["encoder"], narrow, {"t": wide, "u": narrow}))
    ['t/encoder']
    """
    made: dict[str, nn.Module] = {}
    for teacher, own in teachers.items():
        for layer in layers:
            if layer not in student or layer not in own:
                if when == "differing":
                    continue  # taken at the word of their outputs: `fitted` refuses widths that differ
                raise InputError(f"{methods} needs networks that declare their features (feature_info)")
            widths = student[layer].channels, own[layer].channels
            if when == "always" or widths[0] != widths[1]:
                made[f"{teacher}/{layer}"] = Projection(*widths)
    return made


def fitted(
    modules: Mapping[str, nn.Module], network: str, layer: str, student: Tensor, teacher: Tensor
) -> Tensor:
    """The student's feature at the width and size of the teacher's: projected, then resized linearly.

    Raises:
        InputError: the widths differ and there is no projection.

    >>> fitted({}, "t", "encoder", torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 2, 8, 8])
    """
    projection = modules.get(f"{network}/{layer}")
    if projection is not None:
        student = projection(student)
    if student.shape[1] != teacher.shape[1]:
        raise InputError(
            f"{layer} has {student.shape[1]} channels in the student and {teacher.shape[1]} in the teacher: "
            "a projection between them needs networks that declare their features (feature_info)"
        )
    return resize(student, teacher.shape[2:])
