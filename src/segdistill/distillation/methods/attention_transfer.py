"""Attention transfer: one map of attention per layer, whatever its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.distillation.base import STUDENT, DistillationMethod, Targets, register_method
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import resize
from segdistill.models.network import Output
from segdistill.options import fit_option

Exponent = Literal[1, 2, 4]
Norm = Literal["l2", "l1"]


def attention_map(feature: Tensor, exponent: Exponent = 1) -> Tensor:
    """Sum over channels of |F|^p: (B, C, h, w) -> (B, h, w), in float32.

    >>> attention_map(torch.full((1, 3, 2, 2), -2.0), exponent=2).flatten().tolist()
    [12.0, 12.0, 12.0, 12.0]
    """
    return feature.float().abs().pow(exponent).sum(1)


def attention_transfer_loss(student: Tensor, teacher: Tensor, norm: Norm = "l2") -> Tensor:
    """Distance between two attention maps, each divided by its own L2 norm over positions.

    The student's map is resized linearly to the teacher's first.

    Args:
        student: (B, h, w), or (B, d, h, w) for volumes; not negative.
        teacher: (B, H, W), or (B, D, H, W); not negative.
        norm: "l2" is the sum of squared differences, in [0, 2] (EMKD's reduction; AMTD Eq. 3 as it must be meant);
            "l1" is the sum of absolute ones over the root of the number of positions (the outer norm that Eq. 3
            prints; the raw sum grows with that root).

    Returns:
        (B,).

    >>> left, right = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    >>> attention_transfer_loss(left, right).tolist()  # no overlap
    [2.0]
    """
    student = resize(student[:, None], teacher.shape[1:])[:, 0]
    difference = _unit(student) - _unit(teacher)
    if norm == "l2":
        return difference.square().sum(1)
    return difference.abs().sum(1) / math.sqrt(difference.shape[1])


def _unit(attention: Tensor) -> Tensor:
    """(B, N) of norm 1; divided by the largest value first, because squares of |F|^4 overflow."""
    flat = attention.float().flatten(1)
    largest = flat.detach().amax(1, keepdim=True)
    return F.normalize(flat / torch.where(largest > 0, largest, 1), dim=1)


@register_method("attention_transfer")
class AttentionTransfer(DistillationMethod):
    """Attention transfer (Zagoruyko and Komodakis 2017; AMTD): the sum over layers of `attention_transfer_loss`.

    AMTD's Eq. 3 prints the norm of (a_s - a_t) / |a_s - a_t|, which is at least 1 wherever the maps differ and
    undefined where they agree. That is a misprint of the form here, which normalises each map, not their difference.

    Args:
        exponent: p of |F|^p: 1 (AMTD's text, and LightVessel's group), 2 (the original), 4 (EMKD's code). Sum or mean
            over channels makes no difference after the normalisation.
        norm: see `attention_transfer_loss`. The original code takes the mean over positions of squared differences
            with weight 1000; here that is weight 1000 / (h w).
        layers: "enc_dec" (AMTD's text), "emkd" (its code), or a list of features: see layers.py.

    >>> method = AttentionTransfer(layers=["encoder"])
    >>> targets = method.targets(Output(logits=None, features={"encoder": torch.rand(2, 8, 4, 4)}))
    >>> method(targets, targets).tolist()
    [0.0, 0.0]
    """

    loss_options = ("norm",)

    def __init__(
        self, exponent: Exponent = 1, norm: Norm = "l2", layers: str | Sequence[str] = "enc_dec"
    ) -> None:
        super().__init__()
        fit_option("attention_transfer: exponent", exponent, Exponent)
        fit_option("attention_transfer: norm", norm, Norm)
        self.exponent, self.norm = exponent, norm
        self.features = parse_layers("attention_transfer", layers)

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """One attention map (B, h, w) per layer."""
        return {layer: attention_map(output.features[layer], self.exponent) for layer in self.features}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers."""
        losses = [
            attention_transfer_loss(student[layer], teacher[layer], self.norm) for layer in self.features
        ]
        return sum(losses[1:], losses[0])
