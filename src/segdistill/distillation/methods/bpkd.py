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

BANDS = ("reference", "teacher")


class _Part(DistillationMethod):
    """Logits, and the band of each class: of the reference, or of the teacher's prediction."""

    def __init__(self, name: str, temperature: float, width: int, classes: int, band: str) -> None:
        super().__init__()
        if temperature <= 0 or width < 1 or classes < 2:
            raise InputError(f"{name}: temperature must be above 0, width at least 1, classes at least 2")
        if band not in BANDS:
            raise InputError(f"{name}: band is {band!r}: use {' or '.join(BANDS)}")
        self.temperature, self.width, self.classes = temperature, width, classes
        self.takes_mask = band == "reference"

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Logits (B, C, ...) as they are, and the bands (B, K, ...) of the classes."""
        logits = logits_of(output, "bpkd").float()
        found = classes_of(logits, mask if self.takes_mask else None).clamp(max=self.classes - 1)
        masks = torch.cat([found == k for k in range(self.classes)], 1)
        return {"logits": logits, "band": boundary_band(masks, self.width)}


@register_method("boundary_prediction")
class BoundaryPrediction(_Part):
    """BPKD's edge loss (Liu et al., WACV 2024): soft predictions on the bands along boundaries.

    KL(teacher || student) summed over classes, mean over the positions of a class's band, mean over the classes that
    have one, times T^2; 0 without a boundary.

    Args:
        temperature: T.
        width: positions on each side of a boundary.
        classes: K of the references.
        band: whose boundaries: "reference", and where there is none the teacher's prediction; or always "teacher".

    >>> method = BoundaryPrediction()
    >>> mask = torch.tensor([[[0, 0, 1, 1]] * 4])
    >>> targets = method.targets(Output(torch.rand(1, 2, 4, 4), {}), mask)
    >>> method(targets, targets).tolist(), targets["band"][0, 0, 0].tolist()
    ([0.0], [False, True, True, False])
    """

    def __init__(
        self, temperature: float = 1.0, width: int = 1, classes: int = 2, band: str = "reference"
    ) -> None:
        super().__init__("boundary_prediction", temperature, width, classes, band)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss."""
        own, theirs = (log_probabilities(each["logits"], self.temperature) for each in (student, teacher))
        divergence = (theirs.exp() * (theirs - own)).sum(1, keepdim=True).flatten(2)
        band = teacher["band"].flatten(2).float()
        means = (divergence * band).sum(2) / band.sum(2).clamp(min=1)
        return means.sum(1) / band.any(2).sum(1).clamp(min=1) * self.temperature**2


@register_method("body_channels")
class BodyChannels(_Part):
    """BPKD's body loss (Liu et al., WACV 2024): channel-wise distillation of the logits outside the bands.

    Softmax over the positions of each channel that lie outside the band of its class, KL(teacher || student) summed
    over them, mean over channels, times T^2; 0 for a channel whose band covers the image.

    Args:
        temperature: T.
        width: positions on each side of a boundary.
        classes: K of the references.
        band: as of `BoundaryPrediction`.

    >>> method = BodyChannels()
    >>> targets = method.targets(Output(torch.rand(1, 2, 4, 4), {}))
    >>> method(targets, targets).tolist()
    [0.0]
    """

    def __init__(
        self, temperature: float = 4.0, width: int = 1, classes: int = 2, band: str = "reference"
    ) -> None:
        super().__init__("body_channels", temperature, width, classes, band)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss."""
        logits = same_logits(student["logits"], teacher["logits"])
        count = logits[0].shape[1]  # a single logit is that of the last class
        band = teacher["band"].flatten(2)[:, -count:]
        covered = band.all(2, keepdim=True)  # nothing is left then, and softmax needs something
        apart = torch.where(band & ~covered, -torch.inf, 0.0)
        own, theirs = (torch.log_softmax(each.flatten(2) / self.temperature + apart, 2) for each in logits)
        body = ~band | covered
        difference = torch.where(body, theirs, 0.0) - torch.where(body, own, 0.0)
        divergence = (theirs.exp() * difference).sum(2)
        return torch.where(covered[:, :, 0], 0.0, divergence).mean(1) * self.temperature**2


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
        band: whose boundaries: "reference", and where there is none the teacher's prediction; or always "teacher".

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
        band: str = "reference",
    ) -> None:
        super().__init__(
            "bpkd",
            {
                "edge": (edge, BoundaryPrediction(edge_temperature, width, classes, band)),
                "body": (body, BodyChannels(temperature, width, classes, band)),
            },
        )
