"""The distillation task: a student that learns from the reference and from teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.data.views import have_masks
from segdistill.distillation import STUDENT, DistillationMethod, StoredTeacher, Teacher, Weighting
from segdistill.distillation.base import (
    Targets,
    module_key,
    term_targets,
    trained_with_student,
    weighted_terms,
)
from segdistill.distillation.layers import declared_layers
from segdistill.errors import InputError
from segdistill.models.network import Output
from segdistill.training.gradients import Gradients
from segdistill.training.targets import (
    LiveTargets,
    MapTargets,
    Rows,
    TeacherTargets,
    active_rows,
    empty_loss,
    is_empty,
    put_back,
    take,
)
from segdistill.training.task import Batch, Trainee, segmentation_parts, validate_segmentation

Combine = Literal["losses", "predictions"]
Methods = Mapping[str, tuple[float, DistillationMethod]]
"""Name -> (weight, method)."""


class _CriticTrainee(Trainee):
    """A critic as a player. Its forward pass is its loss, which may compute gradients itself."""

    def __init__(self, critic: nn.Module, method: DistillationMethod) -> None:
        super().__init__(critic, lr=method.critic_lr)
        self.loss = method.critic_loss  # not the method: it would become a submodule

    def forward(self, student: Targets, teacher: Targets) -> Tensor:  # type: ignore[override]
        """The critic's scalar loss, from targets without a graph."""
        with torch.enable_grad():
            return self.loss(self.network, student, teacher)


class Critics:
    """All critics of the methods of a stage: adversaries of the student, which train in turns with it.

    The student's turn comes first in a step. Its targets of a batch are kept, without a graph, until the last critic
    has had its turn on them; nothing is kept between steps.

    Args:
        methods: name -> (weight, method), built.
        teachers: names of the teachers.

    Attributes:
        players: `method/teacher`, or `method/term/teacher` -> the critic's player.

    >>> Critics({}, ["t"]).players
    {}
    """

    def __init__(self, methods: Methods, teachers: Sequence[str]) -> None:
        self.players: dict[str, nn.Module] = {}
        for name, (weight, whole) in methods.items():
            for term, (_, method) in weighted_terms(weight, whole).items():
                for teacher in teachers if len(method.critics) else ():
                    player = _CriticTrainee(method.critics[module_key(teacher)], method)
                    self.players["/".join(filter(None, (name, term, teacher)))] = player
        self._targets: dict[int, dict[str, tuple[Targets, Targets]]] = {}

    def keep(self, batch: Batch, player: str, student: Targets, teacher: Targets) -> None:
        """Keeps the targets of a batch for a critic, if there is one of that name."""
        if player in self.players:
            student, teacher = (
                {name: value.detach() for name, value in each.items()} for each in (student, teacher)
            )
            self._targets.setdefault(id(batch), {})[player] = (student, teacher)

    def losses(self, batch: Batch, player: str, network: nn.Module) -> dict[str, Tensor] | None:
        """The loss of a critic on the kept targets; None if its teacher had no active row.

        Args:
            batch: the same object as in the student's turn.
            player: the critic's.
            network: the critic's player, or its distributed wrapper.
        """
        kept = self._targets.get(id(batch), {})
        pair = kept.pop(player, None)
        if not kept:
            self._targets.pop(id(batch), None)
        return None if pair is None else {"loss": network(*pair)}


@dataclass(frozen=True)
class _Step:
    """One batch with its teachers: their active rows, weights (B, J), whether each is active (B, J), and
    the whole batch, of which this may be a part.
    """

    batch: Batch
    rows: list[Rows]
    weights: Tensor
    active: Tensor
    origin: Batch

    def where(self, chosen: Tensor) -> _Step:
        """The step of some rows (B,) alone; its losses are still shares of all images."""
        batch = {name: value[chosen] for name, value in self.batch.items() if len(value) == len(chosen)}
        rows = [active_rows(own) for own in self.active[chosen].T]
        return _Step(batch, rows, self.weights[chosen], self.active[chosen], self.origin)

    def mean(self, losses: Tensor) -> Tensor:
        """The mean of losses (rows,) over the whole batch, in which all others count 0."""
        images = len(self.origin["image"])
        return losses.mean() if len(losses) == images else losses.sum() / images


