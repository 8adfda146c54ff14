"""Teachers: frozen, in eval mode, without a graph, and outside everything that trains or is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segdistill.distillation.layers import pick
from segdistill.models.network import Output


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher whose predictions lie beside the masks (data/maps.py): there is no network to run.

    Attributes:
        name: in losses, reports and the batches' maps.
        weight: its fixed weight among the teachers.
        labels: of images on which it is active when routing is by class; empty for all.
    """

    name: str
    weight: float = 1.0
    labels: Sequence[str] = ()


class Teacher:
    """A network that is run but not trained.

    It is deliberately no nn.Module: a student that holds teachers has none of them in its parameters, its state_dict
    or its DDP buckets. Every call runs the network in eval mode under no_grad, whatever happened to it before.

    Args:
        name: in losses and reports.
        network: any network that returns an `Output`.
        weight: its fixed weight among the teachers.
        labels: of images on which it is active when routing is by class; empty for all.
        precision: dtype of its forward pass by autocast; None leaves it as it is.
        trainable: it is a player of its own (`finetune_teachers`): its parameters keep their gradients.

    >>> teacher = Teacher("identity", nn.Identity())
    >>> teacher.network.training
    False
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        weight: float = 1.0,
        labels: Sequence[str] = (),
        precision: torch.dtype | None = None,
        trainable: bool = False,
    ) -> None:
        self.name, self.weight, self.labels, self.precision = name, weight, tuple(labels), precision
        self.network = network.eval()
        if not trainable:
            self.network.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, image: Tensor, layers: Sequence[str] | None = None) -> Output:
        """Output for an image batch (B, C, H, W); no tensor in it has a graph.

        Args:
            image: the batch.
            layers: features to return, under the names of these layers (layers.py); None for all, as they are.

        Raises:
            InputError: the network has no such feature.
        """
        was_training = self.network.training
        self.network.eval()
        with torch.autocast(image.device.type, dtype=self.precision, enabled=self.precision is not None):
            output: Output = self.network(image)
        if was_training:
            self.network.train()
        if layers is None:
            return output
        return output._replace(features=pick(output.features, layers, image, f"teacher '{self.name}'"))


def teacher_weights(
    teachers: Sequence[Teacher | StoredTeacher], labels: Sequence[str], routing: str = "both"
) -> Tensor:
    """Fixed weights, one row per case.

    Args:
        teachers: J teachers with their weights.
        labels: the label of each of N cases.
        routing: "both": every teacher is active on every image (LightBTSeg Eq. 9); "by_class": only on images of its
            own labels.

    Returns:
        (N, J) float32.

    >>> pair = [Teacher("b", nn.Identity(), 0.5, ["benign"]), Teacher("m", nn.Identity(), 0.2, ["malignant"])]
    >>> teacher_weights(pair, ["benign", "malignant"], routing="by_class").tolist()
    [[0.5, 0.0], [0.0, 0.20000000298023224]]
    """
    weights = torch.tensor([teacher.weight for teacher in teachers]).repeat(len(labels), 1)
    if routing == "by_class":
        active = [[not t.labels or label in t.labels for t in teachers] for label in labels]
        weights = weights * torch.tensor(active)
    return weights
