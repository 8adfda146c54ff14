"""From a volume to its mask with one model file, slice by slice as the network was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Pixels
from segdistill.imaging.volume import Volume
from segdistill.runtime.prediction import Prediction


@dataclass(frozen=True, eq=False)
class VolumePrediction:
    """The mask of a volume, on the grid on which the volume is stored.

    Attributes:
        volume: what was segmented, as stored.
        mask: labels, uint8 (D, H, W), 0 for background.
        mean_probability: inside of the mask; None when it is empty.
    """

    volume: Volume
    mask: NDArray[np.uint8]
    mean_probability: float | None

    @property
    def voxels(self) -> int:
        """Voxels of foreground."""
        return int(np.count_nonzero(self.mask))

    @property
    def millilitres(self) -> float | None:
        """Size of the foreground; None where the size of a voxel is not known."""
        spacing = self.volume.spacing
        return None if spacing is None else self.voxels * float(np.prod(spacing)) / 1000


def predict_volume(
    segment: Callable[[Pixels], Prediction],
    intensity: Intensity | None,
    volume: Volume,
    progress: Callable[[int, int], None] | None = None,
) -> VolumePrediction:
    """Segments every slice of a volume.

    Args:
        segment: says what it sees in one slice (`Predictor.predict_pixels`).
        intensity: how its training made 8 bits of a volume's values; None for the default.
        volume: as stored (`read_volume(path, turn=False)`): the network sees it turned as in its training, and the
            answer is turned back.
        progress: called with (done, total) after every slice.
    """
    turned = volume.turned()
    levels = slice_levels(intensity, turned)
    mask = np.zeros(volume.voxels.shape, np.uint8)
    into = as_turned(mask, volume)
    total, inside = 0.0, 0
    for k in range(len(into)):
        answer = segment(levels(k))
        into[k] = answer.mask
        found = answer.probability[answer.mask != 0]
        total, inside = total + float(found.sum(dtype=np.float64)), inside + found.size
        if progress is not None:
            progress(k + 1, len(into))
    return VolumePrediction(volume, mask, total / inside if inside else None)


def slice_levels(intensity: Intensity | None, turned: Volume) -> Callable[[int], Pixels]:
    """A function from the number of a slice to its 8 bits, as the network was trained with."""
    to_eight_bits = (intensity or Intensity()).levels(turned.voxels)
    return lambda k: to_eight_bits(np.asarray(turned.voxels[k]))


def as_turned(stored: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
    """A view of an array on the grid of a stored volume, as `Volume.turned` lays it out.

    >>> from pathlib import Path
    >>> from segdistill.imaging.volume import Geometry
    >>> axes = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0))
    >>> array = np.array([[[1], [2]]], np.uint8)
    >>> volume = Volume(array, None, Path("a.nii"), Geometry((1, 2, 1), (1.0, 1.0, 1.0), axes))
    >>> as_turned(array, volume).ravel().tolist()
    [2, 1]
    """
    _, how = volume.geometry.turned()
    if not how:
        return stored
    swap, flips = how
    view = stored.swapaxes(1, 2) if swap else stored
    turned: NDArray[np.uint8] = view[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return turned
