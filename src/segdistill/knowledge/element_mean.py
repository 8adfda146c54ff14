"""Soft predictions in the scale of methods that take PyTorch's mean over all elements."""

from __future__ import annotations

from torch import Tensor

from segdistill.knowledge.base import Said
from segdistill.knowledge.soft_prediction import SoftPrediction, soft_prediction_gap


class ElementMeanPrediction(SoftPrediction):
    """Soft predictions whose divergence is a mean over positions and classes, without the factor T^2.

    So it is what IFVD and ProtoKD multiply by 10. With C classes it is that of `SoftPrediction` over C T^2.

    >>> import torch
    >>> from segdistill.models.output import Output
    >>> pair = [Output(torch.tensor([[[1.0]], [[z]]])[None], {}) for z in (0.0, 1.0)]
    >>> plain, mean = SoftPrediction(2.0), ElementMeanPrediction(2.0)
    >>> ratio = plain.gap(*map(plain.extract, pair)) / mean.gap(*map(mean.extract, pair))
    >>> round(ratio.item(), 3)
    8.0
    """

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) mean divergence."""
        own, theirs = student["log_probability"], teacher["log_probability"]
        return soft_prediction_gap(own, theirs, direction=self.direction) / own.shape[1]
