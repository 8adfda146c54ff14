"""Methods that are a weighted sum of others."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segdistill.distillation.base import STUDENT, DistillationMethod, Layers, Targets
from segdistill.errors import InputError
from segdistill.models.network import Output

Weighted = dict[str, tuple[float, DistillationMethod]]
"""Name -> (weight, method)."""


class Composed(DistillationMethod):
    """A method with several terms, whose loss is the sum of weight x loss.

    In a distillation each term stands for itself (see `flat`): in the curves, and in what is mixed.

    Args:
        name: of the method, for messages.
        parts: name -> (weight, method); those of weight 0 are left out.

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
        self.features = tuple(
            dict.fromkeys(layer for _, term in self.parts.values() for layer in term.features)
        )

    def connect(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Shows every term the networks."""
        for _, term in self.parts.values():
            term.connect(student, teachers)
        self.modules = {
            f"{part}/{name}": module
            for part, (_, term) in self.parts.items()
            for name, module in term.modules.items()
        }

    def targets(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Targets:
        """What each term takes, under `part/name`."""
        return {
            f"{part}/{name}": value
            for part, (_, term) in self.parts.items()
            for name, value in term.targets(output, target, network).items()
        }

    def loss(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) weighted sum of the terms' losses."""
        losses = [
            weight * term.loss(within(student, part), within(teacher, part), network)
            for part, (weight, term) in self.parts.items()
        ]
        return sum(losses[1:], losses[0])


def within(targets: Targets, part: str) -> Targets:
    """What one term of a method has in what the method has; all of it for the term "", the method itself.

    >>> import torch
    >>> list(within({"pair/encoder": torch.zeros(1), "pixel/log_probability": torch.zeros(1)}, "pair"))
    ['encoder']
    """
    if not part:
        return targets
    start = f"{part}/"
    return {name.removeprefix(start): value for name, value in targets.items() if name.startswith(start)}


def flat(weight: float, method: DistillationMethod) -> Weighted:
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
