"""Methods that are a weighted sum of others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segdistill.distillation.base import STUDENT, Knowledge, Said, Taps
from segdistill.errors import InputError
from segdistill.models.network import Output

Weighted = dict[str, tuple[float, Knowledge]]
"""Name -> (weight, knowledge)."""


class Composed(Knowledge):
    """A method with several terms, whose gap is the sum of weight x gap.

    In a distillation each term stands for itself (see `flat`): in the curves, and in what is mixed.

    Args:
        name: of the method, for messages.
        parts: name -> (weight, knowledge); those of weight 0 are left out.

    Raises:
        InputError: a negative weight, or none above 0.

    >>> from segdistill.distillation.methods.soft_prediction import SoftPrediction
    >>> Composed("mine", {"prediction": (0.0, SoftPrediction())})
    Traceback (most recent call last):
    segdistill.errors.InputError: mine: all of prediction are 0: nothing is left to learn from
    """

    def __init__(self, name: str, parts: Weighted) -> None:
        for part, (weight, _) in parts.items():
            if weight < 0:
                raise InputError(f"{name}: {part} must not be negative, not {weight}")
        self.parts = {part: term for part, term in parts.items() if term[0] > 0}
        if not self.parts:
            raise InputError(f"{name}: all of {', '.join(parts)} are 0: nothing is left to learn from")
        self.features = tuple(dict.fromkeys(tap for _, term in self.parts.values() for tap in term.features))

    def connect(self, student: Taps, teachers: Mapping[str, Taps]) -> None:
        """Shows every term the networks."""
        for _, term in self.parts.values():
            term.connect(student, teachers)
        self.modules = {
            f"{part}/{name}": module
            for part, (_, term) in self.parts.items()
            for name, module in term.modules.items()
        }

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """What each term takes, under `part/name`."""
        return {
            f"{part}/{name}": value
            for part, (_, term) in self.parts.items()
            for name, value in term.extract(output, target, network).items()
        }

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) weighted sum of the terms' gaps."""
        gaps = [
            weight * term.gap(within(student, part), within(teacher, part), network)
            for part, (weight, term) in self.parts.items()
        ]
        return sum(gaps[1:], gaps[0])


def within(said: Said, part: str) -> Said:
    """What one term of a method has in what the method has; all of it for the term "", the method itself.

    >>> import torch
    >>> list(within({"pair/encoder": torch.zeros(1), "pixel/log_probability": torch.zeros(1)}, "pair"))
    ['encoder']
    """
    if not part:
        return said
    start = f"{part}/"
    return {name.removeprefix(start): value for name, value in said.items() if name.startswith(start)}


def flat(weight: float, method: Knowledge) -> Weighted:
    """The terms of a method with their weights in all, by the name that `within` takes; "" for a method of one term.

    >>> from segdistill.distillation.methods.soft_prediction import SoftPrediction
    >>> method = Composed("mine", {"prediction": (0.5, SoftPrediction())})
    >>> {name: weight for name, (weight, _) in flat(4.0, method).items()}
    {'prediction': 2.0}
    >>> list(flat(4.0, SoftPrediction()))
    ['']
    """
    if not isinstance(method, Composed):
        return {"": (weight, method)}
    return {
        f"{part}/{name}" if name else part: term
        for part, (own, inner) in method.parts.items()
        for name, term in flat(weight * own, inner).items()
    }
