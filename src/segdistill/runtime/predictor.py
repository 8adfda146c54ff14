"""From a picture, or a volume, to its mask with one model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdistill.imaging.boxes import Box, tight_box
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Pixels
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume
from segdistill.imaging.volume import Volume
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import ModelInfo


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


class Predictor:
    """A model file, ready to segment pictures and volumes.

    Args:
        path: the model file.
        threads: as `Engine`.
        threshold: in place of the one that the model file holds.

    Attributes:
        engine: what runs its network.

    Raises:
        InputError: not a model file of ours, or a threshold outside of 0..1.

    >>> Predictor("absent.onnx")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """

    def __init__(self, path: str | Path, threads: int | None = None, threshold: float | None = None) -> None:
        self.engine = Engine(path, threads)
        self._postprocess = self.engine.info.postprocess
        if threshold is not None:
            self._postprocess = replace(self._postprocess, threshold=threshold)

    @property
    def info(self) -> ModelInfo:
        """What the model file says about itself."""
        return self.engine.info

    def predict_pixels(self, pixels: Pixels) -> Prediction:
        """Segments uint8 pixels (H, W) or (H, W, 3); the result has their size."""
        size = (pixels.shape[0], pixels.shape[1])
        preprocess = self.engine.info.preprocess
        teacher_targets = [self.engine.run_both(image[None]) for image in preprocess.inputs(pixels)]
        probability = preprocess.join(np.stack([answer[0] for answer, _ in teacher_targets]), size)
        known = [label[0] for _, label in teacher_targets if label is not None]
        classes = dict(zip(self.info.labels, np.mean(known, axis=0).tolist(), strict=True)) if known else {}
        foreground = self._postprocess.foreground(probability, size)
        if len(probability) <= 2:
            return Prediction(self._postprocess.above(foreground), foreground, classes)
        return Prediction(self._postprocess.mask(probability, size), foreground, classes)

    def predict(self, path: str | Path) -> Prediction:
        """Reads a file and segments it; UnreadableImage when it cannot be read."""
        return self.predict_pixels(read_picture(path).pixels)

    def predict_volume(self, path: str | Path) -> VolumePrediction:
        """Reads a volume (`read_volume`) and segments it slice by slice; UnreadableImage when it cannot be read."""
        intensity = self.info.preprocess.intensity
        return predict_volume(self.predict_pixels, intensity, read_volume(path, turn=False))
