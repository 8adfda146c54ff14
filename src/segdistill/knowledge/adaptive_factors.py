"""AMTML-KD's weights of teachers, which are learned with the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.knowledge.base import Heard, Taps, Weighing
from segdistill.knowledge.maps import exact
from segdistill.knowledge.taps import parse_taps


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


class AdaptiveFactors(Weighing):
    """Learned weights of teachers for each image (AMTML-KD, Liu, Zhang and Wang 2020).

    beta is the student's deepest feature, global maximum of each channel; softmax over the teachers of w . (beta *
    theta_j). It learns from the mixture of the teachers' predictions, so a stage needs `combine: mixture` and knowledge
    that can be mixed. The student gets no gradient through beta: it is to come closer to its teachers, not to choose
    them.

    Args:
        tap: of the student's feature, see taps.py.
        penalty: of |w|^2 + |theta|^2, added to the loss.
        steps: batches after which the weights learn no more (the second phase of the original, which comes after 70
            epochs); 0 for never.

    >>> from segdistill.models.output import FeatureInfo, Output
    >>> weighing = AdaptiveFactors()
    >>> weighing.connect({"encoder": FeatureInfo("encoder", 8, 4)}, ["a", "b"])
    >>> output = Output(None, {"encoder": torch.rand(3, 8, 4, 4)})
    >>> weights = weighing(torch.ones(3, 2), [], torch.zeros(3, 4, 4), output)
    >>> weights.shape, weights.sum(1).allclose(torch.ones(3))
    (torch.Size([3, 2]), True)
    """

    def __init__(self, tap: str = "encoder", penalty: float = 0.1, steps: int = 0) -> None:
        if penalty < 0 or steps < 0:
            raise InputError("weighing adaptive_factors: penalty and steps must not be negative")
        self.features = parse_taps("adaptive_factors", [tap])
        self.strength, self.steps = penalty, steps

    def connect(self, student: Taps, teachers: Sequence[str]) -> None:
        """Builds the factors.

        Raises:
            InputError: the student does not declare its features.
        """
        (tap,) = self.features
        if tap not in student:
            raise InputError(
                "weighing adaptive_factors needs a student that declares its features (feature_info)"
            )
        self.modules = {"adapter": Adapter(student[tap].channels, len(teachers))}

    @property
    def adapter(self) -> Adapter:
        """The learned part, known after `connect`."""
        return cast(Adapter, self.modules["adapter"])

    def _learns(self) -> bool:
        return not self.steps or int(self.adapter.taken) <= self.steps

    def weigh(self, given: Tensor, heard: Heard) -> Tensor:
        """(B, J) with a graph while it learns; rows sum to 1 where anybody speaks."""
        assert heard.student is not None
        adapter = self.adapter
        if adapter.training:
            adapter.taken += 1
        beta = heard.student.features[self.features[0]].detach().float().flatten(2).amax(2)
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
