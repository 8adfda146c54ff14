"""Whose word weighs how much: one weight per sample and teacher.

AMTD contradicts itself here. Printed is w_j = L_j / sum L_k with the Dice loss L, which gives the worse teacher the
larger weight; but its Eq. 8, said to be that loss, is the Dice coefficient D, and the prose wants the better teacher
heavier. So "score" is the default among adaptive weights, and "printed" shows what the literal reading does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.adaptive_factors import AdaptiveFactors
from segdistill.knowledge.base import Heard, Weighing
from segdistill.losses import one_hot, probabilities
from segdistill.registry import build


@torch.no_grad()
def soft_dice_score(logits: Tensor, target: Tensor) -> Tensor:
    """D = 2 sum(P G) / (sum(P) + sum(G)) of the foreground, mean over its classes, at temperature 1, per sample.

    No smoothing: a sample without foreground scores 0, with every teacher, and so weighs all of them alike.

    >>> target = torch.tensor([[[0, 1]], [[0, 0]]])
    >>> soft_dice_score(torch.zeros(2, 2, 1, 2), target).tolist()
    [0.5, 0.0]
    """
    predicted = probabilities(logits).flatten(2)[:, 1:]
    reference = one_hot(target, predicted.shape[1] + 1).flatten(2)[:, 1:]
    overlap, total = (predicted * reference).sum(2), predicted.sum(2) + reference.sum(2)
    return torch.where(total > 0, 2 * overlap / torch.where(total > 0, total, 1), 0).mean(1)


def shares(values: Tensor, speaks: Tensor) -> Tensor:
    """Each row of (B, J) values over its sum, over those who speak; equal shares where all values are 0.

    >>> shares(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([[True, True], [True, True]])).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    values = torch.where(speaks, values, 0)
    total = values.sum(1, keepdim=True)
    equal = speaks.float() / speaks.sum(1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, values / torch.where(total > 0, total, 1), equal)


class Uniform(Weighing):
    """1 / J for all who speak: the baseline of adaptive weights.

    >>> Uniform()(torch.tensor([[0.5, 0.2]]), [], torch.zeros(1, 2, 2)).tolist()
    [[0.5, 0.5]]
    """

    def weigh(self, given: Tensor, heard: Heard) -> Tensor:
        """(B, J), equal in each row."""
        return shares(torch.ones_like(given), given > 0)


class Fixed(Weighing):
    """The weights of the recipe as they are (LightBTSeg: 0.5 and 0.2); they need not sum to 1.

    >>> Fixed()(torch.tensor([[0.5, 0.25]]), [], torch.zeros(1, 2, 2)).tolist()
    [[0.5, 0.25]]
    """

    def weigh(self, given: Tensor, heard: Heard) -> Tensor:
        """(B, J), as given."""
        return given


class _ByScore(Weighing):
    """Weights from each teacher's soft Dice on the very sample; what the recipe gives only decides who speaks."""

    reads_logits = True

    def weigh(self, given: Tensor, heard: Heard) -> Tensor:
        """(B, J); rows sum to 1 where anybody speaks."""
        known = [each for each in heard.logits if each is not None]
        if len(known) < len(heard.logits):
            raise InputError("weights by score need teachers with logits, not classifiers")
        scores = torch.stack([soft_dice_score(each, heard.target) for each in known], dim=1)
        return self.weights(scores, given > 0)

    @abstractmethod
    def weights(self, scores: Tensor, speaks: Tensor) -> Tensor:
        """(B, J) from scores (B, J)."""


class Score(_ByScore):
    """w_j = D_j / sum_k D_k: the better teacher weighs more (AMTD as its prose wants it).

    >>> weights = Score().weights(torch.tensor([[0.9, 0.6]]), torch.tensor([[True, True]]))
    >>> [round(w, 3) for w in weights[0].tolist()]
    [0.6, 0.4]
    """

    def weights(self, scores: Tensor, speaks: Tensor) -> Tensor:
        """(B, J) shares of the scores; equal where no teacher overlaps the reference."""
        return shares(scores, speaks)


class Printed(_ByScore):
    """w_j = (1 - D_j) / sum_k (1 - D_k): AMTD's formula read literally, by which the worse teacher weighs more.

    >>> weights = Printed().weights(torch.tensor([[0.9, 0.6]]), torch.tensor([[True, True]]))
    >>> [round(w, 3) for w in weights[0].tolist()]
    [0.2, 0.8]
    """

    def weights(self, scores: Tensor, speaks: Tensor) -> Tensor:
        """(B, J) shares of the Dice losses; equal where all are perfect."""
        return shares(1 - scores, speaks)


class Softmax(_ByScore):
    """w = softmax(D / temperature): sharper than shares, which stay close to 1/J for good teachers; not in the paper.

    >>> weights = Softmax().weights(torch.tensor([[0.9, 0.6]]), torch.tensor([[True, True]]))
    >>> [round(w, 3) for w in weights[0].tolist()]
    [0.953, 0.047]
    """

    def __init__(self, temperature: float = 0.1) -> None:
        if temperature <= 0:
            raise InputError(f"weighing softmax: temperature must be positive, not {temperature}")
        self.temperature = temperature

    def weights(self, scores: Tensor, speaks: Tensor) -> Tensor:
        """(B, J); 0 for all where nobody speaks."""
        sharp = (scores / self.temperature).masked_fill(~speaks, -torch.inf).softmax(1)
        return torch.where(speaks, sharp, 0)


WEIGHINGS: dict[str, Callable[..., Weighing]] = {
    "fixed": Fixed,
    "uniform": Uniform,
    "score": Score,
    "printed": Printed,
    "softmax": Softmax,
    "adaptive_factors": AdaptiveFactors,
}


def create_weighing(name: str = "score", **options: Any) -> Weighing:
    """Builds the weighing that is registered as `name`.

    Raises:
        InputError: unknown name or option, or an option of another type.

    >>> type(create_weighing()).__name__
    'Score'
    """
    return build("weighing", WEIGHINGS, name, options)
