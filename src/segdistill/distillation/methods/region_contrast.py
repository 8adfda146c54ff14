"""Region contrast: how similar a network's features are in lesion and background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.distillation.base import STUDENT, DistillationMethod, Targets, register_method
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import mask_of
from segdistill.models.network import Output
from segdistill.options import fit_option

Form = Literal["squared", "abs"]


def region_contrast(feature: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine between the mean feature of the background and that of the foreground.

    Args:
        feature: (B, C, ...).
        target: (B, ...) class indices, brought to the feature's size by the nearest position; all classes but 0 are
            foreground.

    Returns:
        (B,) cosines in float32, and (B,) booleans: False if the mask has no foreground or no background at this size
        (the cosine is 0 there and means nothing; EMKD's code adds 1 to the foreground count, and so compares such
        samples too).

    >>> feature = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None, :]
    >>> region_contrast(feature, torch.tensor([[[0, 1]]]))
    (tensor([0.]), tensor([True]))
    """
    values = feature.float().flatten(2)
    mask = (target > 0).float()[:, None]
    mask = F.interpolate(mask, feature.shape[2:], mode="nearest").flatten(2)
    background, foreground = ((values * m).sum(2) / m.sum(2).clamp(min=1) for m in (1 - mask, mask))
    inside = mask.sum((1, 2))
    return F.cosine_similarity(background, foreground), (inside > 0) & (inside < mask.shape[2])


@register_method("region_contrast")
class RegionContrast(DistillationMethod):
    """AMTD's second feature term (Eq. 4, there R; RAD in EMKD): the sum over layers of (rc_student - rc_teacher)^2.

    Samples whose mask lacks foreground or background at a layer's size count as 0 there.

    Args:
        form: "squared" (as coded), or "abs" (Eq. 4 prints a norm, which of one number is its absolute value).
        layers: "enc_dec" (AMTD's text), "emkd" (its code), or a list of features: see layers.py.

    >>> method = RegionContrast(layers=["encoder"])
    >>> output = Output(logits=None, features={"encoder": torch.rand(2, 8, 4, 4)})
    >>> targets = method.targets(output, torch.tensor([[[0, 1], [0, 1]]] * 2))
    >>> method(targets, targets).tolist()
    [0.0, 0.0]
    """

    needs_mask = True
    loss_options = ("form",)

    def __init__(self, form: Form = "squared", layers: str | Sequence[str] = "enc_dec") -> None:
        super().__init__()
        fit_option("region_contrast: form", form, Form)
        self.form = form
        self.features = parse_layers("region_contrast", layers)

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """(B, layers) cosines and where they are known."""
        reference = mask_of(mask, "region_contrast")
        found = [region_contrast(output.features[layer], reference) for layer in self.features]
        contrast, known = (torch.stack(each, 1) for each in zip(*found, strict=True))
        return {"contrast": contrast, "known": known}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over the layers where both are known."""
        difference = student["contrast"] - teacher["contrast"]
        difference = difference.square() if self.form == "squared" else difference.abs()
        return torch.where(student["known"] & teacher["known"], difference, 0).sum(1)
