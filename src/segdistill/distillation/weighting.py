"""Weightings: how much each teacher counts on each sample.

AMTD contradicts itself here. Printed is w_j = L_j / sum L_k with the Dice loss L, which gives the worse teacher the
larger weight. But its Eq. 8, introduced as that loss, is the Dice coefficient D, and the text wants the better teacher
to count more. So "score" is the default among adaptive weights, and "printed" is the literal formula.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.distillation.base import Layers
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import exact
from segdistill.errors import InputError
from segdistill.losses import one_hot, probabilities
from segdistill.models.network import Output
from segdistill.registry import Registry

Logits = Sequence[Tensor | None]
"""(B, C, ...) of each teacher; None for a classifier, or if they are not read."""


class Weighting(nn.Module, ABC):
    """Weights of J teachers on each of B samples.

    Learned parts are parameters or submodules: optimised and checkpointed with the student, never saved with its
    weights.

    Attributes:
        features: layers that it reads of the student.
        reads_logits: it reads the teachers' logits; otherwise a cache need not keep them for it.
    """

    features: tuple[str, ...] = ()
    reads_logits: bool = False

    def build(self, student: Layers, teachers: Sequence[str]) -> None:
        """Makes the learned parts from the student's layers and the teachers' names; called once before training."""
        return

    @abstractmethod
    def forward(self, given: Tensor, logits: Logits, mask: Tensor, student: Output | None = None) -> Tensor:
        """(B, J) weights; without a graph unless they are learned.

        Args:
            given: (B, J) weights of the recipe; where one is 0 the teacher is not active, and its weight stays 0.
            logits: of each teacher.
            mask: (B, ...) class indices.
            student: its output, for learned weights.
        """

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss; None for most."""
        return None


WEIGHTINGS: Registry[Weighting] = Registry("teacher weighting", extra="train")
register_weighting, list_weightings = WEIGHTINGS.register, WEIGHTINGS.names


def create_weighting(name: str = "score", **options: Any) -> Weighting:
    """Builds the teacher weighting that is registered as `name`.

    Raises:
        InputError: unknown name or option, or a value that the option does not take.

    >>> type(create_weighting()).__name__
    'Score'
    """
    return WEIGHTINGS.build(name, options)


def shares(values: Tensor, active: Tensor) -> Tensor:
    """Each row of (B, J) values divided by its sum over the active teachers; equal shares if all values are 0.

    >>> shares(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), torch.tensor([[True, True], [True, True]])).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    values = torch.where(active, values, 0)
    total = values.sum(1, keepdim=True)
    equal = active.float() / active.sum(1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, values / torch.where(total > 0, total, 1), equal)


@torch.no_grad()
def soft_dice_score(logits: Tensor, target: Tensor) -> Tensor:
    """D = 2 sum(P G) / (sum(P) + sum(G)) of the foreground, mean over its classes, at temperature 1, per sample.

    No smoothing: a sample without foreground scores 0 with every teacher, so all of them get equal weights there.

    >>> target = torch.tensor([[[0, 1]], [[0, 0]]])
    >>> soft_dice_score(torch.zeros(2, 2, 1, 2), target).tolist()
    [0.5, 0.0]
    """
    predicted = probabilities(logits).flatten(2)[:, 1:]
    reference = one_hot(target, predicted.shape[1] + 1).flatten(2)[:, 1:]
    overlap, total = (predicted * reference).sum(2), predicted.sum(2) + reference.sum(2)
    return torch.where(total > 0, 2 * overlap / torch.where(total > 0, total, 1), 0).mean(1)


@register_weighting("fixed")
class Fixed(Weighting):
    """The weights of the recipe as they are (LightBTSeg: 0.5 and 0.2); they need not sum to 1.

    >>> Fixed()(torch.tensor([[0.5, 0.25]]), [], torch.zeros(1, 2, 2)).tolist()
    [[0.5, 0.25]]
    """

    def forward(self, given: Tensor, logits: Logits, mask: Tensor, student: Output | None = None) -> Tensor:
        """(B, J), as given."""
        return given


@register_weighting("uniform")
class Uniform(Weighting):
    """1 / J for each of J active teachers: the baseline of adaptive weights.

    >>> Uniform()(torch.tensor([[0.5, 0.2]]), [], torch.zeros(1, 2, 2)).tolist()
    [[0.5, 0.5]]
    """

    def forward(self, given: Tensor, logits: Logits, mask: Tensor, student: Output | None = None) -> Tensor:
        """(B, J), equal in each row."""
        return shares(torch.ones_like(given), given > 0)


class _ByScore(Weighting):
    """Weights from each teacher's soft Dice on the sample; the recipe's only decide which teachers are active."""

    reads_logits = True

    def forward(self, given: Tensor, logits: Logits, mask: Tensor, student: Output | None = None) -> Tensor:
        """(B, J); a row sums to 1 if any teacher is active."""
        known = [each for each in logits if each is not None]
        if len(known) < len(logits):
            raise InputError("weights by score need teachers with logits, not classifiers")
        scores = torch.stack([soft_dice_score(each, mask) for each in known], dim=1)
        return self.weights(scores, given > 0)

    @abstractmethod
    def weights(self, scores: Tensor, active: Tensor) -> Tensor:
        """(B, J) from scores (B, J)."""


@register_weighting("score")
class Score(_ByScore):
    """w_j = D_j / sum_k D_k: the better teacher counts more (AMTD as its text wants it).

    >>> weights = Score().weights(torch.tensor([[0.9, 0.6]]), torch.tensor([[True, True]]))
    >>> [round(w, 3) for w in weights[0].tolist()]
    [0.6, 0.4]
    """

    def weights(self, scores: Tensor, active: Tensor) -> Tensor:
        """(B, J) shares of the scores; equal if no teacher overlaps the reference."""
        return shares(scores, active)


@register_weighting("printed")
class Printed(_ByScore):
    """w_j = (1 - D_j) / sum_k (1 - D_k): AMTD's formula read literally, by which the worse teacher counts more.

    >>> weights = Printed().weights(torch.tensor([[0.9, 0.6]]), torch.tensor([[True, True]]))
    >>> [round(w, 3) for w in weights[0].tolist()]
    [0.2, 0.8]
    """

    def weights(self, scores: Tensor, active: Tensor) -> Tensor:
        """(B, J) shares of the Dice losses; equal if all are perfect."""
        return shares(1 - scores, active)


@register_weighting("softmax")
class Softmax(_ByScore):
    """w = softmax(D / temperature): sharper than shares, which stay close to 1/J for good teachers; not in the paper.

    >>> weights = Softmax().weights(torch.tensor([[0.9, 0.6]]), torch.tensor([[True, True]]))
    >>> [round(w, 3) for w in weights[0].tolist()]
    [0.953, 0.047]
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"weighting softmax: temperature must be positive, not {temperature}")
        self.temperature = temperature

    def weights(self, scores: Tensor, active: Tensor) -> Tensor:
        """(B, J); 0 in a row without active teachers."""
        sharp = (scores / self.temperature).masked_fill(~active, -torch.inf).softmax(1)
        return torch.where(active, sharp, 0)


