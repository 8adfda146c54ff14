"""Attention transfer: one map of attention per layer, whatever its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.distillation.base import LayerMethod, register_method
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import balanced_weights, resize
from segdistill.options import fit_option

Exponent = Literal[1, 2, 4]
Norm = Literal["l2", "l1"]


@register_method("attention_transfer")
class AttentionTransfer(LayerMethod):
    """Attention transfer (Zagoruyko and Komodakis 2017) as AMTD uses it: the distance of normalised attention maps.

    AMTD's Eq. 3 prints the norm of (a_s - a_t) / |a_s - a_t|, which is at least 1 wherever the maps differ and
    undefined where they agree. That is a misprint of the form here, which normalises each map, not their difference.

    Args:
        exponent: p of |F|^p: 1 (AMTD's text, and LightVessel's group), 2 (the original), 4 (EMKD's code). Sum or mean
            over channels makes no difference after the normalisation.
        norm: "l2" is the sum of squared differences, in [0, 2] (EMKD's reduction; AMTD Eq. 3 as it must be meant);
            "l1" is the sum of absolute ones over the root of the number of positions (the outer norm that Eq. 3
            prints; the raw sum grows with that root). The original code takes the mean over positions of squared
            differences with weight 1000; here that is weight 1000 / (h w).
        layers: "enc_dec" (AMTD's text), "emkd" (its code), or a list of features: see layers.py.

    >>> from segdistill.models.network import Output
    >>> method = AttentionTransfer(layers=["encoder"])
    >>> targets = method.targets(Output(logits=None, features={"encoder": torch.rand(2, 8, 4, 4)}))
    >>> method(targets, targets).tolist()
    [0.0, 0.0]
    >>> left, right = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    >>> method.layer_loss(left, right).tolist()  # no overlap
    [2.0]
    """

    balances = True
    loss_options = ("norm",)

    def __init__(
        self, exponent: Exponent = 1, norm: Norm = "l2", layers: str | Sequence[str] = "enc_dec"
    ) -> None:
        super().__init__()
        fit_option("attention_transfer: exponent", exponent, Exponent)
        fit_option("attention_transfer: norm", norm, Norm)
        self.exponent, self.norm = exponent, norm
        self.features = parse_layers("attention_transfer", layers)

    def target(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """(B, h, w) attention: the sum over channels of |F|^p, in float32."""
        return feature.float().abs().pow(self.exponent).sum(1)

    def layer_loss(self, student: Tensor, teacher: Tensor, region: Tensor | None = None) -> Tensor:
        """(B,) distance of the maps, each divided by its L2 norm over positions, at the size of the teacher's.

        With a region positions have weights, in the distance as in the norm.
        """
        student = resize(student[:, None], teacher.shape[1:])[:, 0]
        if region is not None:
            roots = balanced_weights(region, teacher.shape[1:]).sqrt().reshape(teacher.shape)
            student, teacher = student * roots, teacher * roots
        difference = _unit(student) - _unit(teacher)
        if self.norm == "l2":
            return difference.square().sum(1)
        if region is not None:
            return (difference.abs() * roots.flatten(1)).sum(1)
        return difference.abs().sum(1) / math.sqrt(difference.shape[1])


def _unit(attention: Tensor) -> Tensor:
    """(B, N) of norm 1; divided by the largest value first, because squares of |F|^4 overflow."""
    flat = attention.float().flatten(1)
    largest = flat.detach().amax(1, keepdim=True)
    return F.normalize(flat / torch.where(largest > 0, largest, 1), dim=1)
