"""The distillation task: a student between the reference and its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.distillation import STUDENT, Combinable, DistillationMethod, Teacher, Weighting, flat, within
from segdistill.distillation.layers import declared_layers
from segdistill.errors import InputError
from segdistill.models.network import Output
from segdistill.training.critics import Critics
from segdistill.training.targets import (
    CachedTargets,
    LiveTargets,
    Rows,
    TeacherTargets,
    is_silent,
    nothing,
    speaking,
    spread,
    spread_all,
    take,
    take_all,
)
from segdistill.training.task import Batch, Trainee, segmentation_parts, validate_segmentation

Combine = Literal["losses", "predictions"]


class Distillation:
    """L = hard_weight L_seg(student, reference) + sum_k weight_k sum_j w_j gap_k(student, teacher_j).

    With one soft-prediction method of weight 1 and teacher weights 0.5 and 0.2 this is LightBTSeg Eq. 9. With
    `combine` "mixture", adaptive weights, and attention transfer, region contrast and soft predictions of weight 0.1
    each it is AMTD Eq. 6 and 7.

    Args:
        student: the network to train.
        loss: segmentation loss.
        teachers: J frozen teachers, of any architecture.
        teacher_weights: (N, J) weight of teacher j on training case n (`batch["index"]`); 0 where it does not speak:
            it is then not even asked.
        methods: name -> (weight, method).
        hard_weight: weight of the segmentation loss.
        finetune: (N, J) True where case n belongs to teacher j: then every teacher is a player of its own, trained
            on its own cases by `loss`; what it tells the student still comes from eval mode, detached.
        weighting: makes the weights w_j of each sample from those given, the teachers' answers and the reference
            (distillation/weighting.py); None takes them as given.
        combine: "losses" compares the student with each teacher and weighs the losses (LightBTSeg); "mixture" first makes
            one soft prediction of all teachers' (AMTD), p = sum_j w_j p_j / sum_j w_j, and multiplies its loss by
            sum_j w_j, which is 1 for adaptive weights; method that cannot be mixed keeps its weighted losses.
        recall: finds the teachers' answers in the batch (distillation/cache/reading.py); None asks the teachers.

    Raises:
        InputError: no teacher, a network without a feature that a distillation method reads (lists what it has), or networks of
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
        methods: Mapping[str, tuple[float, DistillationMethod]],
        hard_weight: float = 1.0,
        finetune: Tensor | None = None,
        weighting: Weighting | None = None,
        combine: Combine = "losses",
        recall: CachedTargets | None = None,
    ) -> None:
        if not teachers:
            raise InputError("distillation needs at least one teacher")
        if combine not in ("losses", "predictions"):
            raise InputError(f"distillation: combine '{combine}' is neither losses nor mixture")
        self.features = tuple(sorted({name for _, method in methods.values() for name in method.features}))
        connect(student, {teacher.name: teacher.network for teacher in teachers}, methods, weighting, combine)
        self.critics = Critics(methods, [teacher.name for teacher in teachers])
        read = self.features + (weighting.features if weighting is not None else ())
        trainee = Trainee(student, tuple(dict.fromkeys(read)), _companions(methods, weighting))
        self.players: dict[str, nn.Module] = {STUDENT: trainee, **self.critics.players}
        if finetune is not None:
            self.players |= {teacher.name: Trainee(teacher.network) for teacher in teachers}
        self.loss, self.teachers, self.methods = loss, list(teachers), dict(methods)
        self.teacher_weights, self.hard_weight, self.finetune = teacher_weights, hard_weight, finetune
        self.weighting, self.combine, self.recall = weighting, combine, recall

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        """`loss`, the parts of the segmentation loss, and each loss as `teacher/method`, before its weights.

        A loss is the mean over the batch, 0 where the teacher does not speak. A mixture's loss is `combined/method`;
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
        teacher_targets = self._answers(batch, rows)
        output = self.players[STUDENT](image)
        parts = self.hard(output, batch)
        total = self.hard_weight * parts.pop("loss")
        speaks = (weights > 0).float()
        if self.weighting is not None:
            weights = self.weighting(weights, self._logits(teacher_targets, rows, len(image)), target, output)
            parts |= {
                f"{teacher.name}/weight": weights[:, j].mean() for j, teacher in enumerate(self.teachers)
            }
            penalty = self.weighting.penalty()
            if penalty is not None:
                total, parts["weighting/penalty"] = total + penalty, penalty
        evidence = [j for j, own_rows in enumerate(rows) if not is_silent(own_rows)]
        for name, (weight, method) in self.methods.items():
            own = method.targets(output, target)
            targets = {j: teacher_targets.targets(j, name) for j in evidence}
            for part, (strength, term) in flat(weight, method).items():
                shown = f"{name}/{part}" if part else name
                mine, theirs = within(own, part), {j: within(each, part) for j, each in targets.items()}
                if self.combine == "predictions" and isinstance(term, Combinable):
                    share, loudness = _normalised(weights)
                    loss = torch.zeros_like(loudness)
                    if evidence:
                        whole = [spread_all(each, rows[j], len(image)) for j, each in theirs.items()]
                        loss = term.loss(mine, term.combine_targets(whole, share[:, evidence]), "predictions")
                    total = total + strength * (loudness * loss).mean()
                    parts[f"combined/{shown}"] = loss.mean()
                    continue
                # detached: weights that learn from a loss would learn to prefer the easiest teacher
                counts = weights.detach() if term.weighed else speaks
                for j, teacher in enumerate(self.teachers):
                    if j not in theirs:
                        loss = nothing(term, total)
                    else:
                        taken = take_all(mine, rows[j])
                        loss = term.loss(taken, theirs[j], teacher.name)
                        self.critics.hear(batch, name, part, j, taken, theirs[j])
                    total = total + strength * (take(counts[:, j], rows[j]) * loss).sum() / len(image)
                    parts[f"{teacher.name}/{shown}"] = loss.sum() / len(image)
        return {"loss": total, **parts}

    def hard(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """`loss` against the reference, and its parts."""
        assert output.logits is not None  # a recipe's student of this task segments
        return segmentation_parts(self.loss, output.logits, batch["mask"])

    def _answers(self, batch: Batch, rows: Sequence[Rows]) -> TeacherTargets:
        if self.recall is not None:
            return self.recall(batch)
        methods = {name: method for name, (_, method) in self.methods.items()}
        return LiveTargets(self.teachers, methods, self.features, batch, rows)

    def _logits(
        self, teacher_targets: TeacherTargets, rows: Sequence[Rows], length: int
    ) -> list[Tensor | None]:
        """(B, C, ...) of each teacher; zeros where it does not speak."""
        known = [teacher_targets.logits(j) for j in range(len(self.teachers))]
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
    methods: Mapping[str, tuple[float, DistillationMethod]],
    weighting: Weighting | None = None,
    combine: str = "losses",
) -> None:
    """Shows each method, and what weighs the teachers, the networks that they will see.

    Raises:
        InputError: they do not fit: a feature that a network does not have, or networks of different classes. Networks
            that declare nothing are taken at their outputs' word.

    >>> from segdistill.distillation import create_method
    >>> from segdistill.models.registry import create_network
    >>> pair = [create_network("simplified_unet", widths=[4, 8]) for _ in range(2)]
    >>> connect(pair[0], {"t": pair[1]}, {"at": (1.0, create_method("attention_transfer", layers=["enc3"]))})
    Traceback (most recent call last):
    segdistill.errors.InputError: at: the student has no feature 'enc3': it has enc1 (stride 1), enc2 (stride 2), ...
    """
    _same_classes(student, teachers)
    for name, (_, method) in methods.items():
        try:
            method.connect(
                declared_layers(student, method.features, "the student"),
                {
                    teacher: declared_layers(network, method.features, f"teacher '{teacher}'")
                    for teacher, network in teachers.items()
                },
            )
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    if weighting is not None:
        weighting.connect(declared_layers(student, weighting.features, "the student"), list(teachers))
        if weighting.modules and not _can_learn(combine, methods):
            raise InputError(
                "weights of teachers that are learned need a mixture to learn from: set combine: predictions, and take "
                "method that can be mixed, such as soft_prediction or amtml"
            )


def _companions(
    methods: Mapping[str, tuple[float, DistillationMethod]], weighting: Weighting | None
) -> dict[str, nn.Module]:
    learned = {name: method.modules for name, (_, method) in methods.items()}
    if weighting is not None:
        learned["weighting"] = weighting.modules
    return {f"{name}/{part}": module for name, parts in learned.items() for part, module in parts.items()}


def _can_learn(combine: str, methods: Mapping[str, tuple[float, DistillationMethod]]) -> bool:
    terms = [term for weight, method in methods.values() for _, term in flat(weight, method).values()]
    return combine == "predictions" and any(isinstance(term, Combinable) for term in terms)


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
