"""ProtoKD: the similarity of every position to the mean feature of every class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segdistill.distillation.base import STUDENT, Composed, DistillationMethod, Targets, register_method
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import (
    class_masks,
    cosines,
    mask_of,
    mean_over_positions,
    prototypes,
    require_classes,
    resize,
)
from segdistill.distillation.methods.soft_prediction import ElementMeanPrediction
from segdistill.models.network import Output


@register_method("prototypes")
class Prototypes(DistillationMethod):
    """Prototype method (ProtoKD, Wang et al. 2023): similarity of every position to every class's mean.

    Unlike IFVD it includes the other classes' means. Each image has prototypes of its own, and a class that an image
    lacks is excluded for that image (in the official code for the whole batch). Widths need not match; maps of
    another size are resized linearly to the teacher's.

    Args:
        layers: see layers.py; the original takes the last map before the head.
        classes: K of the references; with one logit or two classes all but the background is one class.

    >>> method = Prototypes()
    >>> output = Output(None, {"decoder": torch.rand(1, 8, 4, 4)})
    >>> targets = method.targets(output, torch.zeros(1, 4, 4).long())  # no lesion at all
    >>> targets["decoder/known"].tolist(), method(targets, targets).tolist()
    ([[True, False]], [0.0])
    """

    needs_mask = True
    balances = True

    def __init__(self, layers: str | Sequence[str] = ("decoder",), classes: int = 2) -> None:
        super().__init__()
        require_classes(classes, "prototypes")
        self.features, self.classes = parse_layers("prototypes", layers), classes

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Of each layer, maps (B, K, ...), and which classes the image has (B, K)."""
        reference = mask_of(mask, "prototypes")
        targets: Targets = {}
        for layer in self.features:
            feature = output.features[layer]
            means, known = prototypes(feature, class_masks(reference, feature.shape[2:], self.classes))
            targets |= {layer: cosines(feature, means), f"{layer}/known": known}
        return targets | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers of the mean squared difference, over positions and classes that both know."""
        losses = []
        for layer in self.features:
            theirs = teacher[layer]
            own = resize(student[layer], theirs.shape[2:])
            square = (own - theirs).square()
            of_classes = torch.stack(
                [mean_over_positions(each, teacher.get("region")) for each in square.unbind(1)], 1
            )
            known = student[f"{layer}/known"] & teacher[f"{layer}/known"]
            losses.append(torch.where(known, of_classes, 0).sum(1) / known.sum(1).clamp(min=1))
        return sum(losses[1:], losses[0])


@register_method("protokd")
class ProtoKD(Composed):
    """ProtoKD (Wang et al. 2023): prototypes and soft predictions.

    Args:
        prediction: weight of the soft predictions as a mean over positions and classes, without the factor T^2, as in
            the official code.
        prototypes: weight of the prototype term.
        temperature: of the soft predictions.
        layers, classes: of the prototype term.

    >>> ProtoKD().weights
    {'prediction': 10.0, 'prototypes': 0.1}
    """

    def __init__(
        self,
        prediction: float = 10.0,
        prototypes: float = 0.1,
        temperature: float = 10.0,
        layers: str | Sequence[str] = ("decoder",),
        classes: int = 2,
    ) -> None:
        super().__init__(
            "protokd",
            {
                "prediction": (prediction, ElementMeanPrediction(temperature)),
                "prototypes": (prototypes, Prototypes(layers, classes)),
            },
        )
