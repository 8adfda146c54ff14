"""EMKD: importance maps, region affinity and soft predictions."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.distillation.base import Composed, register_method
from segdistill.distillation.methods.attention_transfer import AttentionTransfer, Exponent
from segdistill.distillation.methods.region_contrast import RegionContrast
from segdistill.distillation.methods.soft_prediction import SoftPrediction


@register_method("emkd")
class EMKD(Composed):
    """EMKD (Qin et al. 2021): its three terms at the first convolution block and at the encoder's end.

    Samples without foreground or background have no region affinity. (The official code adds 1 to the count of
    foreground positions, so that they have.) The segmentation loss of the paper is the loss `emkd_seg`.

    Args:
        prediction: weight of the soft predictions (PMD), alpha in the paper.
        importance: weight of the importance maps (IMD): attention transfer with |F|^4, beta 1.
        affinity: weight of the region affinity (RAD): region contrast, squared, beta 2.
        temperature: of the soft predictions.
        exponent: of the importance maps.
        layers: see layers.py.

    >>> EMKD().weights
    {'prediction': 0.1, 'importance': 0.9, 'affinity': 0.9}
    """

    def __init__(
        self,
        prediction: float = 0.1,
        importance: float = 0.9,
        affinity: float = 0.9,
        temperature: float = 4.0,
        exponent: Exponent = 4,
        layers: str | Sequence[str] = "emkd",
    ) -> None:
        super().__init__(
            "emkd",
            {
                "prediction": (prediction, SoftPrediction(temperature)),
                "importance": (importance, AttentionTransfer(exponent, layers=layers)),
                "affinity": (affinity, RegionContrast(layers=layers)),
            },
        )
