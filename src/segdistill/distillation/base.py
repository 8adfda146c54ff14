"""The contract of every method: extraction and comparison are apart, and say whose output they work on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from segdistill.models.network import FeatureInfo, Output

Targets = dict[str, Tensor]
"""What a network hands over: name -> (B, ...)."""

Layers = Mapping[str, FeatureInfo]
"""Layer -> what the network declares of the feature that it stands for."""

Logits = Sequence[Tensor | None]
"""Each teacher's logits (B, C, ...); None of a teacher that gives none, or was not asked for them."""

STUDENT = "student"
"""The name under which a distillation method knows the student; teachers have the names that their recipe gives them."""


class DistillationMethod(ABC):
    """A method of distillation: what a network hands over, and how far the student's is from a teacher's.

    Extraction is the same for teacher and student, and what it gives is small: it can be weighed per sample, mixed
    and cached.

    Attributes:
        features: the layers (see layers.py) that `extract` reads from `Output.features`, under these very names.
        modules: parts that learn together with the student, known after `connect`: they are optimised and
            checkpointed with it, and are no part of its weights. Empty for most.
        compares: options that only `loss` reads: what a teacher hands over is the same, and cached once, whatever they
            are.
        weighed: False where every teacher that speaks counts fully, whatever its weight.
        cacheable: False where what it takes from a teacher's answer changes while the student learns.
    """

    features: tuple[str, ...] = ()
    modules: Mapping[str, nn.Module] = MappingProxyType({})
    compares: tuple[str, ...] = ()
    weighed: bool = True
    cacheable: bool = True

    def connect(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Told once which networks it will see: here learned parts are built, or what is missing is refused.

        Args:
            student: layer -> name, channels and stride of the student's feature; empty for a network that does not
                declare its features.
            teachers: the same for each teacher, by its name.
        """
        return

    @abstractmethod
    def targets(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Targets:
        """What a network hands over.

        Args:
            output: its answer.
            target: (B, H, W) class indices, where the method needs them.
            network: whose answer it is; only methods with a part of their own for each network read it.
        """

    @abstractmethod
    def loss(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,), one value per sample: how far the student is from what teacher `network` hands over."""


@runtime_checkable
class Combinable(Protocol):
    """Method that several teachers can hand over as one, before it is compared (AMTD's soft predictions)."""

    def combine_targets(self, targets: Sequence[Targets], weights: Tensor) -> Targets:
        """One answer of J teachers, each with its share (B, J) of every sample; shares sum to 1."""


@runtime_checkable
class Cacheable(Protocol):
    """Method that the cache keeps in another form than it is compared in: smaller, or shared with other method.

    Attributes:
        keeps: the name of the form; method of one name shares what is kept.
    """

    keeps: str

    def keep(self, output: Output) -> Targets:
        """What is kept of a teacher's answer, whatever the options."""

    def recall(self, kept: Targets) -> Targets:
        """What `extract` would have given, from what was kept."""


@runtime_checkable
class WithCritics(Protocol):
    """Method with adversaries: networks that train in turns with the student, as players of their own."""

    critics: Mapping[str, nn.Module]
    """Name of a teacher -> its critic, known after `connect`; it returns an `Output` with a label."""

    critic_lr: float | None
    """Learning rate of the critics; None for the stage's."""

    def critic_loss(self, critic: nn.Module, student: Targets, teacher: Targets) -> Tensor:
        """Scalar loss of a teacher's critic, from what it and the student hand over, without a graph."""


class Evidence(NamedTuple):
    """What can be known of a batch when its teachers are weighed: the arguments of `Weighting.__call__`."""

    logits: Logits
    target: Tensor
    student: Output | None = None


class Weighting(ABC):
    """Weights of J teachers on each of B samples.

    Attributes:
        features: the layers that it reads of the student.
        modules: what it learns, known after `connect`: optimised and checkpointed with the student, and no part of
            its weights. Empty for all but adaptive_factors.py.
        reads_logits: whether it looks at what the teachers predict; else a cache need not keep it for the weights.
    """

    features: tuple[str, ...] = ()
    modules: Mapping[str, nn.Module] = MappingProxyType({})
    reads_logits: bool = False

    def connect(self, student: Layers, teachers: Sequence[str]) -> None:
        """Told once which networks it will see: what the student declares of the layers, and the teachers' names."""
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
        return self.weights_of(given, Evidence(logits, target, student))

    @abstractmethod
    def weights_of(self, given: Tensor, evidence: Evidence) -> Tensor:
        """(B, J) weights, from those of the recipe and what was heard of the batch: see `__call__`."""

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss; none for most."""
        return None
