"""MGD, masked generative distillation: the teacher's feature is made from a part of the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from segdistill.distillation.base import (
    STUDENT,
    DistillationMethod,
    Layers,
    Targets,
    module_key,
    register_method,
)
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import exact, mean_square
from segdistill.distillation.projection import fitted, projections
from segdistill.errors import InputError
from segdistill.models.blocks import layer as layer_of
from segdistill.models.network import Output


@register_method("mgd")
class MGD(DistillationMethod):
    """MGD (Yang et al., ECCV 2022): a share of the student's positions is hidden, and the teacher's feature generated.

    The student's feature passes a 1x1 convolution where widths differ; positions that each step draws become 0; two
    3x3 convolutions with a ReLU between them generate the teacher's feature; the loss is the mean square of the
    difference. For volumes the convolutions are 3x3x3.

    Args:
        layers: that are compared, see layers.py; the original takes the last map before the head.
        hidden: share of positions that are hidden, 0.75 for segmentation in the original.
        dimensions: 2 for pictures and slices, 3 for volumes; a recipe's own by default.

    Raises:
        InputError: a share that is not from 0 to below 1.

    >>> from segdistill.models.network import FeatureInfo
    >>> method = MGD()
    >>> method.build({"decoder": FeatureInfo("decoder", 3, 2)}, {"t": {"decoder": FeatureInfo("decoder", 5, 2)}})
    >>> pair = [method.targets(Output(None, {"decoder": torch.rand(2, width, 8, 8)})) for width in (3, 5)]
    >>> method(*pair, "t").shape
    torch.Size([2])
    """

    name: ClassVar[str] = "mgd"
    balances = True
    loss_options: tuple[str, ...] = ("hidden",)

    def __init__(
        self,
        layers: str | Sequence[str] = ("decoder",),
        hidden: float = 0.75,
        dimensions: Literal[2, 3] = 2,
    ) -> None:
        super().__init__()
        if not 0 <= hidden < 1:
            raise InputError(f"{self.name}: hidden is {hidden}: it is a share, from 0 to below 1")
        self.features, self.hidden = parse_layers(self.name, layers), hidden
        self.dimensions = dimensions
        self.projections, self.generators = nn.ModuleDict(), nn.ModuleDict()

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes the projections and the generators.

        Raises:
            InputError: a network does not declare its features.
        """
        self.projections = projections(self.name, self.features, student, teachers)
        for teacher, own in teachers.items():
            for layer in self.features:
                if layer not in own:
                    raise InputError(f"{self.name} needs networks that declare their features (feature_info)")
                width, conv = own[layer].channels, layer_of("Conv", self.dimensions)
                self.generators[module_key(teacher, layer)] = nn.Sequential(
                    conv(width, width, 3, padding=1), nn.ReLU(inplace=True), conv(width, width, 3, padding=1)
                )

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The features (B, C, H, W) themselves."""
        return {layer: output.features[layer].float() for layer in self.features} | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers.

        Raises:
            InputError: features of another number of dimensions.
        """
        losses = []
        for layer in self.features:
            own = fitted(self.projections, network, layer, student[layer], teacher[layer])
            if own.ndim != 2 + self.dimensions:
                raise InputError(
                    f"{self.name}: dimensions is {self.dimensions}, and the features have {own.ndim - 2}: set "
                    f"dimensions: {own.ndim - 2}"
                )
            shown = torch.rand(len(own), 1, *own.shape[2:], device=own.device) >= self.hidden
            with exact(own):
                made: Tensor = self.generators[module_key(network, layer)](own * shown)
            losses.append(self.layer_loss(made, teacher[layer], teacher.get("region")))
        return sum(losses[1:], losses[0])

    def layer_loss(self, generated: Tensor, teacher: Tensor, region: Tensor | None) -> Tensor:
        """(B,) loss of one layer, from the generated feature and the teacher's."""
        return mean_square(generated - teacher, region)
