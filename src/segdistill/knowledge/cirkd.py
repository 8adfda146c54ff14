"""CIRKD: relations of positions across images, those of the batch and earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.knowledge.composed import Composed, Weighted
from segdistill.knowledge.cross_image import CrossImage
from segdistill.knowledge.memory_contrast import MemoryContrast
from segdistill.knowledge.soft_prediction import SoftPrediction


class CIRKD(Composed):
    """CIRKD (Yang et al. 2022): soft predictions, the mini-batch term and the memory terms.

    Args:
        prediction: weight of the soft predictions at temperature 1.
        batch: weight of the mini-batch pixel-to-pixel term.
        memory_pixel, memory_region: weights of the memory terms; both 0 leave the memory out.
        taps, temperature, grid, classes: of all terms on features.
        pixels, per_image, regions, drawn_pixels, drawn_regions: see `MemoryContrast`.

    >>> {name: weight for name, (weight, _) in CIRKD().parts.items()}
    {'prediction': 1.0, 'batch': 1.0, 'memory': 1.0}
    """

    def __init__(
        self,
        prediction: float = 1.0,
        batch: float = 1.0,
        memory_pixel: float = 0.1,
        memory_region: float = 0.1,
        taps: str | Sequence[str] = ("decoder",),
        temperature: float = 0.1,
        grid: int = 16,
        classes: int = 2,
        pixels: int = 20_000,
        per_image: int = 16,
        regions: int = 2_000,
        drawn_pixels: int = 4_096,
        drawn_regions: int = 1_024,
    ) -> None:
        memory = MemoryContrast(
            taps=taps,
            pixel=memory_pixel,
            region=memory_region,
            classes=classes,
            temperature=temperature,
            pixels=pixels,
            per_image=per_image,
            regions=regions,
            drawn_pixels=drawn_pixels,
            drawn_regions=drawn_regions,
            grid=grid,
        )
        parts: Weighted = {
            "prediction": (prediction, SoftPrediction()),
            "batch": (batch, CrossImage(taps, temperature, grid)),
            "memory": (float(memory_pixel > 0 or memory_region > 0), memory),
        }
        super().__init__("cirkd", parts)
