"""BPKD, boundary-privileged distillation: the band along boundaries apart from the body of each region."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.distillation.base import STUDENT, Composed, DistillationMethod, Targets, register_method
from segdistill.distillation.maps import boundary_band, classes_of, logits_of
from segdistill.distillation.methods.cwd import same_logits
from segdistill.errors import InputError
from segdistill.losses import log_probabilities
from segdistill.models.network import Output


class _Part(DistillationMethod):
    """Logits, and the band of the reference, or of the prediction in rows without one."""

    takes_mask = True

    def __init__(self, name: str, temperature: float, width: int, classes: int) -> None:
        super().__init__()
        if temperature <= 0 or width < 1 or classes < 2:
            raise InputError(f"{name}: temperature must be above 0, width at least 1, classes at least 2")
        self.temperature, self.width, self.classes = temperature, width, classes

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Logits (B, C, ...) as they are, and the band (B, 1, ...)."""
        logits = logits_of(output, "bpkd").float()
        classes = classes_of(logits, mask).clamp(max=self.classes - 1)
        return {"logits": logits, "band": boundary_band(classes, self.width)}


@register_method("boundary_prediction")
class BoundaryPrediction(_Part):
    """BPKD's edge loss (Liu et al., WACV 2024): soft predictions on the band along boundaries.

    KL(teacher || student) summed over classes, mean over the positions of the band, times T^2; 0 without a boundary.

    Args:
        temperature: T.
        width: positions on each side of a boundary.
        classes: K of the references.

    >>> method = BoundaryPrediction()
    >>> mask = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> targets = method.targets(Output(torch.rand(1, 2, 4, 4), {}), mask)
    >>> method(targets, targets).tolist(), targets["band"][0, 0, 0].tolist()
    ([0.0], [False, True, True, False])
    """

    def __init__(self, temperature: float = 1.0, width: int = 1, classes: int = 2) -> None:
        super().__init__("boundary_prediction", temperature, width, classes)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss."""
        own, theirs = (log_probabilities(each["logits"], self.temperature) for each in (student, teacher))
        divergence = (theirs.exp() * (theirs - own)).sum(1).flatten(1)
        band = teacher["band"].flatten(1).float()
        return (divergence * band).sum(1) / band.sum(1).clamp(min=1) * self.temperature**2


@register_method("body_channels")
class BodyChannels(_Part):
    """BPKD's body loss (Liu et al., WACV 2024): channel-wise distillation of the logits outside the band.

    Softmax over the positions of each channel that lie outside the band, KL(teacher || student) summed over them, mean
    over channels, times T^2; 0 where the band covers the image.

    Args:
        temperature: T.
        width: positions on each side of a boundary.
        classes: K of the references.

    >>> method = BodyChannels()
    >>> targets = method.targets(Output(torch.rand(1, 2, 4, 4), {}))
    >>> method(targets, targets).tolist()
    [0.0]
    """

    def __init__(self, temperature: float = 4.0, width: int = 1, classes: int = 2) -> None:
        super().__init__("body_channels", temperature, width, classes)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss."""
        band = teacher["band"].flatten(2)
        covered = band.all(2, keepdim=True)  # nothing is left then, and softmax needs something
        apart = torch.where(band & ~covered, -torch.inf, 0.0)
        own, theirs = (
            torch.log_softmax(each.flatten(2) / self.temperature + apart, 2)
            for each in same_logits(student["logits"], teacher["logits"])
        )
        body = ~band | covered
        difference = torch.where(body, theirs, 0.0) - torch.where(body, own, 0.0)
        divergence = (theirs.exp() * difference).sum(2).mean(1)
        return torch.where(covered[:, 0, 0], 0.0, divergence) * self.temperature**2


@register_method("bpkd")
class BPKD(Composed):
    """BPKD (Liu et al., WACV 2024): soft predictions along boundaries, channel-wise distillation inside of regions.

    Each term is normalised by its own positions. The weights of the paper are not in its published code: those here are
    of CWD (body) and of a plain soft prediction (edge); `scale: gradient` sets both from gradients.

    Args:
        edge: weight of the edge loss, see `BoundaryPrediction`.
        body: weight of the body loss, see `BodyChannels`.
        edge_temperature: T of the edge loss.
        temperature: T of the body loss.
        width: positions on each side of a boundary.
        classes: K of the references.

    >>> BPKD().weights
    {'edge': 1.0, 'body': 3.0}
    """

    def __init__(
        self,
        edge: float = 1.0,
        body: float = 3.0,
        edge_temperature: float = 1.0,
        temperature: float = 4.0,
        width: int = 1,
        classes: int = 2,
    ) -> None:
        super().__init__(
            "bpkd",
            {
                "edge": (edge, BoundaryPrediction(edge_temperature, width, classes)),
                "body": (body, BodyChannels(temperature, width, classes)),
            },
        )
