"""Distances between the surfaces of two masks, in 2-D or 3-D, by distance transform.

A mask's surface is its foreground that touches background, or the image's edge, by a side. Where one mask is empty
and the other is not, every distance is the image's diagonal, the worst that can be: a structure that was missed
counts. Two empty masks are at distance 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import MissingExtra
from segdistill.metrics.base import LENGTH, Pair, register_metric

Distances = tuple[NDArray[np.float64], NDArray[np.float64]]
MISSED = "a structure that was missed altogether counts with the image's diagonal"
"""Of one kind of foreground; of several classes an option decides (`metrics.cases.measure_cases`)."""
_NOTE = (
    f"Distances are between the surfaces; {MISSED}. "
    "They are in pixels where the size of a pixel is not known. Smaller is better."
)


def surface_distances(
    prediction: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float] | None = None
) -> Distances:
    """From every surface point of the prediction to the nearest of the reference, and the other way round.

    Args:
        prediction: 2-D or 3-D, foreground where not zero.
        reference: of the same shape.
        spacing: distance between neighbours along each axis; None: 1, so that distances are in pixels.

    Raises:
        ValueError: the shapes differ.
        MissingExtra: scipy is not installed.

    >>> surface_distances(np.array([[1, 0, 0]]), np.array([[0, 0, 1]]))[0].tolist()
    [2.0]
    """
    p, r = np.asarray(prediction) != 0, np.asarray(reference) != 0
    if p.shape != r.shape:
        raise ValueError(f"prediction has shape {p.shape}, reference {r.shape}: they must be equal")
    steps = tuple(float(step) for step in (spacing or (1.0,) * p.ndim))
    if len(steps) != p.ndim:
        raise ValueError(f"spacing has {len(steps)} values for {p.ndim} axes")
    if not p.any() or not r.any():
        worst = float(np.linalg.norm(np.multiply(p.shape, steps))) if p.any() or r.any() else 0.0
        return np.array([worst]), np.array([worst])
    ndimage = require_ndimage()
    box = _box(p | r)
    p_edge, r_edge = (_surface(mask[box], ndimage) for mask in (p, r))
    to_r = ndimage.distance_transform_edt(~r_edge, sampling=steps)[p_edge]
    to_p = ndimage.distance_transform_edt(~p_edge, sampling=steps)[r_edge]
    return to_r, to_p


def _distances(pair: Pair) -> Distances:
    return surface_distances(pair.prediction, pair.reference, pair.spacing)


@register_metric("hd95", higher_is_better=False, label="HD95", unit=LENGTH, digits=2, note=_NOTE)
def hd95(pair: Pair) -> float:
    """Hausdorff distance at 95 %: the larger of the two directions' 95th percentiles, MONAI's convention.

    Others pool both directions before the percentile, or average the two: their numbers are smaller.

    >>> hd95(Pair(np.array([[1, 0, 0]]), np.array([[0, 0, 1]])))
    2.0
    """
    return float(max(np.percentile(one, 95) for one in pair.shared(_distances)))


@register_metric(
    "msd", higher_is_better=False, label="Mean surface distance", unit=LENGTH, digits=2, note=_NOTE
)
def mean_surface_distance(pair: Pair) -> float:
    """The mean over the points of both surfaces.

    >>> mean_surface_distance(Pair(np.array([[1, 1, 0]]), np.array([[1, 0, 0]])))
    0.3333333333333333
    """
    return float(np.concatenate(pair.shared(_distances)).mean())


@register_metric(
    "rmse_boundary", higher_is_better=False, label="RMSE of the boundary", unit=LENGTH, digits=2, note=_NOTE
)
def rmse_boundary(pair: Pair) -> float:
    """The root of the mean squared distance over the points of both surfaces.

    >>> rmse_boundary(Pair(np.array([[1, 0, 0]]), np.array([[0, 0, 1]])))
    2.0
    """
    return float(np.sqrt(np.square(np.concatenate(pair.shared(_distances))).mean()))


_NSD_NOTE = (
    "The share of both surfaces that lies within the tolerance of the other one, in mm, or in pixels where the size of "
    "a pixel is not known. A structure that was missed altogether counts as 0, two empty masks as 1."
)


def normalised_surface_dice(pair: Pair, tolerance: float) -> float:
    """Normalised surface Dice (Nikolov et al. 2018, arXiv 1809.04430), over surface points, as MONAI counts them.

    Args:
        pair: a prediction and its reference.
        tolerance: in mm, or in pixels where the size of a pixel is not known.

    >>> normalised_surface_dice(Pair(np.array([[1, 0, 0, 0]]), np.array([[0, 1, 0, 0]])), 1.0)
    1.0
    >>> normalised_surface_dice(Pair(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 0, 0]])), 1.0)
    0.8333333333333334
    """
    if pair.prediction.any() != pair.reference.any():
        return 0.0
    return float((np.concatenate(pair.shared(_distances)) <= tolerance).mean())


@register_metric("nsd", higher_is_better=True, label="NSD, tolerance 1", digits=3, note=_NSD_NOTE)
def nsd(pair: Pair) -> float:
    """Normalised surface Dice at a tolerance of 1 mm, or 1 pixel (`normalised_surface_dice`).

    >>> nsd(Pair(np.array([[1, 0, 0]]), np.array([[0, 0, 1]])))
    0.0
    """
    return normalised_surface_dice(pair, 1.0)


@register_metric("nsd_2", higher_is_better=True, label="NSD, tolerance 2", digits=3, note=_NSD_NOTE)
def nsd_2(pair: Pair) -> float:
    """Normalised surface Dice at a tolerance of 2 mm, or 2 pixels (`normalised_surface_dice`).

    >>> nsd_2(Pair(np.array([[1, 0, 0]]), np.array([[0, 0, 1]])))
    1.0
    """
    return normalised_surface_dice(pair, 2.0)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The part of the image that holds all foreground: outside of it no surface point can lie."""
    found = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))
        found.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(found)


def _surface(mask: NDArray[np.bool_], ndimage: Any) -> NDArray[np.bool_]:
    rim: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)  # outside counts as background
    return rim


@lru_cache
def require_ndimage() -> Any:
    """`scipy.ndimage`.

    Raises:
        MissingExtra: scipy is not installed.

    >>> require_ndimage().__name__
    'scipy.ndimage'
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise MissingExtra("distances between surfaces, and centrelines,", "report") from error
    return ndimage
