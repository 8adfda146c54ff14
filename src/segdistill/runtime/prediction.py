"""What a network says of one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.boxes import Box, tight_box
from segdistill.imaging.picture import Pixels


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask and how sure the network is, at the picture's own size.

    Attributes:
        mask: labels, uint8 (H, W), 0 for background.
        probability: that a pixel is not background, float32 (H, W).
        classes: name -> probability of the whole image's classes, of several patches their mean; empty where the
            network only segments.

    >>> Prediction(np.ones((1, 2), np.uint8), np.array([[0.75, 0.25]], np.float32)).mean_probability
    0.5
    """

    mask: Pixels
    probability: NDArray[np.float32]
    classes: Mapping[str, float] = field(default_factory=dict)

    @property
    def box(self) -> Box | None:
        """The tight box of the largest region, (left, top, right, bottom), right and bottom exclusive; None: no region.

        >>> Prediction(np.array([[0, 1, 1]], np.uint8), np.ones((1, 3), np.float32)).box
        (1, 0, 3, 1)
        """
        return tight_box(self.mask)

    @property
    def mean_probability(self) -> float | None:
        """Mean probability inside the mask; None when the mask is empty."""
        inside = self.probability[self.mask != 0]
        return float(inside.mean(dtype=np.float64)) if inside.size else None
