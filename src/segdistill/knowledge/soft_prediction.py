"""Soft predictions: what a teacher believes of every position."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from segdistill.errors import InputError
from segdistill.losses import log_probabilities
from segdistill.models.output import Output

Direction = Literal["teacher_student", "student_teacher"]


def soft_prediction_gap(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, direction: Direction = "teacher_student"
) -> Tensor:
    """Kullback-Leibler divergence between soft predictions: sum over classes, mean over positions, times T^2.

    Args:
        student: (B, C, ...) log-probabilities at temperature T.
        teacher: the same of the teacher.
        temperature: T, only for the factor T^2, which keeps gradients comparable across temperatures.
        direction: KL(teacher || student) (LightBTSeg Eq. 8 and 9, Hinton), or the other way round.

    Returns:
        (B,) in nats.

    >>> half = torch.full((1, 2, 3, 3), 0.5).log()
    >>> soft_prediction_gap(half, half).tolist()
    [0.0]
    """
    first, second = (teacher, student) if direction == "teacher_student" else (student, teacher)
    divergence = (first.exp() * (first - second)).sum(1)
    return divergence.flatten(1).mean(1) * temperature**2


class SoftPrediction:
    """Soft-prediction knowledge with its temperature and direction.

    >>> knowledge = SoftPrediction(temperature=4.0)
    >>> said = knowledge.extract(Output(logits=torch.zeros(2, 2, 4, 4), features={}))
    >>> knowledge.gap(said, said).shape
    torch.Size([2])
    """

    features: tuple[str, ...] = ()

    def __init__(self, temperature: float = 1.0, direction: Direction = "teacher_student") -> None:
        if temperature <= 0:
            raise InputError(f"soft_prediction: temperature must be positive, not {temperature}")
        if direction not in ("teacher_student", "student_teacher"):
            raise InputError(
                f"soft_prediction: direction '{direction}' is neither teacher_student nor student_teacher"
            )
        self.temperature, self.direction = temperature, direction

    def extract(self, output: Output, target: Tensor | None = None) -> dict[str, Tensor]:
        """Log-probabilities (B, C, ...) at the temperature."""
        if output.logits is None:
            raise InputError("soft_prediction needs a network with logits, not a classifier")
        return {"log_probability": log_probabilities(output.logits, self.temperature)}

    def gap(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """(B,) divergence of what `extract` gave for student and teacher."""
        return soft_prediction_gap(
            student["log_probability"], teacher["log_probability"], self.temperature, self.direction
        )
