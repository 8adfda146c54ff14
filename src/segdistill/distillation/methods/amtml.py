"""AMTML-KD: soft predictions, hints and relations from several teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.distillation.base import STUDENT, Composed, DistillationMethod, Targets, register_method
from segdistill.distillation.maps import exact, logits_of, pool, unit
from segdistill.distillation.methods.fitnet import FitNet
from segdistill.distillation.methods.soft_prediction import ElementMeanPrediction
from segdistill.errors import InputError
from segdistill.losses import probabilities
from segdistill.models.network import Output


def distances(points: Tensor) -> Tensor:
    """Euclidean distances between points (B, n), divided by their mean: (B, B), 0 on the diagonal.

    >>> distances(torch.tensor([[0.0], [1.0], [3.0]]))[0].tolist()
    [0.0, 0.5, 1.5]
    """
    square = (points[:, None] - points[None]).square().sum(2)
    apart = square > 0
    # the root has no slope at 0: equal points are excluded from it
    length = torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
    mean = length.sum() / apart.sum().clamp(min=1)
    return length / torch.where(mean > 0, mean, 1)


def angles(points: Tensor) -> Tensor:
    """Cosine of the angle at point i between points j and k, of points (B, n): (B, B, B) as [i, j, k].

    >>> angles(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))[0, 1].tolist()
    [0.0, 1.0, 0.0]
    """
    directions = unit(points[None] - points[:, None], 2)
    with exact(points):
        return directions @ directions.mT


@register_method("relations")
class Relations(DistillationMethod):
    """Distance and angle relations (RKD, Park et al. 2019), as AMTML-KD adds them, on pooled predictions.

    A point is an image's class probabilities at temperature T, averaged over a grid of parts. The loss of an image is
    smooth L1 between its relations to the others, mean over the others (distances) or pairs of them (angles).
    AMTML-KD takes the student's log-probabilities against its teachers' probabilities; here both are probabilities.
    The samples of a batch depend on one another; a batch of one has no relations and loss 0.

    Args:
        distance: weight of the distances.
        angle: weight of the angles.
        temperature: T.
        grid: parts along each side.

    >>> method = Relations()
    >>> targets = method.targets(Output(torch.rand(3, 2, 8, 8), {}))
    >>> targets["points"].shape, method(targets, targets).tolist()
    (torch.Size([3, 32]), [0.0, 0.0, 0.0])
    """

    combinable = True
    loss_options = ("distance", "angle")

    def __init__(
        self, distance: float = 1.0, angle: float = 1.0, temperature: float = 5.0, grid: int = 4
    ) -> None:
        super().__init__()
        if min(distance, angle) < 0 or temperature <= 0 or grid < 1:
            raise InputError(
                "relations: distance and angle must not be negative, temperature positive, grid at least 1"
            )
        self.distance, self.angle, self.temperature, self.grid = distance, angle, temperature, grid

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Points (B, classes x parts)."""
        predicted = probabilities(logits_of(output, "relations"), self.temperature)
        return {"points": pool(predicted, self.grid).flatten(1)}

    def combine_targets(self, targets: Sequence[Targets], weights: Tensor) -> Targets:
        """Points of the teachers' combined prediction, with weights (B, J) that sum to 1."""
        together = torch.stack([each["points"] for each in targets], dim=1)
        return {"points": (weights.to(together)[:, :, None] * together).sum(1)}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) weighted sum of both."""
        own, theirs = student["points"], teacher["points"]
        count = len(own)
        others, pairs = max(count - 1, 1), max((count - 1) * (count - 2), 1)
        far = F.smooth_l1_loss(distances(own), distances(theirs), reduction="none").sum(1) / others
        apart = 1 - torch.eye(count, device=own.device)  # j = k is no angle
        turned = F.smooth_l1_loss(angles(own), angles(theirs), reduction="none") * apart
        return self.distance * far + self.angle * turned.sum((1, 2)) / pairs


@register_method("amtml")
class AMTML(Composed):
    """AMTML-KD (Liu, Zhang and Wang 2020), for segmentation; give it several teachers.

    The whole method is a stage with `weighting: adaptive_factors`, `combine: predictions` (for the soft prediction and
    the relations) and `hard_weight: 0.3`, which is 1 - alpha.

    Args:
        prediction: weight of the soft predictions: 2 alpha with alpha 0.7, times T^2, of a mean over positions and
            classes, as in the official code.
        hints: weight of FitNet's term: one stage of the student for each teacher, features of length 1, and every
            teacher counts fully.
        relations: weight of the distance and angle relations on pooled predictions; 1 in the original, which is for
            classification.
        temperature: of soft predictions and relations.
        layers: the stages of the hints, the j-th for the j-th teacher.

    >>> AMTML().weights
    {'prediction': 35.0, 'hints': 1.0}
    """

    def __init__(
        self,
        prediction: float = 1.4,
        hints: float = 1.0,
        relations: float = 0.0,
        temperature: float = 5.0,
        layers: str | Sequence[str] = ("encoder",),
    ) -> None:
        super().__init__(
            "amtml",
            {
                "prediction": (prediction * temperature**2, ElementMeanPrediction(temperature)),
                "hints": (hints, FitNet(layers, normalise=True, per_teacher=True, weighted=False)),
                "relations": (relations, Relations(temperature=temperature)),
            },
        )
