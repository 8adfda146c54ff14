"""From a picture, or a volume, to its mask with one model file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from segdistill.imaging.picture import Pixels
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import ModelInfo
from segdistill.runtime.predict_volume import VolumePrediction, predict_volume
from segdistill.runtime.prediction import Prediction


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
        answers = [self.engine.run_both(image[None]) for image in preprocess.inputs(pixels)]
        probability = preprocess.join(np.stack([answer[0] for answer, _ in answers]), size)
        known = [label[0] for _, label in answers if label is not None]
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
