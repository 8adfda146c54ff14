"""The teachers' targets for a batch, computed now or read from a cache; each teacher only on its active rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from segdistill.data.maps import LARGEST
from segdistill.data.views import MAP, references
from segdistill.distillation import DistillationMethod, Teacher
from segdistill.distillation.base import Targets, trained_with_student
from segdistill.models.network import Output
from segdistill.training.task import Batch

Rows = Tensor | None
"""Positions in the batch on which a teacher is active, in rising order; None for the whole batch."""


class TeacherTargets(Protocol):
    """All teachers' targets for one batch, each on its active rows."""

    def logits(self, teacher: int) -> Tensor | None:
        """(rows, C, ...), up to what softmax ignores; None for a classifier."""

    def targets(self, teacher: int, method: str) -> Targets:
        """Name -> (rows, ...), for a method by its name."""


class LiveTargets:
    """Targets from the teachers themselves, each run once, on its active rows only.

    Args:
        teachers: J frozen teachers.
        methods: name -> method.
        features: the layers that the methods read.
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
        known = references(batch)
        self.masks = [take(known, own) for own in rows]
        self.outputs = [
            None if is_empty(own) else teacher(take(batch["image"], own), features)
            for teacher, own in zip(teachers, rows, strict=True)
        ]

    def logits(self, teacher: int) -> Tensor | None:
        """(rows, C, ...) of the teacher's output."""
        output = self.outputs[teacher]
        if output is not None:
            return output.logits
        shape = self.teachers[teacher](self.batch["image"][:1]).logits  # run only for the shape of no rows
        return None if shape is None else shape[:0]

    def targets(self, teacher: int, method: str) -> Targets:
        """Targets of a teacher that has active rows."""
        output = self.outputs[teacher]
        assert output is not None, "a teacher without active rows has no targets"
        return self.methods[method].targets(output, self.masks[teacher], self.teachers[teacher].name)


class MapTargets:
    """Targets from stored predictions, which the batch holds as maps warped with its images.

    Args:
        teachers: names of the J teachers.
        methods: name -> method, of predictions alone.
        batch: with a map for each teacher.
        rows: of each teacher.
    """

    def __init__(
        self,
        teachers: Sequence[str],
        methods: Mapping[str, DistillationMethod],
        batch: Batch,
        rows: Sequence[Rows],
    ) -> None:
        self.teachers, self.methods, self.batch, self.rows = teachers, methods, batch, rows

    def logits(self, teacher: int) -> Tensor:
        """(rows, C, H, W): 0 for the background, the log-odds against it for the other classes."""
        codes = take(self.batch[f"{MAP}{self.teachers[teacher]}"], self.rows[teacher])
        odds = codes.float() * (2 * LARGEST / 255) - LARGEST
        return torch.cat([torch.zeros_like(odds[:, :1]), odds], dim=1)

    def targets(self, teacher: int, method: str) -> Targets:
        """Targets of a teacher that has active rows."""
        mask = take(references(self.batch), self.rows[teacher])
        output = Output(self.logits(teacher), {})
        return self.methods[method].targets(output, mask, self.teachers[teacher])


def active_rows(weights: Tensor) -> Rows:
    """The rows of (B,) weights above 0.

    >>> active_rows(torch.tensor([0.5, 0.0, 0.5])), active_rows(torch.ones(2))
    (tensor([0, 2]), None)
    """
    found = (weights > 0).nonzero()[:, 0]
    return None if len(found) == len(weights) else found


def is_empty(rows: Rows) -> bool:
    """Whether the teacher has no active row.

    >>> is_empty(active_rows(torch.zeros(2))), is_empty(None)
    (True, False)
    """
    return rows is not None and not len(rows)


def empty_loss(method: DistillationMethod, device: torch.device) -> Tensor:
    """The loss (0,) of a teacher without active rows.

    Its graph passes through all that the method learns: with several processes each waits for the same gradients.
    """
    learned = [weight.sum() for part in trained_with_student(method) for weight in part.parameters()]
    zero = torch.stack(learned).sum() * 0 if learned else torch.zeros((), device=device)
    return zero.expand(1)[:0]


def take(values: Tensor, rows: Rows) -> Tensor:
    """The rows of (B, ...).

    >>> take(torch.tensor([1, 2, 3]), torch.tensor([0, 2]))
    tensor([1, 3])
    """
    return values if rows is None else values[rows.to(values.device)]


def put_back(values: Tensor, rows: Rows, length: int) -> Tensor:
    """(rows, ...) at their places among `length` rows of zeros.

    >>> put_back(torch.tensor([1.0, 3.0]), torch.tensor([0, 2]), 3)
    tensor([1., 0., 3.])
    """
    if rows is None:
        return values
    whole = values.new_zeros(length, *values.shape[1:])
    whole[rows.to(values.device)] = values
    return whole
