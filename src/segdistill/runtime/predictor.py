"""From a picture, or a volume, to its mask with one network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from segdistill import __version__
from segdistill.errors import InputError, first_line
from segdistill.files import sha256_file, sha256_text
from segdistill.imaging.boxes import Box, tight_box
from segdistill.imaging.grid import Planes, Shape, Spacing3, VolumePreprocess, slices_at
from segdistill.imaging.intensity import AnyIntensity, intensity_of
from segdistill.imaging.picture import Picture, Pixels
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.imaging.preprocess import check_channels
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import nifti_info
from segdistill.imaging.several import (
    Channel,
    channel_levels,
    read_channel_picture,
    read_channel_volumes,
)
from segdistill.imaging.volume import Volume
from segdistill.runtime.engine import Engine, Runs
from segdistill.runtime.model_file import ModelInfo, dump_info

Image = Pixels | str | Path | Mapping[str, str | Path]
"""uint8 pixels (H, W) or (H, W, 3), (H, W, C) of several channels, or the path of a picture, or of each channel by its
name.
"""
TOLERANCE = 1e-4
"""How far outside of [0, 1] rounding may bring a probability."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A mask with its probabilities, at the picture's own size.

    Attributes:
        mask: class indices, uint8 (H, W), 0 for background.
        probability: that a pixel is not background, float32 (H, W).
        classes: name -> probability of the whole image's classes, of several patches their mean; empty where the
            network only segments.
        structures: names of the classes of the mask from 1, where there are several; none: one kind of foreground.

    >>> Prediction(np.ones((1, 2), np.uint8), np.array([[0.75, 0.25]], np.float32)).mean_probability
    0.5
    """

    mask: Pixels
    probability: NDArray[np.float32]
    classes: Mapping[str, float] = field(default_factory=dict)
    structures: tuple[str, ...] = ()

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
        mask: class indices, uint8 (D, H, W), 0 for background.
        mean_probability: inside the mask; None when it is empty.
        structures: see `Prediction`.
    """

    volume: Volume
    mask: NDArray[np.uint8]
    mean_probability: float | None
    structures: tuple[str, ...] = ()

    @property
    def voxels(self) -> int:
        """Number of foreground voxels."""
        return int(np.count_nonzero(self.mask))

    @property
    def millilitres(self) -> float | None:
        """Size of the foreground; None where the size of a voxel is not known."""
        return self.millilitres_of(self.voxels)

    def millilitres_of(self, voxels: int) -> float | None:
        """The size of so many voxels; None where that of one is not known."""
        spacing = self.volume.spacing
        return None if spacing is None else voxels * float(np.prod(spacing)) / 1000


