"""A picture cut into a grid of overlapping patches, and the predictions of the patches merged again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError

_MAX_COUNT = 256


@dataclass(frozen=True)
class PatchGrid:
    """`count` x `count` patches of `size` x `size` pixels, evenly spread over a picture of any size.

    Attributes:
        count: patches along each side.
        size: pixels of a patch's side.

    Raises:
        InputError: a value below 1, or more than 256 patches along a side.

    >>> PatchGrid(4, 256).offsets(992)
    [0, 245, 491, 736]
    """

    count: int
    size: int

    def __post_init__(self) -> None:
        if self.count < 1 or self.size < 1:
            raise InputError(
                f"a patch grid needs at least one patch of one pixel, not {self.count} of {self.size}"
            )
        if self.count > _MAX_COUNT:
            raise InputError(
                f"{self.count} patches along a side are more than {_MAX_COUNT}: use fewer, larger ones"
            )

    def offsets(self, length: int) -> list[int]:
        """Where the patches begin along a side of `length` pixels.

        Raises:
            InputError: the side is shorter than a patch, or the patches do not cover the picture.
        """
        if length < self.size:
            raise InputError(
                f"a side of {length} pixels is shorter than a patch of {self.size}: use smaller patches "
                "(data.patches.size in a recipe)"
            )
        if self.count * self.size < length:
            needed = -(-length // self.size)
            raise InputError(
                f"{self.count} patches of {self.size} do not cover a side of {length} pixels: use at least {needed} "
                f"(data.patches.count={needed} in a recipe), or larger ones"
            )
        if self.count == 1:
            return [0]
        step = (length - self.size) / (self.count - 1)
        return [round(k * step) for k in range(self.count)]

    def places(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(top, left) of every patch of a picture (height, width), row by row."""
        return [(top, left) for top in self.offsets(size[0]) for left in self.offsets(size[1])]

    def cut(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """The patches of (H, W) or (H, W, C), as views, row by row.

        >>> [patch.tolist() for patch in PatchGrid(2, 1).cut(np.array([[1, 2], [3, 4]]))]
        [[[1]], [[2]], [[3]], [[4]]]
        """
        return [
            array[top : top + self.size, left : left + self.size]
            for top, left in self.places((array.shape[0], array.shape[1]))
        ]

    def stitch(self, outputs: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
        """Joins outputs of the patches (N, C, p, p) to one of the picture (C, H, W): their mean where they overlap.

        >>> PatchGrid(2, 2).stitch(np.array([0, 1, 0, 1]).reshape(4, 1, 1, 1) * np.ones((4, 1, 2, 2)), (2, 3))[0, 0]
        array([0. , 0.5, 1. ], dtype=float32)
        """
        places = self.places(size)
        if outputs.ndim != 4 or len(outputs) != len(places) or outputs.shape[2:] != (self.size, self.size):
            raise ValueError(f"outputs {outputs.shape} are not {len(places)} patches of {self.size} pixels")
        total = np.zeros((outputs.shape[1], *size), np.float32)
        times = np.zeros(size, np.float32)
        for output, (top, left) in zip(outputs, places, strict=True):
            window = (slice(top, top + self.size), slice(left, left + self.size))
            total[:, *window] += output
            times[window] += 1
        total /= times
        return total

    def to_dict(self) -> dict[str, int]:
        """The settings in JSON types."""
        return {"count": self.count, "size": self.size}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PatchGrid:
        """The reverse of `to_dict`; InputError for anything else.

        >>> PatchGrid.from_dict({"count": 4, "size": 256})
        PatchGrid(count=4, size=256)
        """
        if not isinstance(values, Mapping) or set(values) != {"count", "size"}:
            raise InputError("patches need count and size, nothing else")
        try:
            return cls(int(values["count"]), int(values["size"]))
        except (TypeError, ValueError) as error:
            raise InputError(f"patches have a value of the wrong type: {error}") from error