class Distillation:
    """L = hard_weight L_seg(student, reference) + sum_k weight_k sum_j w_j loss_k(student, teacher_j).

    With one soft-prediction method of weight 1 and teacher weights 0.5 and 0.2 this is LightBTSeg Eq. 9. With
    `combine` "predictions", adaptive weights, and attention transfer, region contrast and soft predictions of weight
    0.1 each it is AMTD Eq. 6 and 7.

    Args:
        student: the network to train.
        loss: segmentation loss.
        teachers: J frozen teachers, of any architecture, or J whose predictions are in the batches.
        teacher_weights: (N, J) weight of teacher j on training case n (`batch["index"]`); where it is 0 the teacher is
            not run.
        methods: name -> (weight, method).
        hard_weight: weight of the segmentation loss.
        finetune: (N, J) True where case n belongs to teacher j: then every teacher is a player of its own, trained
            on its own cases by `loss`; its targets for the student still come from eval mode, without a graph.
        weighting: makes the weights w_j of each sample (distillation/weighting.py); None takes them as given.
        combine: "losses" compares the student with each teacher and takes the weighted sum of the losses (LightBTSeg).
            "predictions" first combines the teachers' targets (AMTD), p = sum_j w_j p_j / sum_j w_j, and multiplies
            the loss by sum_j w_j, which is 1 for adaptive weights; methods that are not combinable are compared with
            each teacher.
        read_cache: finds the teachers' targets in the batch (distillation/cache/reading.py); None runs the teachers.

    Raises:
        InputError: no teacher, a network without a feature that a method reads (lists its features), networks of
            different classes, or a weight set from the gradient of a supervised loss that does not count.

    >>> from segdistill.errors import InputError
    >>> Distillation(nn.Identity(), nn.Identity(), [], None, {})
    Traceback (most recent call last):
    segdistill.errors.InputError: distillation needs at least one teacher
    """

    def __init__(
        self,
        student: nn.Module,
        loss: nn.Module,
        teachers: Sequence[Teacher] | Sequence[StoredTeacher],
        teacher_weights: Tensor,
        methods: Methods,
        hard_weight: float = 1.0,
        finetune: Tensor | None = None,
        weighting: Weighting | None = None,
        combine: Combine = "losses",
        read_cache: Callable[[Batch], TeacherTargets] | None = None,
    ) -> None:
        if not teachers:
            raise InputError("distillation needs at least one teacher")
        if combine not in ("losses", "predictions"):
            raise InputError(f"distillation: combine is '{combine}': choose from losses, predictions")
        self.features = tuple(sorted({name for _, method in methods.values() for name in method.features}))
        networks = {teacher.name: getattr(teacher, "network", None) for teacher in teachers}
        build_learned_parts(student, networks, methods, weighting, combine)
        self.critics = Critics(methods, list(networks))
        learned = [part for _, method in methods.values() for part in trained_with_student(method)]
        layers = self.features
        if weighting is not None:
            learned, layers = [*learned, weighting], layers + weighting.features
        self.student, self.gradients = student, make_gradients(methods, hard_weight)
        if self.gradients is not None:
            learned = [*learned, self.gradients]
        trainee = Trainee(student, tuple(dict.fromkeys(layers)), learned)
        self.players: dict[str, nn.Module] = {STUDENT: trainee, **self.critics.players}
        live = {name: network for name, network in networks.items() if network is not None}
        self.tuned = [] if finetune is None else list(live)
        self.players |= {name: Trainee(live[name]) for name in self.tuned}
        self.live = [teacher for teacher in teachers if isinstance(teacher, Teacher)]
        self.teachers: list[Teacher | StoredTeacher] = list(teachers)
        self.loss, self.methods = loss, dict(methods)
        self.teacher_weights, self.hard_weight, self.finetune = teacher_weights, hard_weight, finetune
        self.weighting, self.combine, self.read_cache = weighting, combine, read_cache

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor] | None:
        """`loss`, the parts of the segmentation loss, and the loss of each method as `teacher/method`, unweighted.

        Each is the mean over the batch, counting 0 where the teacher is not active. The loss of combined targets is
        `combined/method`, adaptive weights are `teacher/weight`, and a method of several terms shows each of them as
        `teacher/method/term`.
        """
        if player in self.critics.players:
            return self.critics.losses(batch, player, self.players[player])
        if player != STUDENT:
            return self._teacher_losses(batch, player)
        given, rows = self.given_weights(batch)
        targets = self.teacher_targets(batch, rows)
        output = self.players[STUDENT](batch["image"])
        parts = self.hard(output, batch)
        total = hard = self.hard_weight * parts.pop("loss")
        weights, shown = self._weights(given, targets, rows, batch["mask"], output)
        if "weighting/penalty" in shown:
            total = total + shown["weighting/penalty"]
        step = _Step(batch, rows, weights, (given > 0).float(), batch)
        parts |= shown
        found = list(self._soft(step, targets, output))
        factors = self._factors(hard, [(term, weighted) for term, _, weighted, _ in found])
        for term, name, weighted, loss in found:
            factor = factors.get(term)
            total, parts[name] = total + (weighted if factor is None else factor * weighted), loss
        return {"loss": total, **parts}

    def _factors(self, hard: Tensor, weighted: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor | None]:
        """What each term is multiplied by, after the first steps have measured its gradient."""
        if self.gradients is None:
            return {}
        terms: dict[str, Tensor] = {}
        for name, loss in weighted:
            terms[name] = terms[name] + loss if name in terms else loss
        self.gradients.measure(self.student, hard, terms)
        return {name: self.gradients.factor(name) for name in terms}

    def begin_step(self, epoch: int, step: int, is_last: bool, is_end: bool = False) -> None:
        """Says which step comes next: the gradients of some are measured."""
        if self.gradients is not None:
            self.gradients.begin_step(epoch, step, is_last, is_end)

    def measured(self) -> dict[str, float]:
        """What the last step measured of the gradients; empty after most steps."""
        return {} if self.gradients is None else self.gradients.row

    def columns(self) -> dict[str, float]:
        """Weights that were set from gradients, for the curves."""
        return {} if self.gradients is None else self.gradients.columns()

    def given_weights(self, batch: Batch) -> tuple[Tensor, list[Rows]]:
        """(B, J) weights of the recipe on the batch's device, and each teacher's active rows."""
        given = self.teacher_weights[batch["index"].cpu()]
        rows = [active_rows(given[:, j]) for j in range(len(self.teachers))]
        return given.to(batch["image"].device, non_blocking=True), rows

    def teacher_targets(self, batch: Batch, rows: Sequence[Rows]) -> TeacherTargets:
        """The teachers' targets: from the cache, the stored predictions, or the teachers themselves."""
        if self.read_cache is not None:
            return self.read_cache(batch)
        methods = {name: method for name, (_, method) in self.methods.items()}
        if not self.live:
            return MapTargets([teacher.name for teacher in self.teachers], methods, batch, rows)
        return LiveTargets(self.live, methods, self.features, batch, rows)

    def hard(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """`loss` against the reference, and its parts: means over the batch, to which rows without a mask add 0."""
        assert output.logits is not None  # a recipe's student of this task segments
        located = have_masks(batch)
        if bool(located.all()):
            return segmentation_parts(self.loss, output.logits, batch["mask"])
        some = located if bool(located.any()) else torch.arange(len(located), device=located.device) < 1
        parts = segmentation_parts(self.loss, output.logits[some], batch["mask"][some])
        return {name: value * located.float().mean() for name, value in parts.items()}

    def _weights(
        self, given: Tensor, targets: TeacherTargets, rows: list[Rows], mask: Tensor, output: Output
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weights (B, J) of the teachers, and what the curves show of them."""
        if self.weighting is None:
            return given, {}
        known = [targets.logits(j) for j in range(len(self.teachers))]
        logits = [
            None if each is None else put_back(each, own, len(mask))  # zeros where a teacher is not active
            for each, own in zip(known, rows, strict=True)
        ]
        weights = self.weighting(given, logits, mask, output)
        shown = {f"{teacher.name}/weight": weights[:, j].mean() for j, teacher in enumerate(self.teachers)}
        penalty = self.weighting.penalty()
        return weights, shown if penalty is None else shown | {"weighting/penalty": penalty}

    def _soft(
        self, whole: _Step, targets: TeacherTargets, output: Output
    ) -> Iterator[tuple[str, str, Tensor, Tensor]]:
        """Every term, and every teacher where they are not combined: the term, its name in the curves, and its weighted
        loss and loss (scalars).
        """
        for name, (weight, method) in self.methods.items():
            step, own, theirs = self._targets(whole, targets, output, name, method)
            for part, (strength, term) in weighted_terms(weight, method).items():
                shown = f"{name}/{part}" if part else name
                student = term_targets(own, part)
                teachers = {j: term_targets(each, part) for j, each in theirs.items()}
                if self.combine == "predictions" and term.combinable:
                    loss, scale = self._combined(step, term, student, teachers)
                    yield shown, f"combined/{shown}", strength * step.mean(scale * loss), step.mean(loss)
                else:
                    yield from self._separate(step, term, strength, shown, student, teachers)

    def _targets(
        self, step: _Step, targets: TeacherTargets, output: Output, name: str, method: DistillationMethod
    ) -> tuple[_Step, Targets, dict[int, Targets]]:
        """The step, the student's targets and those of each active teacher, of a method.

        A method that needs masks has no rows without one: its step is smaller, and its losses count 0 for them.
        """
        located = have_masks(step.batch)
        active = [j for j, own in enumerate(step.rows) if not is_empty(own)]
        if not method.needs_mask or bool(located.all()):
            own = method.targets(output, step.batch["mask"])
            return step, own, {j: targets.targets(j, name) for j in active}
        theirs = {}
        for j in active:
            kept = take(located, step.rows[j])
            theirs[j] = {key: value[kept] for key, value in targets.targets(j, name).items()}
        smaller = step.where(located)
        if not bool(located.any()):
            return smaller, {}, {}
        own = method.targets(_rows_of(output, located), smaller.batch["mask"])
        return smaller, own, {j: each for j, each in theirs.items() if not is_empty(smaller.rows[j])}

    def _combined(
        self, step: _Step, term: DistillationMethod, student: Targets, teachers: dict[int, Targets]
    ) -> tuple[Tensor, Tensor]:
        """(B,) loss against the teachers' combined targets, and (B,) its factor: the sum of their weights."""
        share, scale = _normalised(step.weights)
        if not teachers:
            return torch.zeros_like(scale), scale
        whole = [
            {name: put_back(value, step.rows[j], len(scale)) for name, value in each.items()}
            for j, each in teachers.items()
        ]
        return term(student, term.combine_targets(whole, share[:, list(teachers)]), "predictions"), scale

    def _separate(
        self,
        step: _Step,
        term: DistillationMethod,
        strength: float,
        shown: str,
        student: Targets,
        teachers: dict[int, Targets],
    ) -> Iterator[tuple[str, str, Tensor, Tensor]]:
        """As `_soft`, of one term for each teacher."""
        # detached: weights that learn from these losses would learn to prefer the easiest teacher
        weights = step.weights.detach() if term.weighted else step.active
        images = len(step.origin["image"])
        for j, (teacher, rows) in enumerate(zip(self.teachers, step.rows, strict=True)):
            name = f"{teacher.name}/{shown}"
            if j in teachers:
                taken = {key: take(value, rows) for key, value in student.items()}
                loss = term(taken, teachers[j], teacher.name)
                self.critics.keep(step.origin, f"{shown}/{teacher.name}", taken, teachers[j])
            else:
                loss = empty_loss(term, weights.device)
            weighted = strength * (take(weights[:, j], rows) * loss).sum() / images
            yield shown, name, weighted, loss.sum() / images

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


def _rows_of(output: Output, chosen: Tensor) -> Output:
    """The output of some rows (B,) of a batch."""
    logits, label = (None if each is None else each[chosen] for each in (output.logits, output.label))
    features = {name: feature[chosen] for name, feature in output.features.items()}
    return Output(logits, features, tuple(deep[chosen] for deep in output.deep), label)


def make_gradients(methods: Methods, hard_weight: float) -> Gradients | None:
    """What measures the gradients of all terms; None without a supervised loss to compare them with.

    Raises:
        InputError: a weight is to be set from the supervised loss, which does not count.

    >>> from segdistill.distillation import create_method
    >>> make_gradients({"kd": (1.0, create_method("soft_prediction", scale="gradient"))}, hard_weight=0.0)
    Traceback (most recent call last):
    segdistill.errors.InputError: kd: scale gradient needs the supervised loss, but hard_weight is 0: raise it, ...
    """
    terms = {
        "/".join(filter(None, (name, part))): found
        for name, (weight, method) in methods.items()
        for part, found in weighted_terms(weight, method).items()
        if found[0] > 0
    }
    if hard_weight > 0:
        return Gradients(terms) if terms else None
    for name, (_, term) in terms.items():
        if term.scale == "gradient":
            raise InputError(
                f"{name}: scale gradient needs the supervised loss, but hard_weight is 0: raise it, or set scale: "
                "published"
            )
    return None


def build_learned_parts(
    student: nn.Module,
    teachers: Mapping[str, nn.Module | None],
    methods: Methods,
    weighting: Weighting | None = None,
    combine: str = "losses",
) -> None:
    """Builds the learned parts of each method, and of the weighting, for the networks of a stage.

    Args:
        student: its network.
        teachers: name -> network; None for one whose predictions are stored.
        methods: name -> (weight, method).
        weighting: of the teachers.
        combine: as in `Distillation`.

    Raises:
        InputError: the networks do not fit: a feature that one does not have, or different classes. A network that
            declares nothing is checked in the first step, by its output.

    >>> from segdistill.distillation import create_method
    >>> from segdistill.models.registry import create_network
    >>> pair = [create_network("simplified_unet", widths=[4, 8]) for _ in range(2)]
    >>> methods = {"at": (1.0, create_method("attention_transfer", layers=["enc3"]))}
    >>> build_learned_parts(pair[0], {"t": pair[1]}, methods)
    Traceback (most recent call last):
    segdistill.errors.InputError: at: the student has no feature 'enc3': it has enc1 (stride 1), enc2 (stride 2), ...
    """
    _require_same_classes(student, teachers)
    for name, (_, method) in methods.items():
        try:
            own = declared_layers(student, method.features, "the student")
            layers = {}
            for teacher, network in teachers.items():
                if network is None:
                    _require_predictions(method, teacher)
                else:
                    layers[teacher] = declared_layers(network, method.features, f"teacher '{teacher}'")
            method.build(own, layers)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    if weighting is not None:
        weighting.build(declared_layers(student, weighting.features, "the student"), list(teachers))
        if any(True for _ in weighting.parameters()) and not _has_combined_loss(combine, methods):
            raise InputError(
                "a weighting that is learned learns from combined predictions: set combine: predictions, and add a "
                "method that is combinable, such as soft_prediction or amtml"
            )


def _require_predictions(method: DistillationMethod, teacher: str) -> None:
    """Refuses a method that reads more of a teacher than its predictions."""
    if method.features or len(method.critics) or not method.cacheable:
        reads = ", ".join(method.features) or "its network"
        raise InputError(
            f"it reads features of teacher '{teacher}' ({reads}), of which only predictions are stored: set targets: "
            "view, with a stage as the teacher, or use a method of predictions, such as soft_mask"
        )


def _has_combined_loss(combine: str, methods: Methods) -> bool:
    terms = [
        term for weight, method in methods.values() for _, term in weighted_terms(weight, method).values()
    ]
    return combine == "predictions" and any(term.combinable for term in terms)


def _require_same_classes(student: nn.Module, teachers: Mapping[str, nn.Module | None]) -> None:
    own = getattr(student, "classes", None)
    for name, network in teachers.items():
        classes = getattr(network, "classes", None)
        # one sigmoid logit is the same as two softmax classes
        if isinstance(own, int) and isinstance(classes, int) and max(own, 2) != max(classes, 2):
            raise InputError(
                f"the student has {own} classes, teacher '{name}' has {classes}: they must be the same"
            )


def _normalised(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, J) that sum to 1, equal in rows without an active teacher; and their sums (B,) before."""
    total = weights.sum(1)
    none = total[:, None] <= 0
    shares = torch.where(none, 1 / weights.shape[1], weights / total[:, None].clamp(min=1e-12))
    # the smallest positive number in place of 0: the logarithm of a share needs a gradient
    return shares.clamp(min=torch.finfo(shares.dtype).tiny), total
