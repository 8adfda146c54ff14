"""CIRKD's mini-batch term: how alike positions of different images look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.base import STUDENT, Knowledge, Said
from segdistill.knowledge.maps import exact, pool, resize, unit
from segdistill.knowledge.taps import parse_taps
from segdistill.models.output import Output


def cross_image_gap(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """KL(teacher || student) between where each position finds its like in each image of the batch.

    For images i and j the similarities of the n positions of i to those of j are cosines; each row becomes a
    distribution by softmax at the temperature. Mean over rows and over j, so that the mean over i is that over all
    pairs.

    Args:
        student: (B, C, ...) of n positions.
        teacher: (B, D, ...) of as many.
        temperature: of the softmax.

    Returns:
        (B,); the samples of a batch depend on one another.

    >>> feature = torch.rand(2, 3, 2, 2)
    >>> cross_image_gap(feature, 5 * feature).abs().max().item() < 1e-5
    True
    """
    own, theirs = (_similarities(each, temperature) for each in (student, teacher))
    return (theirs.exp() * (theirs - own)).sum(3).mean((1, 2))


def _similarities(feature: Tensor, temperature: float) -> Tensor:
    """(B, n, B, n) log-distributions over the last axis."""
    with exact(feature):
        directions = unit(feature.flatten(2)).mT
        cosine = torch.einsum("inc,jmc->injm", directions, directions)
        return torch.log_softmax(cosine / temperature, dim=3)


class CrossImage(Knowledge):
    """Mini-batch pixel-to-pixel knowledge (CIRKD, Yang et al. 2022).

    Widths need not match. Alone among the images of a batch of one, an image is compared with itself.

    Args:
        taps: see taps.py; the original takes the last map before the head.
        temperature: of the softmax over similarities; the official code passes 0.1.
        grid: maps are averaged down to at most grid x grid positions: there are (B grid^2)^2 similarities. The
            original pools maps of 256 positions and more by 4; its maps are an eighth of the image, a U-Net's as
            large as it.

    >>> knowledge = CrossImage()
    >>> said = knowledge.extract(Output(None, {"decoder": torch.rand(2, 8, 64, 64)}))
    >>> said["decoder"].shape
    torch.Size([2, 8, 16, 16])
    """

    compares = ("temperature",)

    def __init__(
        self, taps: str | Sequence[str] = ("decoder",), temperature: float = 0.1, grid: int = 16
    ) -> None:
        if temperature <= 0 or grid < 1:
            raise InputError("cross_image: temperature must be positive, grid at least 1")
        self.features = parse_taps("cross_image", taps)
        self.temperature, self.grid = temperature, grid

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """Features (B, C, ...), averaged down."""
        return {tap: pool(output.features[tap].float(), self.grid) for tap in self.features}

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) sum over taps."""
        gaps = [
            cross_image_gap(resize(student[tap], teacher[tap].shape[2:]), teacher[tap], self.temperature)
            for tap in self.features
        ]
        return sum(gaps[1:], gaps[0])
