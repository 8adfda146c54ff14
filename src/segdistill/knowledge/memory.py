"""Queues of what a teacher said of earlier images, and the student's way into its space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.knowledge.maps import exact, unit


class Memory(nn.Module):
    """CIRKD's queues of one teacher, a ring per class, and the student's projection head.

    All of it is state: a resumed training goes on with the same entries. A ring begins empty (the official code
    begins with random vectors), and only what was stored is ever drawn. With several devices the first one's queues
    are everybody's.

    Args:
        student: channels of the student's feature.
        teacher: channels D of the teacher's.
        classes: K.
        pixels: length of a class's ring of positions.
        regions: length of its ring of region means.

    >>> memory = Memory(4, 3, classes=2, pixels=5, regions=2)
    >>> memory.store(torch.rand(1, 3, 6), torch.zeros(1, 2, 6).index_fill(1, torch.tensor([1]), 1.0), 4)
    >>> memory.draw("pixel", 9).shape, memory.draw("region", 9).shape
    (torch.Size([4, 3]), torch.Size([1, 3]))
    """

    pixel: Tensor
    region: Tensor
    pixel_count: Tensor
    region_count: Tensor

    def __init__(self, student: int, teacher: int, classes: int, pixels: int, regions: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv1d(student, teacher, 1),
            nn.BatchNorm1d(teacher),
            nn.ReLU(),
            nn.Conv1d(teacher, teacher, 1),
        )
        for kind, length in (("pixel", pixels), ("region", regions)):
            self.register_buffer(kind, torch.zeros(classes, length, teacher))
            # how many were ever stored: the next place is the remainder by the ring's length
            self.register_buffer(f"{kind}_count", torch.zeros(classes, dtype=torch.int64))

    def forward(self, feature: Tensor) -> Tensor:
        """The student's (B, C, n) as directions (B, D, n) in the teacher's space."""
        with exact(feature):
            return unit(self.head(feature))

    @torch.no_grad()
    def store(self, directions: Tensor, masks: Tensor, per_image: int) -> None:
        """Takes, of each class in each image, its mean direction and some positions at random.

        Args:
            directions: (B, D, n) of the teacher.
            masks: (B, K, n), 1 where a position is of the class; a class that is not there leaves nothing.
            per_image: positions of each class and image.
        """
        for image, of_classes in zip(directions, masks, strict=True):
            for c, mask in enumerate(of_classes):
                found = image[:, mask > 0].T
                if not len(found):
                    continue
                self._put("region", c, unit(found.mean(0, keepdim=True)))
                chosen = torch.randperm(len(found))[
                    :per_image
                ]  # on the CPU: its state is in every checkpoint
                self._put("pixel", c, found[chosen.to(found.device)])

    def _put(self, kind: str, c: int, entries: Tensor) -> None:
        ring, count = getattr(self, kind)[c], getattr(self, f"{kind}_count")
        entries = entries[-len(ring) :]
        places = (int(count[c]) + torch.arange(len(entries), device=ring.device)) % len(ring)
        ring[places] = entries.to(ring.dtype)
        count[c] += len(entries)

    @torch.no_grad()
    def draw(self, kind: str, wanted: int) -> Tensor:
        """(entries, D): of each class as many as are there, up to `wanted` // K + 1, at random."""
        rings, counts = getattr(self, kind), getattr(self, f"{kind}_count").tolist()
        drawn = []
        for ring, count in zip(rings, counts, strict=True):
            chosen = torch.randperm(min(count, len(ring)))[: wanted // len(rings) + 1]
            drawn.append(ring[chosen.to(ring.device)])
        return torch.cat(drawn)
