"""The auto-encoder task: compresses the features of a frozen network (LightVessel, Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segdistill.distillation import Teacher
from segdistill.distillation.methods.lightvessel import FeatureAutoEncoders
from segdistill.training.task import Batch, Trainee


class _Codes(Trainee):
    """Auto-encoders as a player: features in, errors out."""

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        """Layer -> (B,) error of the reconstruction."""
        errors: dict[str, Tensor] = self.network(features)
        return errors


class Reconstruction:
    """L_Rec = mean |feature in - feature out|, the sum over the layers of one network, which one MLP encodes.

    Args:
        autoencoders: of the layers; trained and saved.
        teacher: the frozen network of the features; for a student's auto-encoders, the student trained without
            distillation.

    >>> from segdistill.distillation.methods.lightvessel import feature_autoencoder
    >>> from segdistill.models.registry import create_network
    >>> network = create_network("simplified_unet", widths=[2, 4, 4, 4])
    >>> task = Reconstruction(feature_autoencoder(network), Teacher("net", network))
    >>> list(task.losses({"image": torch.zeros(1, 3, 16, 16)}, "autoencoders"))
    ['loss', 'pair_encoder|enc@4', 'pair_decoder|dec@4']
    """

    def __init__(self, autoencoders: FeatureAutoEncoders, teacher: Teacher) -> None:
        self.layers, self.teacher = autoencoders.layers, teacher
        self.players: dict[str, torch.nn.Module] = {"autoencoders": _Codes(autoencoders)}

    def losses(self, batch: Batch, player: str) -> dict[str, Tensor]:
        """The loss, and the error of each layer."""
        parts = {layer: errors.mean() for layer, errors in self._errors(batch).items()}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Per-case loss."""
        with torch.no_grad():
            return {"loss": torch.stack(list(self._errors(batch).values())).sum(0)}

    def _errors(self, batch: Batch) -> dict[str, Tensor]:
        features = self.teacher(batch["image"], self.layers).features
        errors: dict[str, Tensor] = self.players["autoencoders"](features)
        return errors
