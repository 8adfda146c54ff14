"""The contract of every knowledge: extraction and comparison are apart, and say whose output they work on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from segdistill.models.network import FeatureInfo, Output

Said = dict[str, Tensor]
"""What a network hands over: name -> (B, ...)."""

Taps = Mapping[str, FeatureInfo]
"""Tap -> what the network declares of the feature that it stands for."""

Logits = Sequence[Tensor | None]
"""Each teacher's logits (B, C, ...); None of a teacher that gives none, or was not asked for them."""

STUDENT = "student"
"""The name under which a knowledge knows the student; teachers have the names that their recipe gives them."""


class Knowledge(ABC):
    """A method of distillation: what a network hands over, and how far the student's is from a teacher's.

    Extraction is the same for teacher and student, and what it gives is small: it can be weighed per sample, mixed
    and cached.

    Attributes:
        features: the taps (see taps.py) that `extract` reads from `Output.features`, under these very names.
        modules: parts that learn together with the student, known after `connect`: they are optimised and
            checkpointed with it, and are no part of its weights. Empty for most.
        compares: options that only `gap` reads: what a teacher hands over is the same, and cached once, whatever they
            are.
        weighed: False where every teacher that speaks counts fully, whatever its weight.
        cacheable: False where what it takes from a teacher's answer changes while the student learns.
    """

    features: tuple[str, ...] = ()
    modules: Mapping[str, nn.Module] = MappingProxyType({})
    compares: tuple[str, ...] = ()
    weighed: bool = True
    cacheable: bool = True

    def connect(self, student: Taps, teachers: Mapping[str, Taps]) -> None:
        """Told once which networks it will see: here learned parts are built, or what is missing is refused.

        Args:
            student: tap -> name, channels and stride of the student's feature; empty for a network that does not
                declare its features.
            teachers: the same for each teacher, by its name.
        """
        return

    @abstractmethod
    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """What a network hands over.

        Args:
            output: its answer.
            target: (B, H, W) class indices, where the method needs them.
            network: whose answer it is; only methods with a part of their own for each network read it.
        """

    @abstractmethod
    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,), one value per sample: how far the student is from what teacher `network` hands over."""


@runtime_checkable
class Mixable(Protocol):
    """Knowledge that several teachers can hand over as one, before it is compared (AMTD's soft predictions)."""

    def mix(self, said: Sequence[Said], weights: Tensor) -> Said:
        """One answer of J teachers, each with its share (B, J) of every sample; shares sum to 1."""


@runtime_checkable
class Keepable(Protocol):
    """Knowledge that the cache keeps in another form than it is compared in: smaller, or shared with other knowledge.

    Attributes:
        keeps: the name of the form; knowledge of one name shares what is kept.
    """

    keeps: str

    def keep(self, output: Output) -> Said:
        """What is kept of a teacher's answer, whatever the options."""

    def recall(self, kept: Said) -> Said:
        """What `extract` would have given, from what was kept."""


@runtime_checkable
class Contested(Protocol):
    """Knowledge with adversaries: networks that train in turns with the student, as players of their own."""

    critics: Mapping[str, nn.Module]
    """Name of a teacher -> its critic, known after `connect`; it returns an `Output` with a label."""

    critic_lr: float | None
    """Learning rate of the critics; None for the stage's."""

    def critic_loss(self, critic: nn.Module, student: Said, teacher: Said) -> Tensor:
        """Scalar loss of a teacher's critic, from what it and the student hand over, without a graph."""


class Heard(NamedTuple):
    """What can be known of a batch when its teachers are weighed: the arguments of `Weighing.__call__`."""

    logits: Logits
    target: Tensor
    student: Output | None = None


class Weighing(ABC):
    """Weights of J teachers on each of B samples.

    Attributes:
        features: the taps that it reads of the student.
        modules: what it learns, known after `connect`: optimised and checkpointed with the student, and no part of
            its weights. Empty for all but adaptive_factors.py.
        reads_logits: whether it looks at what the teachers predict; else a cache need not keep it for the weights.
    """

    features: tuple[str, ...] = ()
    modules: Mapping[str, nn.Module] = MappingProxyType({})
    reads_logits: bool = False

    def connect(self, student: Taps, teachers: Sequence[str]) -> None:
        """Told once which networks it will see: what the student declares of the taps, and the teachers' names."""
        return

    def __call__(
        self, given: Tensor, logits: Logits, target: Tensor, student: Output | None = None
    ) -> Tensor:
        """(B, J) weights; without a graph unless they are learned.

        Args:
            given: (B, J) weights of the recipe; 0 where a teacher does not speak, and it then stays 0.
            logits: of each teacher; not looked at where `reads_logits` is False.
            target: (B, ...) class indices.
            student: its answer, for learned weights.
        """
        return self.weigh(given, Heard(logits, target, student))

    @abstractmethod
    def weigh(self, given: Tensor, heard: Heard) -> Tensor:
        """(B, J) weights, from those of the recipe and what was heard of the batch: see `__call__`."""

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss; none for most."""
        return None
