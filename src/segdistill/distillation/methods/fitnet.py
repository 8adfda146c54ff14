"""FitNet: the student's features approach the teacher's, up to a learned projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from segdistill.distillation.maps import mean_over_positions, mean_square, unit
from segdistill.distillation.projection import When, fitted, projections
from segdistill.models.network import Output
from segdistill.options import fit_option


@register_method("fitnet")
class FitNet(DistillationMethod):
    """Hints (FitNets, Romero et al. 2015): sum over layers of the mean square of r(F_student) - F_teacher.

    r is a learned 1x1 convolution to the teacher's width, one per teacher and layer. Maps of another size are resized
    linearly to the teacher's.

    Args:
        layers: that are compared, see layers.py. The original takes a middle layer of either network.
        projection: "always", as in the original, or only if the widths are "differing".
        normalise: features of length 1 along the channels, of both, before the projection; the squares are then summed
            over channels, since their mean would be nearly 0, and the projection begins near 0 (AMTML-KD).
        per_teacher: the j-th teacher is compared at the j-th layer alone, starting again from the first if there are
            more teachers than layers (AMTML-KD: one stage of the student for each teacher).
        weighted: False lets every active teacher count fully, whatever its weight (AMTML-KD).

    >>> import torch
    >>> from segdistill.models.network import FeatureInfo
    >>> method = FitNet()
    >>> info = {"encoder": FeatureInfo("encoder", 3, 8)}
    >>> method.build(info, {"t": {"encoder": FeatureInfo("encoder", 7, 4)}})
    >>> student, teacher = (
    ...     method.targets(Output(None, {"encoder": torch.rand(2, *shape)})) for shape in ((3, 4, 4), (7, 8, 8))
    ... )
    >>> method(student, teacher, "t").shape
    torch.Size([2])
    """

    balances = True
    loss_options = ("projection", "normalise", "per_teacher", "weighted", "turns")

    def __init__(
        self,
        layers: str | Sequence[str] = ("encoder",),
        projection: When = "always",
        normalise: bool = False,
        per_teacher: bool = False,
        weighted: bool = True,
    ) -> None:
        super().__init__()
        fit_option("fitnet: projection", projection, When)
        self.features = parse_layers("fitnet", layers)
        self.projection: When = projection
        self.normalise, self.per_teacher, self.weighted = normalise, per_teacher, weighted
        self.turns: dict[str, str] = {}
        self.projections = nn.ModuleDict()

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes the projections.

        Raises:
            InputError: a network does not declare its features.
        """
        if self.per_teacher:
            self.turns = {name: self.features[j % len(self.features)] for j, name in enumerate(teachers)}
        made = projections("fitnet", self.features, student, teachers, self.projection)
        keys = [module_key(teacher, layer) for teacher in teachers for layer in self._layers(teacher)]
        self.projections = nn.ModuleDict({key: made[key] for key in keys if key in made})
        for projection in self.projections.values() if self.normalise else ():
            nn.init.uniform_(projection.weight, -0.005, 0.005)  # type: ignore[arg-type]

    def _layers(self, teacher: str) -> tuple[str, ...]:
        return (self.turns[teacher],) if teacher in self.turns else self.features

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The features (B, C, ...) themselves."""
        return {layer: output.features[layer].float() for layer in self.features} | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over the teacher's layers."""
        losses = []
        for layer in self._layers(network):
            own, theirs = student[layer], teacher[layer]
            if self.normalise:
                own, theirs = unit(own), unit(theirs)
            difference = fitted(self.projections, network, layer, own, theirs) - theirs
            if self.normalise:
                losses.append(mean_over_positions(difference.square().sum(1), teacher.get("region")))
            else:
                losses.append(mean_square(difference, teacher.get("region")))
        return sum(losses[1:], losses[0])
