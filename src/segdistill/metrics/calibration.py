"""Calibration: how far probabilities are from frequencies, over all pixels and near the boundary.

Expected calibration error: bins of equal width over the probability of foreground; in each the difference between mean
probability and share of foreground, weighted by its pixels (M. Naeini, G. Cooper, M. Hauskrecht, AAAI 2015; C. Guo et
al., ICML 2017). Most pixels are far from any lesion and easy, so that the error over all pixels is small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError, MissingExtra
from segdistill.metrics.pooled import Pool

BINS = 15
DISTANCE = 5.0


@dataclass
class Reliability:
    """Pixels by their probability of foreground.

    Attributes:
        pixels: per bin. probability: sum of the probabilities. foreground: number of foreground pixels.
        squares: sum of the squared differences between probability and reference.

    >>> made = Reliability()
    >>> made.add(np.array([0.9, 0.9, 0.1, 0.1]), np.array([1, 1, 0, 1]))
    >>> round(made.error, 3), round(made.brier, 3)
    (0.25, 0.21)
    """

    pixels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    probability: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    foreground: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    squares: float = 0.0

    def add(self, scores: NDArray[Any], reference: NDArray[Any]) -> None:
        """Adds pixels of one shape: probabilities 0 to 1, and a reference that is foreground where not zero.

        Raises:
            ValueError: a probability is outside of 0 to 1.
        """
        p = np.asarray(scores, np.float64).ravel()
        truth = (np.asarray(reference) != 0).ravel().astype(np.float64)
        if p.size and not (p.min() >= -1e-6 and p.max() <= 1 + 1e-6):
            raise ValueError("a probability is outside of 0 to 1")
        index = np.clip((p * BINS).astype(np.intp), 0, BINS - 1)
        self.pixels += np.bincount(index, minlength=BINS)
        self.probability += np.bincount(index, p, BINS)
        self.foreground += np.bincount(index, truth, BINS)
        self.squares += float(np.square(p - truth).sum())

    @property
    def error(self) -> float | None:
        """The expected calibration error; None without pixels."""
        total = self.pixels.sum()
        return float(np.abs(self.probability - self.foreground).sum() / total) if total else None

    @property
    def brier(self) -> float | None:
        """The mean squared difference between probability and reference; None without pixels."""
        total = self.pixels.sum()
        return float(self.squares / total) if total else None

    def to_dict(self) -> dict[str, Any]:
        """As plain types: "ece", "brier", "pixels", and "bins" of [mean probability, share of foreground, pixels]."""
        bins = [
            [float(p / n), float(f / n), int(n)]
            for n, p, f in zip(self.pixels, self.probability, self.foreground, strict=True)
            if n
        ]
        return {"ece": self.error, "brier": self.brier, "pixels": int(self.pixels.sum()), "bins": bins}


def near_boundary(reference: NDArray[Any], distance: float = DISTANCE) -> NDArray[np.bool_]:
    """The pixels whose centre is at most `distance` pixels from one on the other side of the reference's contour.

    Args:
        reference: (H, W), foreground where not zero; nothing is near where there is no contour.
        distance: in pixels of the image.

    Raises:
        MissingExtra: scipy is not installed.

    >>> near_boundary(np.array([[1, 1, 1, 0, 0, 0]]), 1).astype(int).tolist()
    [[0, 0, 1, 1, 0, 0]]
    """
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise MissingExtra("calibration near the boundary", "report") from error
    mask = np.asarray(reference) != 0
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, np.bool_)
    near = np.zeros(mask.shape, np.bool_)
    reach = int(np.ceil(distance)) + 1
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = tuple(slice(max(0, line[0] - reach), line[-1] + reach + 1) for line in (rows, columns))
    inside = mask[box]  # outside of the box nothing is near
    near[box] = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside)) <= distance
    return near


@dataclass
class Calibration(Pool):
    """Collects the probabilities of a set, image by image, as the pool of `cases.measure_cases`.

    Attributes:
        distance: what counts as near the boundary, in pixels of the image.
        everywhere, boundary: the pixels so far.
        then: another pool that gets the same images.
    """

    distance: float = DISTANCE
    everywhere: Reliability = field(default_factory=Reliability)
    boundary: Reliability = field(default_factory=Reliability)
    then: Pool | None = None

    def add(
        self, prediction: NDArray[Any], reference: NDArray[Any], scores: NDArray[Any] | None = None
    ) -> None:
        """Adds an image (H, W) or volume (D, H, W), whose slices have a boundary each.

        Raises:
            InputError: there are no probabilities.
        """
        if scores is None:
            raise InputError("calibration needs probabilities, and this predictor gives masks only")
        if self.then is not None:
            self.then.add(prediction, reference, scores)
        self.everywhere.add(scores, reference)
        truth, given = np.asarray(reference), np.asarray(scores)
        for mask, probability in zip(*(x.reshape(-1, *x.shape[-2:]) for x in (truth, given)), strict=True):
            near = near_boundary(mask, self.distance)
            self.boundary.add(probability[near], mask[near])

    def metrics(self) -> dict[str, Any]:
        """Two places, "all" and "boundary", as from `Reliability.to_dict`, and "distance_px"."""
        places = {"all": self.everywhere.to_dict(), "boundary": self.boundary.to_dict()}
        return {"distance_px": self.distance, **places}