@register_weighting("adaptive_factors")
class AdaptiveFactors(Weighting):
    """Learned weights of teachers for each image (AMTML-KD, Liu, Zhang and Wang 2020).

    The weights are a softmax over the teachers j of w . (beta * theta_j), where beta is the student's deepest feature,
    the maximum of each channel. They learn from the combined predictions, so a stage needs `combine: predictions` and
    a combinable method. The student gets no gradient through beta: it should approach its teachers, not choose them.

    Args:
        layer: of the student's feature, see layers.py.
        penalty: factor of |w|^2 + |theta|^2, which is added to the loss.
        steps: batches after which the weights stop learning (the second phase of the original, which begins after 70
            epochs); 0 for never.

    Attributes:
        factors: theta (J, C), made in `build`.
        scorer: w (C,), made in `build`.
        taken: number of batches so far; a buffer, so that a resumed training continues in the same phase.

    >>> from segdistill.models.network import FeatureInfo
    >>> weighting = AdaptiveFactors()
    >>> weighting.build({"encoder": FeatureInfo("encoder", 8, 4)}, ["a", "b"])
    >>> output = Output(None, {"encoder": torch.rand(3, 8, 4, 4)})
    >>> weights = weighting(torch.ones(3, 2), [], torch.zeros(3, 4, 4), output)
    >>> weights.shape, weights.sum(1).allclose(torch.ones(3))
    (torch.Size([3, 2]), True)
    """

    factors: nn.Parameter
    scorer: nn.Parameter
    taken: Tensor

    def __init__(self, layer: str = "encoder", penalty: float = 0.1, steps: int = 0) -> None:
        super().__init__()
        if penalty < 0 or steps < 0:
            raise InputError("weighting adaptive_factors: penalty and steps must not be negative")
        self.features = parse_layers("adaptive_factors", [layer])
        self.strength, self.steps = penalty, steps

    def build(self, student: Layers, teachers: Sequence[str]) -> None:
        """Makes the factors.

        Raises:
            InputError: the student does not declare its features.
        """
        (layer,) = self.features
        if layer not in student:
            raise InputError("adaptive_factors needs a student that declares its features (feature_info)")
        channels = student[layer].channels
        # both of length about 1, whatever C is: the weights begin near 1 / J, and the penalty near 0.1 (1 + J)
        self.factors = nn.Parameter(torch.randn(len(teachers), channels) * channels**-0.5)
        self.scorer = nn.Parameter(torch.randn(channels) * channels**-0.5)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def _learns(self) -> bool:
        return not self.steps or int(self.taken) <= self.steps

    def forward(self, given: Tensor, logits: Logits, mask: Tensor, student: Output | None = None) -> Tensor:
        """(B, J) with a graph while it learns; a row sums to 1 if any teacher is active."""
        assert student is not None
        if self.training:
            self.taken += 1
        beta = student.features[self.features[0]].detach().float().flatten(2).amax(2)
        with exact(beta):
            scores = beta @ (self.factors * self.scorer).T
        if not self._learns():
            scores = scores.detach()
        active = given > 0
        # a row of -inf would be NaN, and NaN gradients pass `where`
        scores = scores.masked_fill(~active & active.any(1, keepdim=True), -torch.inf)
        return torch.where(active, scores.softmax(1), 0)

    def penalty(self) -> Tensor:
        """Scalar; without a gradient in the second phase."""
        penalty = self.strength * (self.scorer.square().sum() + self.factors.square().sum())
        return penalty if self._learns() else penalty.detach()
