"""IFVD: the cosine between each position and the mean feature of its own class."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segdistill.distillation.base import STUDENT, Composed, DistillationMethod, Targets, register_method
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import (
    class_masks,
    cosines,
    mask_of,
    prototypes,
    require_classes,
    resize,
)
from segdistill.distillation.methods.skd import Holistic
from segdistill.distillation.methods.soft_prediction import ElementMeanPrediction
from segdistill.models.network import Output


def intra_class_map(feature: Tensor, target: Tensor, classes: int) -> Tensor:
    """Cosine of the feature at each position with the mean feature of the position's class in the same image.

    Args:
        feature: (B, C, ...).
        target: (B, ...) class indices at any size, brought to the feature's by the nearest position.
        classes: their number.

    Returns:
        (B, 1, ...) in [-1, 1].

    >>> import torch
    >>> intra_class_map(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[0, 1]]]), 2).tolist()
    [[[[1.0, 1.0]]]]
    """
    masks = class_masks(target, feature.shape[2:], classes)
    means, _ = prototypes(feature, masks)
    of_each = cosines(feature, means)
    return (of_each * masks.reshape(of_each.shape)).sum(1, keepdim=True)


@register_method("intra_class")
class IntraClass(DistillationMethod):
    """Intra-class feature variation (IFVD, Wang et al. 2020): mean squared difference of the maps.

    Widths need not match; maps of another size are resized linearly to the teacher's.

    Args:
        layers: see layers.py; the original takes the last map before the head.
        classes: K of the references; with one logit or two classes all but the background is one class.

    >>> import torch
    >>> method = IntraClass()
    >>> output = Output(None, {"decoder": torch.rand(1, 8, 4, 4)})
    >>> targets = method.targets(output, torch.zeros(1, 4, 4).long())  # no lesion at all
    >>> targets["decoder"].shape, method(targets, targets).tolist()
    (torch.Size([1, 1, 4, 4]), [0.0])
    """

    needs_mask = True

    def __init__(self, layers: str | Sequence[str] = ("decoder",), classes: int = 2) -> None:
        super().__init__()
        require_classes(classes, "intra_class")
        self.features, self.classes = parse_layers("intra_class", layers), classes

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Maps (B, 1, ...)."""
        reference = mask_of(mask, "intra_class")
        return {
            layer: intra_class_map(output.features[layer], reference, self.classes) for layer in self.features
        }

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers."""
        losses = [
            (resize(student[layer], teacher[layer].shape[2:]) - teacher[layer]).square().flatten(1).mean(1)
            for layer in self.features
        ]
        return sum(losses[1:], losses[0])


@register_method("ifvd")
class IFVD(Composed):
    """IFVD (Wang et al. 2020): intra-class variation, soft predictions and, optionally, a critic.

    Args:
        intra: weight of the intra-class term.
        prediction: weight of the soft predictions at temperature 1 as a mean over positions and classes, as in the
            official code: 10 here is 10 / C of the method soft_prediction.
        adversarial: weight of the adversarial term, 0.001 in the original; it trains a critic beside the student.
        layers, classes: of the intra-class term.
        critic_width: channels of the critic's first convolution.
        critic_lr: learning rate of the critic; None for the stage's.

    >>> IFVD().weights
    {'intra': 200.0, 'prediction': 10.0}
    """

    def __init__(
        self,
        intra: float = 200.0,
        prediction: float = 10.0,
        adversarial: float = 0.0,
        layers: str | Sequence[str] = ("decoder",),
        classes: int = 2,
        critic_width: int = 64,
        critic_lr: float | None = None,
    ) -> None:
        critic = Holistic(width=critic_width, classes=classes, critic_lr=critic_lr)
        super().__init__(
            "ifvd",
            {
                "intra": (intra, IntraClass(layers, classes)),
                "prediction": (prediction, ElementMeanPrediction()),
                "adversarial": (adversarial, critic),
            },
        )
