"""How much a network loses on disturbed images: gamma, speckle and blur of stated strengths against the clean image."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Picture, Pixels
from segdistill.metrics.cases import CaseResult, Predict
from segdistill.metrics.measuring import evaluate_cases
from segdistill.registry import near_names
from segdistill.stats.bootstrap import Interval, PairedDifference, bootstrap_mean, paired_difference

STRENGTHS: dict[str, tuple[float, ...]] = {
    "gamma": (0.5, 0.7, 1.4, 2.0),
    "speckle": (0.1, 0.2, 0.4),
    "blur": (1.0, 2.0, 4.0),
}
"""gamma: the exponent (below 1 brightens); speckle: standard deviation of the multiplicative noise; blur: that of the
Gaussian, in pixels of the image."""


def gamma(pixels: Pixels, strength: float) -> Pixels:
    """Grey levels v become 255 (v / 255)^strength.

    >>> gamma(np.array([[0, 64, 255]], np.uint8), 0.5).tolist()
    [[0, 128, 255]]
    """
    table = np.rint(255 * (np.arange(256) / 255) ** strength).astype(np.uint8)
    changed: Pixels = table[pixels]
    return changed


def speckle(pixels: Pixels, strength: float) -> Pixels:
    """Every pixel is multiplied by 1 + strength times a standard normal number, the same for all its colours.

    The noise is fixed by the pixels themselves, so that every network sees the same picture.

    >>> speckle(np.zeros((2, 2), np.uint8), 0.4).tolist()
    [[0, 0], [0, 0]]
    """
    rng = np.random.default_rng([zlib.crc32(np.ascontiguousarray(pixels).tobytes()), round(1000 * strength)])
    noise = 1 + strength * rng.standard_normal(pixels.shape[:2])
    return _levels(pixels * (noise if pixels.ndim == 2 else noise[..., None]))


def blur(pixels: Pixels, strength: float) -> Pixels:
    """Gaussian blur of standard deviation `strength` pixels, the edge pixels continued outwards.

    >>> blur(np.full((3, 3), 7, np.uint8), 2.0).tolist()
    [[7, 7, 7], [7, 7, 7], [7, 7, 7]]
    """
    if strength <= 0:
        return pixels.copy()
    reach = max(1, round(4 * strength))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / strength) ** 2)
    kernel /= kernel.sum()
    values: NDArray[Any] = pixels.astype(np.float64)
    for axis in (0, 1):
        edges = [(reach, reach) if k == axis else (0, 0) for k in range(values.ndim)]
        padded = np.pad(values, edges, mode="edge")
        size = values.shape[axis]
        values = sum(
            weight * np.take(padded, np.arange(k, k + size), axis) for k, weight in enumerate(kernel)
        )
    return _levels(values)


def _levels(values: NDArray[Any]) -> Pixels:
    levels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


PERTURBATIONS: dict[str, Callable[[Pixels, float], Pixels]] = {
    "gamma": gamma,
    "speckle": speckle,
    "blur": blur,
}


def disturbed(predict: Predict, kind: str, strength: float) -> Predict:
    """The predictor behind a disturbance: it sees the disturbed picture.

    Raises:
        InputError: an unknown disturbance.

    >>> from pathlib import Path
    >>> dark = disturbed(lambda picture: picture.pixels > 99, "gamma", 2.0)
    >>> dark(Picture(np.full((1, 1), 128, np.uint8), None, Path("a.png"))).tolist()
    [[False]]
    """
    if kind not in PERTURBATIONS:
        raise InputError(f"unknown disturbance '{kind}': {near_names(kind, PERTURBATIONS)}")
    change = PERTURBATIONS[kind]

    def behind(picture: Picture) -> Any:
        return predict(replace(picture, pixels=change(picture.pixels, strength)))

    return behind


@dataclass(frozen=True)
class Disturbed:
    """Scores under one disturbance: their mean, and the paired difference to the clean images."""

    kind: str
    strength: float
    score: Interval
    difference: PairedDifference

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON."""
        return {
            "kind": self.kind,
            "strength": self.strength,
            "score": self.score.to_dict(),
            "difference": {key: getattr(self.difference, key) for key in ("mean", "low", "high", "n")},
        }


def robustness(
    cases: Sequence[Case],
    predict: Predict,
    clean: Sequence[CaseResult],
    *,
    intensity: Intensity | None = None,
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    metric: str = "dice",
    seed: int = 0,
) -> Iterator[Disturbed]:
    """Measures the cases with something to find under every disturbance; gives one result after the other.

    Args:
        cases: rows of the case table, of which those in `clean` are taken.
        predict: as for evaluate_cases.
        clean: results on the same cases without disturbance.
        intensity: how the values of a volume become 8 bits.
        strengths: kind -> strengths.
        metric: of METRICS.
        seed: of the bootstrap.

    Raises:
        InputError: an unknown disturbance, or a file that cannot be read.

    >>> list(robustness([], lambda picture: picture.pixels, [], strengths={}))
    []
    """
    before = {r.case: r for r in clean if not r.normal}
    chosen = [case for case in cases if case.id in before]
    for kind, values in strengths.items():
        for strength in values:
            after = evaluate_cases(chosen, disturbed(predict, kind, strength), intensity=intensity)
            groups = [r.group for r in after]
            scores = [r.metrics[metric] for r in after]
            difference = paired_difference(
                scores, [before[r.case].metrics[metric] for r in after], groups, seed=seed
            )
            yield Disturbed(kind, strength, bootstrap_mean(scores, groups, seed=seed), difference)
