"""IFVD: the cosine between each position and the mean feature of its own class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from segdistill.distillation.base import Composed, LayerMethod, register_method
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
from segdistill.distillation.methods.skd import Holistic
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import MethodWarning

LOOKED = 16
"""Maps whose signs are looked at: those of the student and of each teacher in the first steps."""


@register_method("intra_class")
class IntraClass(LayerMethod):
    """Intra-class feature variation (IFVD, Wang et al. 2020): how each position varies from its class's mean.

    Widths need not match; maps of another size are resized linearly to the teacher's.

    Where maps have both signs, as after a convolution without activation, the cosines are far larger than those that
    the published weight is for (on coronary 500 to 700 times the gradient of cross-entropy): such maps get a warning.

    Args:
        layers: see layers.py; the original takes the last map before the head, which has an activation.
        classes: K of the references; with one logit or two classes all but the background is one class.

    >>> import torch
    >>> from segdistill.models.network import Output
    >>> method = IntraClass()
    >>> output = Output(None, {"decoder": torch.rand(1, 8, 4, 4)})
    >>> targets = method.targets(output, torch.zeros(1, 4, 4).long())  # no lesion at all
    >>> targets["decoder"].shape, method(targets, targets).tolist()
    (torch.Size([1, 1, 4, 4]), [0.0])
    """

    needs_mask = True
    balances = True

    def __init__(self, layers: str | Sequence[str] = ("decoder",), classes: int = 2) -> None:
        super().__init__()
        require_classes(classes, "intra_class")
        self.features, self.classes = parse_layers("intra_class", layers), classes
        self._to_look_at = LOOKED

    def target(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """(B, 1, ...) cosines in [-1, 1] of each position's feature with the mean feature of its class in the image."""
        self._warn_of_signs(feature)
        masks = class_masks(mask_of(mask, "intra_class"), feature.shape[2:], self.classes)
        means, _ = prototypes(feature, masks)
        of_each = cosines(feature, means)
        return (of_each * masks.reshape(of_each.shape)).sum(1, keepdim=True)

    def _warn_of_signs(self, feature: Tensor) -> None:
        if self._to_look_at and bool((feature < 0).any()):
            self._to_look_at = 0
            warnings.warn(
                f"intra_class: a map of {', '.join(self.features)} has negative values: take one after an "
                "activation, or a far smaller weight",
                MethodWarning,
                stacklevel=2,
            )
        self._to_look_at = max(0, self._to_look_at - 1)

    def layer_loss(self, student: Tensor, teacher: Tensor, region: Tensor | None = None) -> Tensor:
        """(B,) mean squared difference, at the size of the teacher's map."""
        square = (resize(student, teacher.shape[2:]) - teacher).square()
        return mean_over_positions(square[:, 0], region)


@register_method("ifvd")
class IFVD(Composed):
    """IFVD (Wang et al. 2020): intra-class variation, soft predictions and, optionally, a critic.

    Args:
        intra: weight of the intra-class term.
        prediction: weight of the soft predictions at temperature 1. The official 10 is of a mean over positions and 19
            classes: 0.53 for each position.
        adversarial: weight of the adversarial term, 0.001 in the original; it trains a critic beside the student.
        layers, classes: of the intra-class term.
        critic_width: channels of the critic's first convolution.
        critic_lr: learning rate of the critic; None for the stage's.
        dimensions: of the critic, 2 or 3; a recipe's own by default.

    >>> IFVD().weights
    {'intra': 200.0, 'prediction': 0.53}
    """

    def __init__(
        self,
        intra: float = 200.0,
        prediction: float = 0.53,
        adversarial: float = 0.0,
        layers: str | Sequence[str] = ("decoder",),
        classes: int = 2,
        critic_width: int = 64,
        critic_lr: float | None = None,
        dimensions: Literal[2, 3] = 2,
    ) -> None:
        critic = Holistic(width=critic_width, classes=classes, critic_lr=critic_lr, dimensions=dimensions)
        super().__init__(
            "ifvd",
            {
                "intra": (intra, IntraClass(layers, classes)),
                "prediction": (prediction, SoftPrediction()),
                "adversarial": (adversarial, critic),
            },
        )
