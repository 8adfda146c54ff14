"""From a network's probabilities to a mask at the picture's own size. NumPy and Pillow only: repeatable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.picture import Pixels


def resize_probability(probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resizes each class plane: float32 (K, h, w) -> float32 (K, H, W), bilinear (antialiased if smaller).

    >>> resize_probability(np.full((2, 4, 4), 0.5, np.float32), (6, 8)).shape
    (2, 6, 8)
    """
    height, width = size
    if probability.shape[1:] == (height, width):
        return np.asarray(probability, np.float32)
    planes = np.empty((probability.shape[0], height, width), np.float32)
    for plane, source in zip(planes, probability, strict=True):
        image = Image.fromarray(np.ascontiguousarray(source, np.float32))
        plane[:] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return planes


@dataclass(frozen=True)
class Postprocess:
    """How probabilities become labels.

    Attributes:
        threshold: probability above which a pixel is foreground (one or two class planes).
        classes: names of the labels, background first.

    >>> Postprocess().mask(np.array([[[0.4]], [[0.6]]], np.float32), (1, 2)).tolist()
    [[1, 1]]
    """

    threshold: float = 0.5
    classes: tuple[str, ...] = ("background", "lesion")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold must lie between 0 and 1, got {self.threshold}")
        if len(self.classes) < 2 or len(self.classes) > 255:
            raise InputError(f"classes must be background and 1 to 254 more, got {len(self.classes)}")

    def foreground(self, probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Probability that a pixel is not background, at `size`: float32 (K, h, w) -> float32 (H, W).

        The only plane when K is 1, the second when K is 2, one minus the first when there are more.

        >>> Postprocess().foreground(np.array([[[0.25]], [[0.75]]], np.float32), (1, 1)).tolist()
        [[0.75]]
        """
        self._check(probability)
        plane = probability[-1:] if len(probability) <= 2 else 1 - probability[:1]
        resized: NDArray[np.float32] = resize_probability(plane, size)[0]
        return resized

    def mask(self, probability: NDArray[np.float32], size: tuple[int, int]) -> Pixels:
        """Labels at `size`: float32 (K, h, w) -> uint8 (H, W).

        K of 1 or 2: 1 where `foreground` is above the threshold. More: the most probable class.

        >>> Postprocess(threshold=0.7).mask(np.array([[[0.7]]], np.float32), (1, 1)).tolist()
        [[0]]
        """
        if len(probability) <= 2:
            return self.above(self.foreground(probability, size))
        self._check(probability)
        labels: Pixels = resize_probability(probability, size).argmax(axis=0).astype(np.uint8)
        return labels

    def above(self, foreground: NDArray[np.float32]) -> Pixels:
        """1 where a probability (H, W) is above the threshold, else 0: uint8 (H, W).

        >>> Postprocess().above(np.array([[0.5, 0.6]], np.float32)).tolist()
        [[0, 1]]
        """
        labels: Pixels = (foreground > np.float32(self.threshold)).astype(np.uint8)
        return labels

    def _check(self, probability: NDArray[np.float32]) -> None:
        planes = probability.shape[0] if probability.ndim == 3 else 0
        if planes != len(self.classes) and not (planes == 1 and len(self.classes) == 2):
            raise InputError(f"probabilities {probability.shape} do not fit the {len(self.classes)} classes")

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON types.

        >>> Postprocess().to_dict()
        {'threshold': 0.5, 'classes': ['background', 'lesion']}
        """
        return {"threshold": self.threshold, "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Postprocess:
        """The reverse of `to_dict`; InputError for unknown keys and wrong types.

        >>> Postprocess.from_dict({"threshold": 0.3}).threshold
        0.3
        """
        if not isinstance(values, Mapping) or not set(values) <= {"threshold", "classes"}:
            raise InputError("postprocessing may have classes and threshold, nothing else")
        classes = values.get("classes", ("background", "lesion"))
        threshold = values.get("threshold", 0.5)
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise InputError(f"classes must be a list of names, got {classes!r}")
        if not isinstance(threshold, (int, float)):
            raise InputError(f"threshold must be a number, got {threshold!r}")
        return cls(float(threshold), tuple(classes))
