"""FitNet: the student's features become the teacher's, up to a learned projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from segdistill.distillation.base import STUDENT, DistillationMethod, Layers, Targets
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import unit
from segdistill.distillation.projection import When, fitted, projections
from segdistill.models.network import Output
from segdistill.options import fit_option


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over channels and positions of the squared difference: (B, C, ...) and (B, C, ...) to (B,).

    >>> import torch
    >>> hint_loss(torch.zeros(1, 2, 2, 2), torch.full((1, 2, 2, 2), 3.0)).tolist()
    [9.0]
    """
    return (student - teacher).square().flatten(1).mean(1)


class FitNet(DistillationMethod):
    """Hints (FitNets, Romero et al. 2015): sum over layers of `hint_loss`(r(F_student), F_teacher).

    r is a learned 1x1 convolution to the teacher's width, one per teacher and layer; maps of another size are resized
    linearly to the teacher's.

    Args:
        layers: what is compared, see layers.py. The original takes a middle layer of either network.
        projection: "always", as in the original, or only where the widths are "differing".
        normalise: features of length 1 along the channels, of the teacher and of the projected student (AMTML-KD).
        per_teacher: the j-th teacher is compared at the j-th layer alone, beginning anew when there are more teachers
            than layers (AMTML-KD: one stage of the student for each teacher).
        weighed: False lets every teacher that speaks count fully, whatever its weight (AMTML-KD).

    >>> import torch
    >>> from segdistill.models.network import FeatureInfo
    >>> methods = FitNet()
    >>> info = {"encoder": FeatureInfo("encoder", 3, 8)}
    >>> methods.connect(info, {"t": {"encoder": FeatureInfo("encoder", 7, 4)}})
    >>> targets = [methods.extract(Output(None, {"encoder": torch.rand(2, *shape)}), None, name)
    ...         for name, shape in (("student", (3, 4, 4)), ("t", (7, 8, 8)))]
    >>> methods.loss(*targets, "t").shape
    torch.Size([2])
    """

    compares = ("projection", "normalise", "per_teacher", "weighed")

    def __init__(
        self,
        layers: str | Sequence[str] = ("encoder",),
        projection: When = "always",
        normalise: bool = False,
        per_teacher: bool = False,
        weighed: bool = True,
    ) -> None:
        fit_option("fitnet: projection", projection, When)
        self.features = parse_layers("fitnet", layers)
        self.projection: When = projection
        self.normalise, self.per_teacher, self.weighed = normalise, per_teacher, weighed
        self.turns: dict[str, str] = {}

    def connect(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Builds the projections.

        Raises:
            InputError: a network does not declare its features.
        """
        if self.per_teacher:
            self.turns = {name: self.features[j % len(self.features)] for j, name in enumerate(teachers)}
        self.modules = {
            name: module
            for name, module in projections(
                "fitnet", self.features, student, teachers, self.projection
            ).items()
            if name in {f"{teacher}/{layer}" for teacher in teachers for layer in self._layers(teacher)}
        }

    def _layers(self, network: str) -> tuple[str, ...]:
        return (self.turns[network],) if network in self.turns else self.features

    def targets(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The features (B, C, ...) themselves."""
        return {layer: output.features[layer].float() for layer in self.features}

    def loss(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over the teacher's layers."""
        losses = []
        for layer in self._layers(network):
            theirs = teacher[layer]
            own = fitted(self.modules, network, layer, student[layer], theirs)
            if self.normalise:
                own, theirs = unit(own), unit(theirs)
            losses.append(hint_loss(own, theirs))
        return sum(losses[1:], losses[0])
