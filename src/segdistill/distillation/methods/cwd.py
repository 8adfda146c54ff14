"""CWD, channel-wise distillation: each channel is a distribution over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segdistill.distillation.base import (
    STUDENT,
    Composed,
    DistillationMethod,
    Layers,
    Targets,
    register_method,
)
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import balanced_weights, logits_of
from segdistill.distillation.projection import fitted, projections
from segdistill.errors import InputError
from segdistill.models.network import Output
from segdistill.options import fit_option

Normalise = Literal["channel", "spatial", "none"]


def channel_wise_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    normalise: Normalise = "channel",
    region: Tensor | None = None,
) -> Tensor:
    """Distance between maps (B, C, ...).

    Args:
        student: any maps.
        teacher: of the same shape.
        temperature: T divides the values before softmax, T^2 multiplies the divergence.
        normalise: "channel": softmax over the positions of each channel, KL(teacher || student) summed over
            positions, mean over channels (CWD); "spatial": softmax over the channels of each position,
            mean over positions; "none": the mean squared difference of the values as they are.
        region: (B, 1, ...) booleans; every mean over positions is then the mean of the means over it and the rest. That
            of "channel" is the one in softmax: a channel is a density r = exp(z / T) / mean exp(z / T), and the
            divergence the mean of r_T log(r_T / r_S). With equal weights of all positions this is the sum of CWD.

    Returns:
        (B,).

    >>> flat, peak = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, 1.0]]]])
    >>> channel_wise_loss(flat, flat + 5).tolist()  # only the shape over the image counts
    [0.0]
    >>> round(channel_wise_loss(flat, peak).item(), 4)
    0.1109
    """
    weights = None if region is None else balanced_weights(region, student.shape[2:])
    student, teacher = student.float().flatten(2), teacher.float().flatten(2)
    if normalise == "none":
        if weights is not None:
            return ((student - teacher).square().mean(1) * weights).sum(1)
        return (student - teacher).square().mean((1, 2))
    axis = 2 if normalise == "channel" else 1
    if weights is not None and normalise == "channel":
        bias = temperature * weights.log()[:, None]
        student, teacher = student + bias, teacher + bias
    own, theirs = (torch.log_softmax(each / temperature, dim=axis) for each in (student, teacher))
    divergence = (theirs.exp() * (theirs - own)).sum(axis)  # one per channel, or one per position
    if weights is not None and normalise == "spatial":
        return (divergence * weights).sum(1) * temperature**2
    return divergence.mean(1) * temperature**2


def same_logits(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of both in as many channels: two classes become the one logit z1 - z0 where the other has one.

    >>> [each.tolist() for each in same_logits(torch.tensor([[[1.0]]]), torch.tensor([[[2.0], [5.0]]]))]
    [[[[1.0]]], [[[3.0]]]]
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (
            each if each.shape[1] == 1 else each[:, 1:2] - each[:, :1] for each in (student, teacher)
        )
    return student, teacher


@register_method("channel_wise")
class ChannelWise(DistillationMethod):
    """Channel-wise method (CWD, Shu et al. 2021) of the logits, or of features.

    Features of another width pass a learned 1x1 convolution; features of another size are resized linearly.

    Args:
        layers: features, see layers.py; None for the logits.
        temperature: 1 is the default of the official options; CIRKD's copy takes 4 for logits.
        normalise: see `channel_wise_loss`.

    >>> method = ChannelWise()
    >>> targets = method.targets(Output(torch.rand(2, 2, 4, 4), {}))
    >>> method(targets, targets).tolist()
    [0.0, 0.0]
    """

    balances = True
    loss_options = ("temperature", "normalise")

    def __init__(
        self,
        layers: str | Sequence[str] | None = None,
        temperature: float = 1.0,
        normalise: Normalise = "channel",
    ) -> None:
        super().__init__()
        fit_option("channel_wise: normalise", normalise, Normalise)
        if temperature <= 0:
            raise InputError(f"channel_wise: temperature must be positive, not {temperature}")
        self.features = parse_layers("channel_wise", layers) if layers else ()
        self.temperature = temperature
        self.normalise: Normalise = normalise
        self.projections = nn.ModuleDict()

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes projections where widths differ."""
        self.projections = projections("channel_wise", self.features, student, teachers)

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Logits or features (B, C, ...) as they are, and the region (B, 1, ...) where balanced."""
        maps = {layer: output.features[layer].float() for layer in self.features}
        if not maps:
            maps = {"logits": logits_of(output, "channel_wise").float()}
        return maps | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers."""
        pairs = [
            (fitted(self.projections, network, layer, student[layer], teacher[layer]), teacher[layer])
            for layer in self.features
        ] or [same_logits(student["logits"], teacher["logits"])]
        losses = [
            channel_wise_loss(*pair, self.temperature, self.normalise, teacher.get("region"))
            for pair in pairs
        ]
        return sum(losses[1:], losses[0])


@register_method("cwd")
class CWD(Composed):
    """CWD (Shu et al. 2021): channel-wise distillation of logits, of features, or both.

    Args:
        logits: weight of the logits' term, 3 in the paper.
        features: weight of the features' term, 50 in the paper; 0 for none.
        layers: of the features' term; the original takes the last map before the head.
        temperature: 4, as in the published run, whose weight of 3 belongs to it.
        normalise: see `ChannelWise`.

    >>> CWD(features=50.0).weights
    {'logits': 3.0, 'features': 50.0}
    """

    def __init__(
        self,
        logits: float = 3.0,
        features: float = 0.0,
        layers: str | Sequence[str] = ("decoder",),
        temperature: float = 4.0,
        normalise: Normalise = "channel",
    ) -> None:
        def term(of: str | Sequence[str] | None) -> ChannelWise:
            return ChannelWise(of, temperature, normalise)

        super().__init__("cwd", {"logits": (logits, term(None)), "features": (features, term(layers))})
