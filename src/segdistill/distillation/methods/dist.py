"""DIST: relations of predictions by correlation, in place of their values."""

from __future__ import annotations

from torch import Tensor

from segdistill.distillation.base import Targets, register_method
from segdistill.distillation.maps import balanced_weights, mean_over_positions
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError

EPSILON = 1e-8
"""Added to the product of two lengths, so that a constant map has the correlation 0 with everything."""


def correlation(first: Tensor, second: Tensor, dim: int, weights: Tensor | None = None) -> Tensor:
    """Pearson's correlation along an axis, with weights whose sum along it is 1, if there are some.

    >>> import torch
    >>> round(correlation(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0]), 0).item(), 4)
    1.0
    """
    if weights is None:
        first, second = (each - each.mean(dim, keepdim=True) for each in (first, second))
    else:
        means = [(each * weights).sum(dim, keepdim=True) for each in (first, second)]
        first, second = (
            (each - mean) * weights.sqrt() for each, mean in zip((first, second), means, strict=True)
        )
    product = first.norm(dim=dim) * second.norm(dim=dim)
    found: Tensor = (first * second).sum(dim) / (product + EPSILON)
    return found


@register_method("dist")
class DIST(SoftPrediction):
    """DIST (Huang et al. 2022): 1 minus the correlation of the probabilities of student and teacher.

    Intra-class: over the positions of an image, for each class, mean over classes. Inter-class: over the classes at
    each position, mean over positions; from three classes on, since the correlation of two numbers is 1 or -1.
    The official code correlates over the positions of the whole batch; here each image stands for itself.

    Args:
        intra: weight of the intra-class relation (gamma, 1 in the original).
        inter: weight of the inter-class relation (beta, 1 in the original).
        temperature: T divides the logits, T^2 multiplies the loss.

    Raises:
        InputError: a weight is negative, both are 0, or the temperature is not positive.

    >>> import torch
    >>> from segdistill.models.network import Output
    >>> method = DIST()
    >>> targets = method.targets(Output(logits=torch.rand(2, 2, 4, 4), features={}))
    >>> method(targets, targets).round(decimals=4).abs().tolist()
    [0.0, 0.0]
    """

    name = "dist"
    loss_options = ("intra", "inter")

    def __init__(self, intra: float = 1.0, inter: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__(temperature)
        if min(intra, inter) < 0 or intra + inter == 0:
            raise InputError(f"dist: intra {intra} and inter {inter}: none below 0, and one above it")
        self.intra, self.inter = intra, inter

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss.

        Raises:
            InputError: the networks have different classes, or two where only the inter-class relation has a weight.
        """
        maps = self.pair(student, teacher)
        own, theirs = (each.exp().flatten(2) for each in maps)
        region = teacher.get("region")
        weights = None if region is None else balanced_weights(region, maps[0].shape[2:])[:, None]
        several = own.shape[1] > 2
        if not several and not self.intra:
            raise InputError("dist: two classes have no inter-class relation: set intra above 0")
        loss = self.intra * (1 - correlation(own, theirs, 2, weights).mean(1))
        if several:
            inter = correlation(own, theirs, 1).reshape(len(own), *maps[0].shape[2:])
            loss = loss + self.inter * (1 - mean_over_positions(inter, region))
        return loss.clamp(min=0) * self.temperature**2  # 1 minus a correlation is below 0 by rounding alone