class Predictor:
    """Segments pictures and volumes with one network; `segdistill.load_model` makes it from a model file.

    Args:
        network: a model file, or an engine.
        threads: CPU threads for a model file; None leaves the choice to the engine (all cores).
        threshold: replaces that of the network.
        weights: the file of the network's weights, for an engine that is no model file.
        engine: runs a model file: onnxruntime or openvino.
        workers: how many pictures, or slices of a volume, are segmented at the same time by `predict_volume` and
            `runtime.predict`, each with `threads`.

    Attributes:
        engine: runs the network.
        postprocess: from its probabilities to the mask.

    Raises:
        InputError: not a model file of ours, or a threshold outside of 0..1.

    >>> Predictor("absent.onnx")
    Traceback (most recent call last):
    segdistill.errors.InputError: no such model file: absent.onnx
    """

    def __init__(
        self,
        network: str | Path | Runs,
        threads: int | None = None,
        threshold: float | None = None,
        weights: str | Path | None = None,
        engine: str = "onnxruntime",
        workers: int = 1,
    ) -> None:
        self.engine: Runs = Engine(network, threads, engine) if isinstance(network, (str, Path)) else network
        self.workers = workers
        self._by = [] if engine == "onnxruntime" else [engine]
        self._weights = Path(network) if isinstance(network, (str, Path)) else weights
        self.postprocess: Postprocess = self.info.postprocess
        if threshold is not None:
            self.postprocess = replace(self.postprocess, threshold=threshold)

    @property
    def info(self) -> ModelInfo:
        """Processing, classes and provenance of the network."""
        return self.engine.info

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the classes of a mask from 1, where there are several."""
        names = self.postprocess.classes[1:]
        return names if len(names) > 1 else ()

    @property
    def fingerprint(self) -> str:
        """Changes with weights, processing, threshold, engine and version; "" where the weights are in no file."""
        if self._weights is None:
            return ""
        facts = [
            __version__,
            dump_info(self.info),
            self.postprocess.to_dict(),
            sha256_file(self._weights),
            *self._by,
        ]
        return sha256_text(json.dumps(facts))

    @overload
    def predict(self, images: Image) -> Prediction: ...

    @overload
    def predict(self, images: list[Any]) -> list[Prediction]: ...

    def predict(self, images: Image | list[Any]) -> Prediction | list[Prediction]:
        """Segments one picture, or each of a list.

        Args:
            images: uint8 (H, W) or (H, W, 3), or a path; or a list of these. For a network of several channels
                (H, W, C), or the path of each by its name: {"flair": "a.png", "t1": "b.png"}.

        Returns:
            A prediction, at the picture's own size, or a list of them.

        Raises:
            InputError: an array of another shape or type, or a file that cannot be read (UnreadableImage).
        """
        if isinstance(images, (str, Path, Mapping)):
            return self.predict_pixels(self.read(self.channels_of(images)).pixels)
        if isinstance(images, np.ndarray):
            return self.predict_pixels(images)
        return [self.predict(image) for image in images]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that the network takes; none: one image."""
        return self.info.preprocess.channel_names

    def channels_of(self, image: str | Path | Mapping[str, str | Path]) -> tuple[Channel, ...]:
        """Where the channels of an image lie, in the network's order.

        Args:
            image: its file; of several channels a NIfTI file of four dimensions, or a file for each by its name.

        Raises:
            InputError: a channel is missing or unknown, or one file where several are wanted.
        """
        names = self.channels
        if isinstance(image, Mapping):
            if set(image) != set(names):
                given = ", ".join(image) or "none"
                raise InputError(f"{self._wanted()}; given are {given}")
            return tuple(Channel(name, Path(image[name])) for name in names)
        path = Path(image)
        if not names:
            return (Channel("image", path),)
        if path.name.lower().endswith((".nii", ".nii.gz")):
            sides = nifti_info(path).dimensions
            if len(sides) == 4 and sides[3] == len(names):
                return tuple(Channel(name, path, part) for part, name in enumerate(names, start=1))
            found = f" ({sides[3] if len(sides) == 4 else 1} in {path.name})"
            raise InputError(f"{path}: {self._wanted()}{found}")
        raise InputError(f"{path}: {self._wanted()}")

    def _wanted(self) -> str:
        """What a model takes, and how to give it."""
        names = self.channels
        if not names:
            return "this model takes one image, without the name of a channel: give its file alone"
        return (
            f"this model takes {len(names)} channels: give each "
            f"({' '.join(f'--image {name}=FILE' for name in names)}), a case table, or a folder with NAME_0000, "
            "NAME_0001, ... in this order"
        )

    def read(self, channels: Sequence[Channel]) -> Picture:
        """The picture of an image's channels, (H, W, C) where there are several, as in training.

        Raises:
            InputError: a file cannot be read (UnreadableImage), or pictures of different sizes.
        """
        intensity = self.info.preprocess.intensity
        if len(channels) > 1:
            return read_channel_picture(channels, intensity)
        return read_picture(channels[0].path, intensity=intensity_of(intensity, 0))

    def predict_pixels(self, pixels: Pixels) -> Prediction:
        """Segments uint8 pixels (H, W) or (H, W, 3), or (H, W, C) of several channels; the result has their size.

        Raises:
            InputError: an array of another shape or type.
        """
        probability, labels = self._probability(pixels)
        size = (pixels.shape[0], pixels.shape[1])
        classes = dict(zip(self.info.labels, np.mean(labels, axis=0).tolist(), strict=True)) if labels else {}
        foreground = self.postprocess.foreground(probability, size)
        if len(probability) <= 2:
            return Prediction(self.postprocess.above(foreground), foreground, classes)
        return Prediction(self.postprocess.mask(probability, size), foreground, classes, self.structures)

    def probabilities(self, pixels: Pixels) -> NDArray[np.float32]:
        """The probability of each class but the background at the picture's own size, float32 (K, H, W).

        Raises:
            InputError: an array of another shape or type.
        """
        probability, _ = self._probability(pixels)
        planes = probability[-1:] if len(probability) <= 2 else probability[1:]
        return resize_probability(planes, (pixels.shape[0], pixels.shape[1]))

    def _probability(self, pixels: Pixels) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Of each class, as the network or its patches give it, and of the image's labels for each patch."""
        if self.channels:
            check_channels(pixels, self.channels)
        elif pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
            raise InputError(
                f"an image is uint8 (height, width) or (height, width, 3), got {pixels.dtype} {pixels.shape}: convert "
                "it"
            )
        size = (pixels.shape[0], pixels.shape[1])
        preprocess = self.info.preprocess
        if isinstance(preprocess, VolumePreprocess):
            raise InputError(
                "this model segments volumes, not pictures or slices: give a volume (NIfTI, DICOM series)"
            )
        outputs = [self._run(image[None]) for image in preprocess.inputs(pixels)]
        masks = [mask for mask, _ in outputs]
        probability = preprocess.join(masks[0] if len(masks) == 1 else np.concatenate(masks), size)
        return probability, [label[0] for _, label in outputs if label is not None]

    def _run(self, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The network's probabilities for one input, checked."""
        try:
            mask, label = self.engine.run_both(batch)
        except (TypeError, ValueError) as error:  # it holds texts, for instance
            raise InputError(
                f"the network's output is not a probability ({first_line(error)[:200]})"
            ) from error
        if mask.shape[2:] != batch.shape[2:]:
            raise InputError(
                f"the network gives {mask.shape[2:]} probabilities for an input of {batch.shape[2:]}: its output must "
                "have the size of its input"
            )
        checked = require_probability(mask, "the mask")
        return checked, None if label is None else require_probability(label, "the image's class")

    def predict_volume(
        self, path: str | Path | Mapping[str, str | Path] | Sequence[Channel]
    ) -> VolumePrediction:
        """Segments a volume, slice by slice or in patches: turned as in training, and the mask is turned back.

        Args:
            path: of the volume; of several channels of each by its name, or what `channels_of` gives.

        Raises:
            UnreadableImage: a file cannot be read.
            InputError: a channel is missing, or lies on another grid, or the volume takes too much memory.
        """
        channels = self.channels_of(path) if isinstance(path, (str, Path, Mapping)) else path
        volumes = read_channel_volumes(channels, turn=False)
        volume, turned = volumes[0], volumes[0].turned()
        levels = channel_levels([each.turned() for each in volumes], self.info.preprocess.intensity)
        mask = np.zeros(volume.voxels.shape, np.uint8)
        into = as_turned(mask, volume)
        if isinstance(self.info.preprocess, VolumePreprocess):
            return VolumePrediction(
                volume, mask, self.segment_into(into, levels, turned.spacing), self.structures
            )
        total, inside = 0.0, 0
        step = 4 * self.workers  # slices whose probabilities are held at the same time
        with ThreadPoolExecutor(self.workers) as pool:
            for begin in range(0, len(into), step):
                ks = range(begin, min(begin + step, len(into)))
                for k, found in zip(ks, pool.map(lambda k: self.predict_pixels(levels(k)), ks), strict=True):
                    into[k] = found.mask
                    chosen = found.probability[found.mask != 0]
                    total, inside = total + float(chosen.sum(dtype=np.float64)), inside + chosen.size
        return VolumePrediction(volume, mask, total / inside if inside else None, self.structures)

    def segment_into(
        self, into: NDArray[np.uint8], levels: Callable[[int], Pixels], spacing: Spacing3 | None
    ) -> float | None:
        """Segments a whole volume with a network of volumes.

        Args:
            into: uint8 (D, H, W), gets the mask.
            levels: number of a slice, as the network was trained on them -> its 8 bits (H, W), or (H, W, C).
            spacing: (slice, row, column) in mm; None: not known.

        Returns:
            the mean probability inside the mask; None where it is empty.
        """
        shape = (into.shape[0], into.shape[1], into.shape[2])
        total, inside = 0.0, 0
        with self._grid.in_room(shape, spacing, len(self.info.classes)):
            for k, one in enumerate(slices_at(self._planes(levels, shape, spacing), shape)):
                into[k] = self.postprocess.mask(one, (shape[1], shape[2]))
                chosen = self.postprocess.foreground(one, (shape[1], shape[2]))[into[k] != 0]
                total, inside = total + float(chosen.sum(dtype=np.float64)), inside + chosen.size
        return total / inside if inside else None

    def on_grid(
        self, levels: Callable[[int], Pixels], shape: Shape, spacing: Spacing3 | None
    ) -> NDArray[np.float32]:
        """The probabilities of a whole volume by a network of volumes, float32 (K, d, h, w) on the network's grid.

        Args:
            levels: number of a slice, as the network was trained on them -> its 8 bits (H, W).
            shape: of the volume, (D, H, W).
            spacing: (slice, row, column) in mm; None: not known.
        """
        return self._planes(levels, shape, spacing).together()

    @property
    def _grid(self) -> VolumePreprocess:
        assert isinstance(self.info.preprocess, VolumePreprocess)
        return self.info.preprocess

    def _planes(self, levels: Callable[[int], Pixels], shape: Shape, spacing: Spacing3 | None) -> Planes:
        prepared = self._grid.prepare_slices(levels, shape, spacing)
        return self._grid.planes(prepared, lambda batch: self._run(batch)[0])


def require_probability(values: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    """The values, within [0, 1]; `TOLERANCE` outside of it is allowed.

    Raises:
        InputError: a value is NaN, infinite, or not a probability: that is no result, and not "nothing found" either.

    >>> require_probability(np.array([0.5, np.nan], np.float32), "the mask")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.errors.InputError: the network's output for the mask is NaN or infinite in 1 of 2 values: ...
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if low >= 0 and high <= 1:
        return values
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise InputError(
            f"the network's output for {what} is NaN or infinite in {wrong} of {values.size} values: the weights are "
            "damaged, or the network overflows on this image"
        )
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(
            f"the network's output for {what} is {low:.4g} to {high:.4g}, but probabilities lie between 0 and 1: "
            "export the model with its softmax or sigmoid"
        )
    return np.clip(values, 0, 1)


def slice_levels(intensity: AnyIntensity, turned: Volume) -> Callable[[int], Pixels]:
    """A function from the number of a slice to its 8 bits, as in training; `turned` is the first channel."""
    return channel_levels([turned], intensity)


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
