"""Soft labels: what a teacher believes of the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.base import STUDENT, Knowledge, Said
from segdistill.knowledge.soft_prediction import Direction, soft_prediction_gap
from segdistill.models.output import Output
from segdistill.options import fit_option


class SoftLabel(Knowledge):
    """Soft-label knowledge (Hinton et al. 2015): KL of class probabilities of the image at temperature T, times T^2.

    It is what `SoftPrediction` is for pixels, for networks with a label: classifiers and joint networks.

    Args:
        temperature: T.
        direction: KL(teacher || student), or the other way round.

    >>> knowledge = SoftLabel(temperature=4.0)
    >>> said = knowledge.extract(Output(None, {}, label=torch.zeros(2, 3)))
    >>> knowledge.gap(said, said).tolist()
    [0.0, 0.0]
    """

    compares = ("direction",)

    def __init__(self, temperature: float = 1.0, direction: Direction = "teacher_student") -> None:
        if temperature <= 0:
            raise InputError(f"soft_label: temperature must be positive, not {temperature}")
        fit_option("soft_label: direction", direction, Direction)
        self.temperature, self.direction = temperature, direction

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """Log-probabilities (B, K) of the image's classes at the temperature."""
        if output.label is None:
            raise InputError("soft_label needs networks that classify images, such as lanet_resnet18")
        return {"log_probability": torch.log_softmax(output.label.float() / self.temperature, dim=1)}

    def mix(self, said: Sequence[Said], weights: Tensor) -> Said:
        """Log of sum_j w_j p_j, with shares (B, J) that sum to 1."""
        together = torch.stack([each["log_probability"] for each in said], dim=1)
        return {"log_probability": torch.logsumexp(together + weights.to(together).log()[:, :, None], dim=1)}

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) divergence of what `extract` gave for student and teacher."""
        first, second = student["log_probability"], teacher["log_probability"]
        if first.shape[1] != second.shape[1]:
            raise InputError(
                f"soft_label: the student knows {first.shape[1]} classes of images, its teacher {second.shape[1]}"
            )
        # an image is one position
        return soft_prediction_gap(first[..., None], second[..., None], self.temperature, self.direction)
