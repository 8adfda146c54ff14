"""Whose word weighs how much: one weight per sample and teacher.

AMTD contradicts itself here. Printed is w_j = L_j / sum L_k with the Dice loss L, which gives the worse teacher the
larger weight; but its Eq. 8, said to be that loss, is the Dice coefficient D, and the prose wants the better teacher
heavier. So "score" is the default among adaptive weights, and "printed" shows what the literal reading does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segdistill.distillation.base import Evidence, Layers, Weighting
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import exact
from segdistill.errors import InputError
from segdistill.losses import one_hot, probabilities
from segdistill.registry import build


class Adapter(nn.Module):
    """Scores of J teachers from the student's feature: a_j = w . (beta * theta_j).

    Args:
        channels: C of the feature.
        teachers: J.

    Attributes:
        taken: how many batches it has weighed in training; state, so that a resumed training knows its phase.

    >>> Adapter(4, 2)(torch.rand(3, 4)).shape
    torch.Size([3, 2])
    """

    taken: Tensor

    def __init__(self, channels: int, teachers: int) -> None:
        super().__init__()
        # both of length about 1, whatever C is: the weights begin near 1 / J, and the penalty near 0.1 (1 + J)
        self.factors = nn.Parameter(torch.randn(teachers, channels) * channels**-0.5)
        self.scorer = nn.Parameter(torch.randn(channels) * channels**-0.5)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C) to (B, J)."""
        with exact(feature):
            return feature @ (self.factors * self.scorer).T


class AdaptiveFactors(Weighting):
    """Learned weights of teachers for each image (AMTML-KD, Liu, Zhang and Wang 2020).

    beta is the student's deepest feature, global maximum of each channel; softmax over the teachers of w . (beta *
    theta_j). It learns from the mixture of the teachers' predictions, so a stage needs `combine: predictions` and method
    that can be mixed. The student gets no gradient through beta: it is to come closer to its teachers, not to choose
    them.

    Args:
        layer: of the student's feature, see layers.py.
        penalty: of |w|^2 + |theta|^2, added to the loss.
        steps: batches after which the weights learn no more (the second phase of the original, which comes after 70
            epochs); 0 for never.

    >>> from segdistill.models.network import FeatureInfo, Output
    >>> weighting = AdaptiveFactors()
    >>> weighting.connect({"encoder": FeatureInfo("encoder", 8, 4)}, ["a", "b"])
    >>> output = Output(None, {"encoder": torch.rand(3, 8, 4, 4)})
    >>> weights = weighting(torch.ones(3, 2), [], torch.zeros(3, 4, 4), output)
    >>> weights.shape, weights.sum(1).allclose(torch.ones(3))
    (torch.Size([3, 2]), True)
    """

    def __init__(self, layer: str = "encoder", penalty: float = 0.1, steps: int = 0) -> None:
        if penalty < 0 or steps < 0:
            raise InputError("weighting adaptive_factors: penalty and steps must not be negative")
        self.features = parse_layers("adaptive_factors", [layer])
        self.strength, self.steps = penalty, steps

    def connect(self, student: Layers, teachers: Sequence[str]) -> None:
        """Builds the factors.

        Raises:
            InputError: the student does not declare its features.
        """
        (layer,) = self.features
        if layer not in student:
            raise InputError(
                "weighting adaptive_factors needs a student that declares its features (feature_info)"
            )
        self.modules = {"adapter": Adapter(student[layer].channels, len(teachers))}

    @property
    def adapter(self) -> Adapter:
        """The learned part, known after `connect`."""
        return cast(Adapter, self.modules["adapter"])

    def _learns(self) -> bool:
        return not self.steps or int(self.adapter.taken) <= self.steps

    def weights_of(self, given: Tensor, evidence: Evidence) -> Tensor:
        """(B, J) with a graph while it learns; rows sum to 1 where anybody speaks."""
        assert evidence.student is not None
        adapter = self.adapter
        if adapter.training:
            adapter.taken += 1
        beta = evidence.student.features[self.features[0]].detach().float().flatten(2).amax(2)
        scores = adapter(beta)
        if not self._learns():
            scores = scores.detach()
        speaks = given > 0
        # a row of -inf would be NaN, and NaN gradients pass `where`
        scores = scores.masked_fill(~speaks & speaks.any(1, keepdim=True), -torch.inf)
        return torch.where(speaks, scores.softmax(1), 0)

    def penalty(self) -> Tensor:
        """Scalar; in the second phase without a gradient."""
        adapter = self.adapter
        penalty = self.strength * (adapter.scorer.square().sum() + adapter.factors.square().sum())
        return penalty if self._learns() else penalty.detach()


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


class Uniform(Weighting):
    """1 / J for all who speak: the baseline of adaptive weights.

    >>> Uniform()(torch.tensor([[0.5, 0.2]]), [], torch.zeros(1, 2, 2)).tolist()
    [[0.5, 0.5]]
    """

    def weights_of(self, given: Tensor, evidence: Evidence) -> Tensor:
        """(B, J), equal in each row."""
        return shares(torch.ones_like(given), given > 0)


class Fixed(Weighting):
    """The weights of the recipe as they are (LightBTSeg: 0.5 and 0.2); they need not sum to 1.

    >>> Fixed()(torch.tensor([[0.5, 0.25]]), [], torch.zeros(1, 2, 2)).tolist()
    [[0.5, 0.25]]
    """

    def weights_of(self, given: Tensor, evidence: Evidence) -> Tensor:
        """(B, J), as given."""
        return given


class _ByScore(Weighting):
    """Weights from each teacher's soft Dice on the very sample; what the recipe gives only decides who speaks."""

    reads_logits = True

    def weights_of(self, given: Tensor, evidence: Evidence) -> Tensor:
        """(B, J); rows sum to 1 where anybody speaks."""
        known = [each for each in evidence.logits if each is not None]
        if len(known) < len(evidence.logits):
            raise InputError("weights by score need teachers with logits, not classifiers")
        scores = torch.stack([soft_dice_score(each, evidence.target) for each in known], dim=1)
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
            raise InputError(f"weighting softmax: temperature must be positive, not {temperature}")
        self.temperature = temperature

    def weights(self, scores: Tensor, speaks: Tensor) -> Tensor:
        """(B, J); 0 for all where nobody speaks."""
        sharp = (scores / self.temperature).masked_fill(~speaks, -torch.inf).softmax(1)
        return torch.where(speaks, sharp, 0)


WEIGHTINGS: dict[str, Callable[..., Weighting]] = {
    "fixed": Fixed,
    "uniform": Uniform,
    "score": Score,
    "printed": Printed,
    "softmax": Softmax,
    "adaptive_factors": AdaptiveFactors,
}


def create_weighting(name: str = "score", **options: Any) -> Weighting:
    """Builds the weighting that is registered as `name`.

    Raises:
        InputError: unknown name or option, or an option of another type.

    >>> type(create_weighting()).__name__
    'Score'
    """
    return build("weighting", WEIGHTINGS, name, options)
