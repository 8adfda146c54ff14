"""The distillation task: a student between the reference and its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.knowledge import STUDENT, Knowledge, Mixable, Teacher, Weighing
from segdistill.knowledge.taps import pick, tapped
from segdistill.models.output import Output
from segdistill.training.task import Batch, Trainee, segmentation_parts, validate_segmentation

Combine = Literal["gaps", "mixture"]


class Distillation:
    """L = hard_weight L_seg(student, reference) + sum_k weight_k sum_j w_j gap_k(student, teacher_j).

    With one soft-prediction knowledge of weight 1 and teacher weights 0.5 and 0.2 this is LightBTSeg Eq. 9. With
    `combine` "mixture", adaptive weights, and attention transfer, region contrast and soft predictions of weight 0.1
    each it is AMTD Eq. 6 and 7.

    Args:
        student: the network to train.
        loss: segmentation loss.
        teachers: J frozen teachers, of any architecture.
        teacher_weights: (N, J) weight of teacher j on training case n (`batch["index"]`); 0 where it does not speak.
        knowledge: name -> (weight, knowledge).
        hard_weight: weight of the segmentation loss.
        finetune: (N, J) True where case n belongs to teacher j: then every teacher is a player of its own, trained
            on its own cases by `loss`; what it tells the student still comes from eval mode, detached.
        weighing: makes the weights w_j of each sample from those given, the teachers' answers and the reference
            (knowledge/weighing.py); None takes them as given.
        combine: "gaps" compares the student with each teacher and weighs the gaps (LightBTSeg); "mixture" first makes
            one soft prediction of all teachers' (AMTD), p = sum_j w_j p_j / sum_j w_j, and multiplies its gap by
            sum_j w_j, which is 1 for adaptive weights; knowledge that cannot be mixed keeps its weighted gaps.

    Raises:
        InputError: no teacher, a network without a feature that a knowledge reads (lists what it has), or networks of
            different classes.

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
        weighing: Weighing | None = None,
        combine: Combine = "gaps",
    ) -> None:
        if not teachers:
            raise InputError("distillation needs at least one teacher")
        if combine not in ("gaps", "mixture"):
            raise InputError(f"distillation: combine '{combine}' is neither gaps nor mixture")
        self.features = tuple(sorted({name for _, method in knowledge.values() for name in method.features}))
        connect(student, {teacher.name: teacher.network for teacher in teachers}, knowledge)
        companions = {
            f"{name}/{part}": module
            for name, (_, method) in knowledge.items()
            for part, module in method.modules.items()
        }
        self.players: dict[str, nn.Module] = {STUDENT: Trainee(student, self.features, companions)}
        if finetune is not None:
            self.players |= {teacher.name: Trainee(teacher.network) for teacher in teachers}
        self.loss, self.teachers, self.knowledge = loss, list(teachers), dict(knowledge)
        self.teacher_weights, self.hard_weight, self.finetune = teacher_weights, hard_weight, finetune
        self.weighing, self.combine = weighing, combine

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        """`loss`, the parts of the segmentation loss, and each gap as `teacher/knowledge`, before its weights.

        A mixture's gap is `mixture/knowledge`; adaptive weights are shown as `teacher/weight`.
        """
        if player != STUDENT:
            return self._teacher_losses(batch, player)
        image, target = batch["image"], batch["mask"]
        weights = self.teacher_weights[batch["index"].cpu()].to(image.device, non_blocking=True)
        answers = [self._ask(teacher, image) for teacher in self.teachers]
        adaptive = {}
        if self.weighing is not None:
            weights = self.weighing(weights, [answer.logits for answer in answers], target)
            adaptive = {
                f"{teacher.name}/weight": weights[:, j].mean() for j, teacher in enumerate(self.teachers)
            }
        output = self.players[STUDENT](image)
        parts = segmentation_parts(self.loss, output.logits, target)
        total = self.hard_weight * parts.pop("loss")
        for name, (weight, method) in self.knowledge.items():
            own = method.extract(output, target)
            if self.combine == "mixture" and isinstance(method, Mixable):
                said = [
                    method.extract(answer, target, teacher.name)
                    for teacher, answer in zip(self.teachers, answers, strict=True)
                ]
                share, strength = _normalised(weights)
                gap = method.gap(own, method.mix(said, share), "mixture")
                total = total + weight * (strength * gap).mean()
                parts[f"mixture/{name}"] = gap.mean()
                continue
            for j, (teacher, answer) in enumerate(zip(self.teachers, answers, strict=True)):
                gap = method.gap(own, method.extract(answer, target, teacher.name), teacher.name)
                total = total + weight * (weights[:, j] * gap).mean()
                parts[f"{teacher.name}/{name}"] = gap.mean()
        return {"loss": total, **parts, **adaptive}

    def _ask(self, teacher: Teacher, image: Tensor) -> Output:
        answer = teacher(image)
        features = pick(answer.features, self.features, image, f"teacher '{teacher.name}'")
        return answer._replace(features=features)

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
        return validate_segmentation(self.players[STUDENT], self.loss, batch)


def connect(
    student: nn.Module, teachers: Mapping[str, nn.Module], knowledge: Mapping[str, tuple[float, Knowledge]]
) -> None:
    """Shows each knowledge the networks that it will see.

    Raises:
        InputError: they do not fit: a feature that a network does not have, or networks of different classes. Networks
            that declare nothing are taken at their outputs' word.

    >>> from segdistill.knowledge import create_knowledge
    >>> from segdistill.models import create_model
    >>> pair = [create_model("simplified_unet", widths=[4, 8]) for _ in range(2)]
    >>> connect(pair[0], {"t": pair[1]}, {"at": (1.0, create_knowledge("attention_transfer", taps=["enc3"]))})
    Traceback (most recent call last):
    segdistill.errors.InputError: at: the student has no feature 'enc3': it has enc1 (stride 1), enc2 (stride 2), ...
    """
    _same_classes(student, teachers)
    for name, (_, method) in knowledge.items():
        try:
            method.connect(
                tapped(student, method.features, "the student"),
                {
                    teacher: tapped(network, method.features, f"teacher '{teacher}'")
                    for teacher, network in teachers.items()
                },
            )
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


def _same_classes(student: nn.Module, teachers: Mapping[str, nn.Module]) -> None:
    own = getattr(student, "classes", None)
    for name, network in teachers.items():
        classes = getattr(network, "classes", None)
        # one sigmoid logit and two softmax classes say the same
        if isinstance(own, int) and isinstance(classes, int) and max(own, 2) != max(classes, 2):
            raise InputError(
                f"the student has {own} classes, teacher '{name}' has {classes}: they must be the same"
            )


def _normalised(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (B, J) that sum to 1, and the sum (B,) itself; equal shares of nothing where nobody speaks."""
    strength = weights.sum(1)
    silent = strength[:, None] <= 0
    shares = torch.where(silent, 1 / weights.shape[1], weights / strength[:, None].clamp(min=1e-12))
    return shares, strength
