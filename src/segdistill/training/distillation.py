"""The distillation task: a student between the reference and its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.knowledge import Knowledge, Teacher
from segdistill.training.task import Batch, Trainee, segmentation_parts, validate_segmentation


class Distillation:
    """L = hard_weight L_seg(student, reference) + sum_k weight_k sum_j w_j gap_k(student, teacher_j).

    With one soft-prediction knowledge of weight 1 and teacher weights 0.5 and 0.2 this is LightBTSeg Eq. 9.

    Args:
        student: the network to train.
        loss: segmentation loss.
        teachers: J frozen teachers.
        teacher_weights: (N, J) weight of teacher j on training case n (`batch["index"]`); 0 where it does not speak.
        knowledge: name -> (weight, knowledge).
        hard_weight: weight of the segmentation loss.
        finetune: (N, J) True where case n belongs to teacher j: then every teacher is a player of its own, trained
            on its own cases by `loss`; what it tells the student still comes from eval mode, detached.

    >>> from segdistill.errors import InputError
    >>> Distillation(nn.Identity(), nn.Identity(), [], None, {})
    Traceback (most recent call last):
    segdistill.errors.InputError: distillation needs at least one teacher
    """

    def __init__(
        self,
        student: nn.Module,
        loss: nn.Module,
        teachers: Sequence[Teacher],
        teacher_weights: Tensor,
        knowledge: Mapping[str, tuple[float, Knowledge]],
        hard_weight: float = 1.0,
        finetune: Tensor | None = None,
    ) -> None:
        if not teachers:
            raise InputError("distillation needs at least one teacher")
        features = tuple(sorted({name for _, method in knowledge.values() for name in method.features}))
        self.players: dict[str, nn.Module] = {"student": Trainee(student, features)}
        if finetune is not None:
            self.players |= {teacher.name: Trainee(teacher.network) for teacher in teachers}
        self.loss, self.teachers, self.knowledge = loss, list(teachers), dict(knowledge)
        self.teacher_weights, self.hard_weight, self.finetune = teacher_weights, hard_weight, finetune

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        """`loss`, the parts of the segmentation loss, and each gap as `teacher/knowledge`, before its weights."""
        if player != "student":
            return self._teacher_losses(batch, player)
        image, target = batch["image"], batch["mask"]
        weights = self.teacher_weights[batch["index"].cpu()].to(image.device, non_blocking=True)
        answers = [teacher(image) for teacher in self.teachers]
        output = self.players["student"](image)
        parts = segmentation_parts(self.loss, output.logits, target)
        total = self.hard_weight * parts.pop("loss")
        for name, (weight, method) in self.knowledge.items():
            own = method.extract(output, target)
            for j, (teacher, answer) in enumerate(zip(self.teachers, answers, strict=True)):
                gap = method.gap(own, method.extract(answer, target))
                total = total + weight * (weights[:, j] * gap).mean()
                parts[f"{teacher.name}/{name}"] = gap.mean()
        return {"loss": total, **parts}

    def _teacher_losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        assert self.finetune is not None
        position = [teacher.name for teacher in self.teachers].index(player)
        own = self.finetune[batch["index"].cpu(), position].to(batch["image"].device)
        if not own.any():
            return None
        logits = self.players[player](batch["image"][own]).logits
        return segmentation_parts(self.loss, logits, batch["mask"][own])

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss and Dice of the student."""
        return validate_segmentation(self.players["student"], self.loss, batch)
