"""What a teacher hands over, how far the student is from it, and whose word weighs how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from segdistill.knowledge.soft_prediction import SoftPrediction, soft_prediction_gap
from segdistill.knowledge.teachers import Teacher, teacher_weights
from segdistill.models.output import Output
from segdistill.registry import build


class Knowledge(Protocol):
    """A method of distillation: extraction is the same for teacher and student, comparison is apart.

    `features` names the entries of `Output.features` that `extract` reads.
    """

    features: tuple[str, ...]

    def extract(self, output: Output, target: Tensor | None = None) -> dict[str, Tensor]:
        """What `output` hands over; target (B, H, W) class indices where the method needs them."""

    def gap(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        """(B,) distance, one value per sample."""


KNOWLEDGE: dict[str, Callable[..., Knowledge]] = {"soft_prediction": SoftPrediction}


def create_knowledge(name: str, **options: Any) -> Knowledge:
    """Builds the knowledge that is registered as `name`.

    Raises:
        InputError: unknown name or option.

    >>> create_knowledge("soft_prediction", temperature=4.0).features
    ()
    """
    return build("knowledge", KNOWLEDGE, name, options)


__all__ = [
    "KNOWLEDGE",
    "Knowledge",
    "SoftPrediction",
    "Teacher",
    "create_knowledge",
    "soft_prediction_gap",
    "teacher_weights",
]
