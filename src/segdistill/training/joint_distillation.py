"""Distillation of a student that says what an image shows and where."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge import STUDENT
from segdistill.models.output import Output
from segdistill.training.distillation import Distillation
from segdistill.training.joint import Known, validate_joint
from segdistill.training.joint_loss import JointLoss
from segdistill.training.task import Batch


class JointDistillation(Distillation):
    """As `Distillation`, with a joint loss against the references in place of the segmentation loss.

    Args:
        joint: what the student is told by the references.
        train, validation: what is known of the cases, in the order of their views.
        rest, named: what `Distillation` takes.

    >>> JointDistillation(None, None, None, None, None, [], None, {})
    Traceback (most recent call last):
    segdistill.errors.InputError: distillation needs at least one teacher
    """

    def __init__(self, joint: JointLoss, train: Known, validation: Known, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        if self.finetune is not None:
            raise InputError("a joint student's teachers cannot be fine-tuned: leave out finetune_teachers")
        self.joint, self.train, self.validation = joint, train, validation
        self.score = joint.settings.score

    def hard(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """The joint loss and its parts."""
        return self.joint(output, batch["mask"], *self.train.of(batch))

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss, Dice and accuracy of the student, as far as they are known."""
        return validate_joint(self.players[STUDENT], self.joint, batch, self.validation)
