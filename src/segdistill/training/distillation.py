"""The distillation task: a student between the reference and its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.distillation import STUDENT, Knowledge, Mixable, Teacher, Weighing, flat, within
from segdistill.distillation.layers import tapped
from segdistill.errors import InputError
from segdistill.models.network import Output
from segdistill.training.critics import Critics
from segdistill.training.targets import (
    Answers,
    Asked,
    Recall,
    Rows,
    is_silent,
    nothing,
    speaking,
    spread,
    spread_all,
    take,
    take_all,
)
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
        teacher_weights: (N, J) weight of teacher j on training case n (`batch["index"]`); 0 where it does not speak:
            it is then not even asked.
        knowledge: name -> (weight, knowledge).
        hard_weight: weight of the segmentation loss.
        finetune: (N, J) True where case n belongs to teacher j: then every teacher is a player of its own, trained
            on its own cases by `loss`; what it tells the student still comes from eval mode, detached.
        weighing: makes the weights w_j of each sample from those given, the teachers' answers and the reference
            (distillation/weighting.py); None takes them as given.
        combine: "gaps" compares the student with each teacher and weighs the gaps (LightBTSeg); "mixture" first makes
            one soft prediction of all teachers' (AMTD), p = sum_j w_j p_j / sum_j w_j, and multiplies its gap by
            sum_j w_j, which is 1 for adaptive weights; knowledge that cannot be mixed keeps its weighted gaps.
        recall: finds the teachers' answers in the batch (distillation/cache/reading.py); None asks the teachers.

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
        recall: Recall | None = None,
    ) -> None:
        if not teachers:
            raise InputError("distillation needs at least one teacher")
        if combine not in ("gaps", "mixture"):
            raise InputError(f"distillation: combine '{combine}' is neither gaps nor mixture")
        self.features = tuple(sorted({name for _, method in knowledge.values() for name in method.features}))
        connect(
            student, {teacher.name: teacher.network for teacher in teachers}, knowledge, weighing, combine
        )
        self.critics = Critics(knowledge, [teacher.name for teacher in teachers])
        read = self.features + (weighing.features if weighing is not None else ())
        trainee = Trainee(student, tuple(dict.fromkeys(read)), _companions(knowledge, weighing))
        self.players: dict[str, nn.Module] = {STUDENT: trainee, **self.critics.players}
        if finetune is not None:
            self.players |= {teacher.name: Trainee(teacher.network) for teacher in teachers}
        self.loss, self.teachers, self.knowledge = loss, list(teachers), dict(knowledge)
        self.teacher_weights, self.hard_weight, self.finetune = teacher_weights, hard_weight, finetune
        self.weighing, self.combine, self.recall = weighing, combine, recall

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        """`loss`, the parts of the segmentation loss, and each gap as `teacher/knowledge`, before its weights.

        A gap is the mean over the batch, 0 where the teacher does not speak. A mixture's gap is `mixture/knowledge`;
        adaptive weights are shown as `teacher/weight`. A method of several terms shows each, as `teacher/method/term`.
        """
        if player in self.critics.players:
            return self.critics.losses(batch, player, self.players[player])
        if player != STUDENT:
            return self._teacher_losses(batch, player)
        image, target = batch["image"], batch["mask"]
        given = self.teacher_weights[batch["index"].cpu()]
        rows = [speaking(given[:, j]) for j in range(len(self.teachers))]
        weights = given.to(image.device, non_blocking=True)
        answers = self._answers(batch, rows)
        output = self.players[STUDENT](image)
        parts = self.hard(output, batch)
        total = self.hard_weight * parts.pop("loss")
        speaks = (weights > 0).float()
        if self.weighing is not None:
            weights = self.weighing(weights, self._logits(answers, rows, len(image)), target, output)
            parts |= {
                f"{teacher.name}/weight": weights[:, j].mean() for j, teacher in enumerate(self.teachers)
            }
            penalty = self.weighing.penalty()
            if penalty is not None:
                total, parts["weighing/penalty"] = total + penalty, penalty
        heard = [j for j, own_rows in enumerate(rows) if not is_silent(own_rows)]
        for name, (weight, method) in self.knowledge.items():
            own = method.extract(output, target)
            said = {j: answers.said(j, name) for j in heard}
            for part, (strength, term) in flat(weight, method).items():
                shown = f"{name}/{part}" if part else name
                mine, theirs = within(own, part), {j: within(each, part) for j, each in said.items()}
                if self.combine == "mixture" and isinstance(term, Mixable):
                    share, loudness = _normalised(weights)
                    gap = torch.zeros_like(loudness)
                    if heard:
                        whole = [spread_all(each, rows[j], len(image)) for j, each in theirs.items()]
                        gap = term.gap(mine, term.mix(whole, share[:, heard]), "mixture")
                    total = total + strength * (loudness * gap).mean()
                    parts[f"mixture/{shown}"] = gap.mean()
                    continue
                # detached: weights that learn from a gap would learn to prefer the easiest teacher
                counts = weights.detach() if term.weighed else speaks
                for j, teacher in enumerate(self.teachers):
                    if j not in theirs:
                        gap = nothing(term, total)
                    else:
                        taken = take_all(mine, rows[j])
                        gap = term.gap(taken, theirs[j], teacher.name)
                        self.critics.hear(batch, name, part, j, taken, theirs[j])
                    total = total + strength * (take(counts[:, j], rows[j]) * gap).sum() / len(image)
                    parts[f"{teacher.name}/{shown}"] = gap.sum() / len(image)
        return {"loss": total, **parts}

    def hard(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """`loss` against the reference, and its parts."""
        assert output.logits is not None  # a recipe's student of this task segments
        return segmentation_parts(self.loss, output.logits, batch["mask"])

    def _answers(self, batch: Batch, rows: Sequence[Rows]) -> Answers:
        if self.recall is not None:
            return self.recall(batch)
        methods = {name: method for name, (_, method) in self.knowledge.items()}
        return Asked(self.teachers, methods, self.features, batch, rows)

    def _logits(self, answers: Answers, rows: Sequence[Rows], length: int) -> list[Tensor | None]:
        """(B, C, ...) of each teacher; zeros where it does not speak."""
        known = [answers.logits(j) for j in range(len(self.teachers))]
        return [
            None if logits is None else spread(logits, own, length)
            for logits, own in zip(known, rows, strict=True)
        ]

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
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    knowledge: Mapping[str, tuple[float, Knowledge]],
    weighing: Weighing | None = None,
    combine: str = "gaps",
) -> None:
    """Shows each knowledge, and what weighs the teachers, the networks that they will see.

    Raises:
        InputError: they do not fit: a feature that a network does not have, or networks of different classes. Networks
            that declare nothing are taken at their outputs' word.

    >>> from segdistill.distillation import create_knowledge
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
    if weighing is not None:
        weighing.connect(tapped(student, weighing.features, "the student"), list(teachers))
        if weighing.modules and not _can_learn(combine, knowledge):
            raise InputError(
                "weights of teachers that are learned need a mixture to learn from: set combine: mixture, and take "
                "knowledge that can be mixed, such as soft_prediction or amtml"
            )


def _companions(
    knowledge: Mapping[str, tuple[float, Knowledge]], weighing: Weighing | None
) -> dict[str, nn.Module]:
    learned = {name: method.modules for name, (_, method) in knowledge.items()}
    if weighing is not None:
        learned["weighing"] = weighing.modules
    return {f"{name}/{part}": module for name, parts in learned.items() for part, module in parts.items()}


def _can_learn(combine: str, knowledge: Mapping[str, tuple[float, Knowledge]]) -> bool:
    terms = [term for weight, method in knowledge.values() for _, term in flat(weight, method).values()]
    return combine == "mixture" and any(isinstance(term, Mixable) for term in terms)


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
    # hardly anything instead of 0: the logarithm of a share needs a gradient
    return shares.clamp(min=torch.finfo(shares.dtype).tiny), strength
