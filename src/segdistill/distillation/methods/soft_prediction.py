"""Soft predictions: class probabilities of every position, or of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.distillation.base import (
    STUDENT,
    DistillationMethod,
    Targets,
    register_method,
)
from segdistill.distillation.maps import logits_of, mean_over_positions
from segdistill.errors import InputError
from segdistill.losses import log_probabilities
from segdistill.models.network import Output
from segdistill.options import fit_option

Direction = Literal["teacher_student", "student_teacher"]


def soft_prediction_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    direction: Direction = "teacher_student",
    region: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence between soft predictions: sum over classes, mean over positions, times T^2.

    Args:
        student: (B, C, ...) log-probabilities at temperature T.
        teacher: (B, C, ...) log-probabilities at temperature T.
        temperature: T, only for the factor T^2, which keeps gradients comparable across temperatures.
        direction: KL(teacher || student) (LightBTSeg Eq. 8 and 9, Hinton), or KL(student || teacher).
        region: (B, 1, ...) booleans; the mean over positions is then the mean of the means over it and the rest.

    Returns:
        (B,) in nats.

    >>> half = torch.full((1, 2, 3, 3), 0.5).log()
    >>> soft_prediction_loss(half, half).tolist()
    [0.0]
    """
    first, second = (teacher, student) if direction == "teacher_student" else (student, teacher)
    divergence = (first.exp() * (first - second)).sum(1)
    return mean_over_positions(divergence, region) * temperature**2


class _Soft(DistillationMethod):
    combinable = True
    name: ClassVar[str]

    def __init__(self, temperature: float = 1.0, direction: Direction = "teacher_student") -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"{self.name}: temperature must be positive, not {temperature}")
        fit_option(f"{self.name}: direction", direction, Direction)
        self.temperature, self.direction = temperature, direction

    def combine_targets(self, targets: Sequence[Targets], weights: Tensor) -> Targets:
        """Log of sum_j w_j p_j, with weights (B, J) that sum to 1 (AMTD, section on adaptive weights)."""
        together = torch.stack([each["log_probability"] for each in targets], dim=1)
        share = weights.to(together).log().reshape(*weights.shape, *[1] * (together.ndim - 2))
        combined = {"log_probability": torch.logsumexp(together + share, dim=1)}
        if "region" in targets[0]:  # that of the reference, or what the majority predicts
            votes = torch.stack([each["region"] for each in targets], dim=1) * share.exp()
            combined["region"] = votes.sum(1) > 0.5
        return combined

    def pair(self, student: Targets, teacher: Targets) -> tuple[Tensor, Tensor]:
        """The log-probabilities (B, C, ...) of both.

        Raises:
            InputError: the networks have different classes.
        """
        own, theirs = student["log_probability"], teacher["log_probability"]
        if own.shape[1] != theirs.shape[1]:
            raise InputError(
                f"{self.name}: the student has {own.shape[1]} classes, its teacher {theirs.shape[1]}: make them equal"
            )
        return own, theirs

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) divergence.

        Raises:
            InputError: the networks have different classes.
        """
        own, theirs = self.pair(student, teacher)
        return soft_prediction_loss(own, theirs, self.temperature, self.direction, teacher.get("region"))


@register_method("soft_prediction")
class SoftPrediction(_Soft):
    """Soft-prediction method (Hinton et al. 2015; LightBTSeg Eq. 8 and 9; AMTD Eq. 1 and 2).

    Args:
        temperature: T; AMTD's code base and the usual collections of methods take 4, LightBTSeg names none. The loss is
            multiplied by T^2, so at T = 4 it is 16 times AMTD's Eq. 2, which prints no factor: the recipe amtd/printed
            divides the weight by it.
        direction: AMTD's Eq. 2 prints KL(student || teacher), "student_teacher"; nearly all code, that of AMTD's
            experiments included, has KL(teacher || student), the default.

    >>> method = SoftPrediction(temperature=4.0)
    >>> targets = method.targets(Output(logits=torch.zeros(2, 2, 4, 4), features={}))
    >>> method(targets, targets).shape
    torch.Size([2])
    """

    name = "soft_prediction"
    balances = True

    @property
    def cache_form(self) -> str:  # type: ignore[override]
        """One form for each balance."""
        return "soft_prediction" if self.balance == "none" else f"soft_prediction and {self.balance}"

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Log-probabilities (B, C, ...) at the temperature, and the region (B, 1, ...) where balanced."""
        logits = logits_of(output, self.name)
        return {
            "log_probability": log_probabilities(logits, self.temperature),
            **self.region(output, mask),
        }

    def to_cache(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Of two classes the log-odds (B, 1, ...), of more the log-probabilities, at temperature 1.

        These determine the prediction at every temperature, in half the numbers. Rounding the log-odds changes each
        probability by a small relative error, however small it is.
        """
        logits = logits_of(output, self.name)
        known, region = log_probabilities(logits), self.region(output, mask)
        if known.shape[1] > 2:
            return {"log_probability": known, **region}
        return {"log_odds": known[:, 1:] - known[:, :1], **region}

    def from_cache(self, cached: Targets) -> Targets:
        """Log-probabilities (B, C, ...) at the temperature."""
        rest = {name: value for name, value in cached.items() if name == "region"}
        if "log_probability" in cached:
            return {
                "log_probability": F.log_softmax(cached["log_probability"] / self.temperature, dim=1),
                **rest,
            }
        odds = cached["log_odds"] / self.temperature
        return {"log_probability": torch.cat([F.logsigmoid(-odds), F.logsigmoid(odds)], dim=1), **rest}


@register_method("soft_label")
class SoftLabel(_Soft):
    """Soft-label method (Hinton et al. 2015): KL of class probabilities of the image at temperature T, times T^2.

    As `SoftPrediction`, but of the image's classes: for classifiers and joint networks.

    Args:
        temperature: T.
        direction: KL(teacher || student), or KL(student || teacher).

    >>> method = SoftLabel(temperature=4.0)
    >>> targets = method.targets(Output(None, {}, label=torch.zeros(2, 3)))
    >>> method(targets, targets).tolist()
    [0.0, 0.0]
    """

    name = "soft_label"
    loss_options = ("direction",)

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Log-probabilities (B, K, 1) of the image's classes at the temperature: an image is one position."""
        if output.label is None:
            raise InputError("soft_label needs networks that classify images, such as lanet_resnet18")
        known = torch.log_softmax(output.label.float() / self.temperature, dim=1)
        return {"log_probability": known[..., None]}


class ElementMeanPrediction(SoftPrediction):
    """Soft predictions whose divergence is a mean over positions and classes, without the factor T^2.

    IFVD and ProtoKD multiply it by 10. With C classes it is the loss of `SoftPrediction` divided by C T^2.

    >>> pair = [Output(torch.tensor([[[1.0]], [[z]]])[None], {}) for z in (0.0, 1.0)]
    >>> plain, mean = SoftPrediction(2.0), ElementMeanPrediction(2.0)
    >>> ratio = plain(*map(plain.targets, pair)) / mean(*map(mean.targets, pair))
    >>> round(ratio.item(), 3)
    8.0
    """

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) mean divergence."""
        own, theirs = student["log_probability"], teacher["log_probability"]
        region = teacher.get("region")
        return soft_prediction_loss(own, theirs, direction=self.direction, region=region) / own.shape[1]
