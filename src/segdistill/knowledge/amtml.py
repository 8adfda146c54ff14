"""AMTML-KD: the knowledge that it takes from several teachers."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.knowledge.composed import Composed, Weighted
from segdistill.knowledge.fitnet import FitNet
from segdistill.knowledge.relations import Relations
from segdistill.knowledge.soft_prediction import SoftPrediction


class AMTML(Composed):
    """AMTML-KD (Liu, Zhang and Wang 2020), for segmentation; give it several teachers.

    A stage has the whole method with `weighing: adaptive_factors`, `combine: mixture` (the soft prediction and the
    relations are those of the teachers' mixture) and `hard_weight: 0.3`, which is 1 - alpha.

    Args:
        prediction: weight of the soft predictions: 2 alpha with alpha 0.7; T^2 is in the knowledge itself.
        hints: weight of FitNet's term: one stage of the student for each teacher, features of length 1, and every
            teacher counting fully.
        relations: weight of the distance and angle relations on pooled predictions; 1 in the original, which is for
            classification.
        temperature: of soft predictions and relations.
        taps: the stages of the hints, the j-th for the j-th teacher.

    >>> {name: weight for name, (weight, _) in AMTML().parts.items()}
    {'prediction': 1.4, 'hints': 1.0}
    """

    def __init__(
        self,
        prediction: float = 1.4,
        hints: float = 1.0,
        relations: float = 0.0,
        temperature: float = 5.0,
        taps: str | Sequence[str] = ("encoder",),
    ) -> None:
        parts: Weighted = {
            "prediction": (prediction, SoftPrediction(temperature)),
            "hints": (hints, FitNet(taps, normalise=True, per_teacher=True, weighed=False)),
            "relations": (relations, Relations(temperature=temperature)),
        }
        super().__init__("amtml", parts)
