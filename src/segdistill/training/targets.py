"""What the teachers say of a batch, each of the samples that it speaks on: asked now, or recalled from a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from segdistill.distillation import DistillationMethod, Teacher
from segdistill.distillation.base import Targets
from segdistill.training.task import Batch

Rows = Tensor | None
"""Positions in the batch, in rising order; None for the whole batch."""


class TeacherTargets(Protocol):
    """The teachers' answers to one batch; those of teacher j are of the rows that it speaks on."""

    def logits(self, teacher: int) -> Tensor | None:
        """(rows, C, ...), up to what softmax ignores; None for a classifier."""

    def targets(self, teacher: int, methods: str) -> Targets:
        """What a distillation method takes from the teacher, name -> (rows, ...)."""


class CachedTargets(Protocol):
    """Answers that lie in the batch already."""

    def __call__(self, batch: Batch) -> TeacherTargets:
        """The answers to a batch."""


class LiveTargets:
    """Answers of the teachers themselves, each run once, on its own rows only.

    Args:
        teachers: J frozen teachers.
        methods: name -> method that takes from their answers.
        features: the layers that these read.
        batch: images and masks.
        rows: of each teacher.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        methods: Mapping[str, DistillationMethod],
        features: Sequence[str],
        batch: Batch,
        rows: Sequence[Rows],
    ) -> None:
        self.teachers, self.methods, self.batch = teachers, methods, batch
        self.masks = [take(batch["mask"], own) for own in rows]
        self.outputs = [
            None if is_silent(own) else teacher.ask(take(batch["image"], own), features)
            for teacher, own in zip(teachers, rows, strict=True)
        ]

    def logits(self, teacher: int) -> Tensor | None:
        """(rows, C, ...) as the teacher gave them."""
        output = self.outputs[teacher]
        if output is not None:
            return output.logits
        shape = self.teachers[teacher](self.batch["image"][:1]).logits  # only for the shape of nothing
        return None if shape is None else shape[:0]

    def targets(self, teacher: int, methods: str) -> Targets:
        """Extracted from the answer of a teacher that speaks."""
        output = self.outputs[teacher]
        assert output is not None, "a silent teacher says nothing"
        return self.methods[methods].targets(output, self.masks[teacher], self.teachers[teacher].name)


def speaking(weights: Tensor) -> Rows:
    """The rows of (B,) weights above 0.

    >>> speaking(torch.tensor([0.5, 0.0, 0.5])), speaking(torch.ones(2))
    (tensor([0, 2]), None)
    """
    found = (weights > 0).nonzero()[:, 0]
    return None if len(found) == len(weights) else found


def is_silent(rows: Rows) -> bool:
    """Whether there is no row on which the teacher speaks.

    >>> is_silent(speaking(torch.zeros(2))), is_silent(None)
    (True, False)
    """
    return rows is not None and not len(rows)


def nothing(method: DistillationMethod, like: Tensor) -> Tensor:
    """The loss (0,) of a silent teacher, with a graph through what the method learns: with several processes each waits
    for the same gradients.
    """
    learned = [part.sum() for module in method.modules.values() for part in module.parameters()]
    zero = torch.stack(learned).sum() * 0 if learned else like.detach() * 0
    return zero.expand(1)[:0]


def take(values: Tensor, rows: Rows) -> Tensor:
    """The rows of (B, ...).

    >>> take(torch.tensor([1, 2, 3]), torch.tensor([0, 2]))
    tensor([1, 3])
    """
    return values if rows is None else values[rows.to(values.device)]


def spread(values: Tensor, rows: Rows, length: int) -> Tensor:
    """(rows, ...) at their places among `length` rows of zeros.

    >>> spread(torch.tensor([1.0, 3.0]), torch.tensor([0, 2]), 3)
    tensor([1., 0., 3.])
    """
    if rows is None:
        return values
    whole = values.new_zeros(length, *values.shape[1:])
    whole[rows.to(values.device)] = values
    return whole


def take_all(targets: Targets, rows: Rows) -> Targets:
    """`take` of everything that is said."""
    return targets if rows is None else {name: take(value, rows) for name, value in targets.items()}


def spread_all(targets: Targets, rows: Rows, length: int) -> Targets:
    """`spread` of everything that is said."""
    return {name: spread(value, rows, length) for name, value in targets.items()}
