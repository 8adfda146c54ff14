"""Whether a model file gives on this machine what it gave where it was exported: on synthetic images, from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess
from segdistill.imaging.picture import Pixels
from segdistill.runtime.engine import Runs
from segdistill.runtime.predictor import Predictor

SEED, IMAGES, BLOCKS = 1, 3, 8
TOLERANCE = {False: 0.001, True: 0.05}
"""Of probabilities and of the mask's share of the image, for fp32 (False) and int8 (True): engines round the steps of
int8 differently, on images unlike those of the calibration by up to 0.033 in four networks."""


@dataclass(frozen=True)
class SelfTest:
    """What a model file gives on this machine, against what it gave where it was exported.

    Attributes:
        probability: largest difference of the mean probability of a block.
        area: largest difference of the mask's share of an image.
        tolerance: of both.
    """

    probability: float
    area: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both are within the tolerance.

        >>> SelfTest(1e-5, 0.0, 1e-3).passed
        True
        """
        return max(self.probability, self.area) <= self.tolerance


def synthetic_images(size: tuple[int, int], seed: int = SEED, count: int = IMAGES) -> list[Pixels]:
    """Soft random grey with a bright and a dark ellipse: uint8 (H, W) each; the same on every machine.

    >>> [image.shape for image in synthetic_images((16, 24), count=2)]
    [(16, 24), (16, 24)]
    """
    random = np.random.RandomState(seed)  # its stream is the same in every version of NumPy
    height, width = size
    row, column = np.ogrid[:height, :width]
    images = []
    for _ in range(count):
        coarse = random.randint(60, 180, (BLOCKS, BLOCKS)).astype(np.uint8)
        pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
        for level in (230, 20):
            y, x, h, w = random.randint(20, 80, 4) / 100
            pixels[((row / height - y) / (h / 3)) ** 2 + ((column / width - x) / (w / 3)) ** 2 <= 1] = level
        images.append(pixels)
    return images


def _several(preprocess: AnyPreprocess, size: tuple[int, int], seed: int, count: int) -> list[Pixels]:
    """Synthetic images as the network takes them: (H, W), or (H, W, C) where it takes several channels."""
    names = preprocess.channel_names
    channels = [synthetic_images(size, seed + c, count) for c in range(len(names) or 1)]
    return [np.stack(each, axis=-1) for each in zip(*channels, strict=True)] if names else channels[0]


def record_self_test(engine: Runs) -> dict[str, Any]:
    """What a network gives on the synthetic images, in JSON types: for the metadata of its model file.

    Raises:
        InputError: the network does not run.
    """
    blocks, areas = _measure(engine, SEED, IMAGES)
    return {"seed": SEED, "blocks": np.round(blocks, 5).tolist(), "areas": np.round(areas, 5).tolist()}


def run_self_test(engine: Runs, stated: Mapping[str, Any], is_int8: bool) -> SelfTest:
    """Compares this machine's result with that in the model file.

    Args:
        engine: of the model file.
        stated: what `record_self_test` gave where it was exported.
        is_int8: whether the file is in int8.

    Raises:
        InputError: the record is damaged.
    """
    try:
        known = np.asarray(stated["blocks"], float)
        areas = np.asarray(stated["areas"], float)
        seed = int(stated["seed"])
        if known.shape != (len(areas), BLOCKS, BLOCKS) or not 0 < len(areas) <= IMAGES or seed < 0:
            raise ValueError("its shape")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("the self-test in the model file is damaged: export it again") from error
    found, sizes = _measure(engine, seed, len(areas))
    return SelfTest(
        float(np.abs(found - known).max()), float(np.abs(sizes - areas).max()), TOLERANCE[is_int8]
    )


def _measure(engine: Runs, seed: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean foreground probability of 8 x 8 blocks of each image, and the mask's share of it.

    A network of volumes sees one patch, whose slices are synthetic images; its first `count` slices are taken.
    """
    predictor, preprocess = Predictor(engine), engine.info.preprocess
    height, width = preprocess.size[-2:]
    blocks, areas = [], []
    if isinstance(preprocess, VolumePreprocess):
        patch = np.stack(_several(preprocess, (height, width), seed, preprocess.size[0]))
        whole, _ = engine.run_both(preprocess.normalise(patch)[None])
        outputs = list(whole[0].swapaxes(0, 1)[:count])
        foregrounds = [predictor.postprocess.foreground(one, (height, width)) for one in outputs]
        masks = [predictor.postprocess.mask(one, (height, width)) for one in outputs]
    else:
        found = [predictor.predict_pixels(one) for one in _several(preprocess, (height, width), seed, count)]
        foregrounds, masks = [one.probability for one in found], [one.mask for one in found]
    for foreground, mask in zip(foregrounds, masks, strict=True):
        rows = np.array_split(foreground.astype(float), BLOCKS)
        blocks.append([[part.mean() for part in np.array_split(row, BLOCKS, axis=1)] for row in rows])
        areas.append(np.count_nonzero(mask) / mask.size)
    return np.array(blocks), np.array(areas)
