"""CIRKD's memory terms: what a position is like among all that the teacher saw lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.base import STUDENT, Knowledge, Said, Taps
from segdistill.knowledge.maps import class_masks, exact, mask_of, pool, resize, unit
from segdistill.knowledge.memory import Memory
from segdistill.knowledge.taps import parse_taps
from segdistill.models.output import Output


def memory_gap(student: Tensor, teacher: Tensor, entries: Tensor, temperature: float = 0.1) -> Tensor:
    """KL(teacher || student) between whom each position takes after among the entries; mean over positions.

    Args:
        student: (B, D, n) directions.
        teacher: the same of the teacher.
        entries: (m, D) directions; with none the gap is 0.
        temperature: of the softmax over the entries.

    Returns:
        (B,).

    >>> directions = unit(torch.rand(2, 3, 5))
    >>> memory_gap(directions, directions, torch.eye(3)).abs().max().item()
    0.0
    """
    with exact(student):
        own, theirs = (torch.log_softmax(entries @ each / temperature, dim=1) for each in (student, teacher))
        return (theirs.exp() * (theirs - own)).sum(1).mean(1)


class MemoryContrast(Knowledge):
    """Memory pixel-to-pixel and pixel-to-region knowledge (CIRKD, Yang et al. 2022).

    Each teacher has queues of its own (memory.py), which take in what it says while the student trains, before the
    gap is computed. The student's features pass a learned head: 1x1, batch norm, ReLU, 1x1 to the teacher's width.
    A class that an image lacks leaves nothing in the queues.

    Args:
        taps: one feature, see taps.py; the original takes the last map before the head.
        pixel: weight of the pixel-to-pixel term.
        region: weight of the pixel-to-region term.
        classes: K of the references; with one logit or two classes all but the background is one class.
        temperature: of the softmax over similarities.
        pixels, per_image: length of a class's queue of positions, and how many enter per class and image.
        regions: length of a class's queue of region means.
        drawn_pixels, drawn_regions: entries that a batch is compared with, of all classes together.
        grid: maps are averaged down to at most grid x grid positions.

    Raises:
        InputError: a number below 1, or a network that does not declare its features (at `connect`).

    >>> from segdistill.models.output import FeatureInfo
    >>> info = {"decoder": FeatureInfo("decoder", 4, 1)}
    >>> knowledge = MemoryContrast(pixels=50, regions=10)
    >>> knowledge.connect(info, {"t": info})
    >>> output = Output(None, {"decoder": torch.rand(2, 4, 8, 8)})
    >>> said = knowledge.extract(output, torch.zeros(2, 8, 8).long())  # no lesion at all
    >>> knowledge.gap(said, said, "t").shape
    torch.Size([2])
    """

    compares = (
        "pixel",
        "region",
        "temperature",
        "pixels",
        "per_image",
        "regions",
        "drawn_pixels",
        "drawn_regions",
    )

    def __init__(
        self,
        taps: str | Sequence[str] = ("decoder",),
        pixel: float = 0.1,
        region: float = 0.1,
        classes: int = 2,
        temperature: float = 0.1,
        pixels: int = 20_000,
        per_image: int = 16,
        regions: int = 2_000,
        drawn_pixels: int = 4_096,
        drawn_regions: int = 1_024,
        grid: int = 16,
    ) -> None:
        self.features = parse_taps("memory_contrast", taps)
        whole = (pixels, per_image, regions, drawn_pixels, drawn_regions, grid)
        if (
            len(self.features) != 1
            or temperature <= 0
            or min(whole) < 1
            or classes < 2
            or min(pixel, region) < 0
        ):
            raise InputError(
                "memory_contrast: one tap, a positive temperature, lengths and numbers of at least 1, classes of at "
                "least 2, and no negative weight"
            )
        self.weights = {"pixel": pixel, "region": region}
        self.drawn = {"pixel": drawn_pixels, "region": drawn_regions}
        self.lengths, self.per_image = (pixels, regions), per_image
        self.classes, self.temperature, self.grid = classes, temperature, grid

    def connect(self, student: Taps, teachers: Mapping[str, Taps]) -> None:
        """Builds each teacher's memory."""
        (tap,) = self.features
        if tap not in student or not all(tap in taps for taps in teachers.values()):
            raise InputError("memory_contrast needs networks that declare their features (feature_info)")
        self.modules = {
            name: Memory(student[tap].channels, taps[tap].channels, self.classes, *self.lengths)
            for name, taps in teachers.items()
        }

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """Features (B, C, ...), averaged down, and masks of the classes (B, K, n) at that size."""
        feature = pool(output.features[self.features[0]].float(), self.grid)
        mask = mask_of(target, "memory_contrast")
        return {"feature": feature, "masks": class_masks(mask, feature.shape[2:], self.classes)}

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) weighted sum of both terms; in training the teacher's features are stored first."""
        memory = cast(Memory, self.modules[network])
        theirs = unit(teacher["feature"].flatten(2))
        own = memory(resize(student["feature"], teacher["feature"].shape[2:]).flatten(2))
        if memory.training:
            memory.store(theirs, teacher["masks"], self.per_image)
        gaps = [
            weight * memory_gap(own, theirs, memory.draw(kind, self.drawn[kind]), self.temperature)
            for kind, weight in self.weights.items()
        ]
        return gaps[0] + gaps[1]
