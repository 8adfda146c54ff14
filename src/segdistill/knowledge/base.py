"""The contract of every knowledge: extraction and comparison are apart, and say whose output they work on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.output import FeatureInfo, Output

Said = dict[str, Tensor]
"""What a network hands over: name -> (B, ...)."""

Taps = Mapping[str, FeatureInfo]
"""Tap -> what the network declares of the feature that it stands for."""

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
    """

    features: tuple[str, ...] = ()
    modules: Mapping[str, nn.Module] = MappingProxyType({})

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


def require_one_of(knowledge: str, option: str, value: object, valid: Sequence[object]) -> None:
    """Refuses an option that is not one of its values.

    >>> require_one_of("attention_transfer", "exponent", 3, (1, 2, 4))
    Traceback (most recent call last):
    segdistill.errors.InputError: attention_transfer: exponent 3 is none of 1, 2, 4
    """
    if not any(value == choice and type(value) is type(choice) for choice in valid):
        raise InputError(f"{knowledge}: {option} {value} is none of {', '.join(map(str, valid))}")
