"""From a volume to what a network of volumes sees, and back: resampling, windows, the mask on the volume's own grid.

One implementation for training and runtime alike. NumPy and Pillow only. Memory stays bounded: probabilities are held
of as many planes of the network's grid as a patch is deep, and only one slice of them at the volume's own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby, product
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.imaging.intensity import AnyIntensity, intensity_from_json, intensity_to_json
from segdistill.imaging.postprocess import Postprocess, resize_probability
from segdistill.imaging.preprocess import Preprocess, check_channel_names, check_channels, largest_share

Shape = tuple[int, int, int]
Spacing3 = tuple[float, float, float]
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Normalised patches (1, channels, d, h, w) -> probabilities (1, K, d, h, w)."""

_SIGMA = 8
"""The Gaussian weight of a window's voxels has this part of a side as standard deviation (Isensee et al. 2021)."""
_MOST = 1 << 27  # voxels of a network's input
MOST_BYTES = 8 * 10**9
"""Memory that one volume on a network's grid may take (`VolumePreprocess.check_room`): a CT of 512 x 512 x 1500 voxels
at their own size takes less than half of it."""
_AT_ONCE = 1 << 14  # columns that are resampled along the depth


@dataclass(frozen=True)
class VolumePreprocess:
    """What is done to every volume: its values become 8 bits, it is resampled, and the network sees patches of it.

    Attributes:
        size: (depth, height, width) of a patch, in voxels of the grid.
        spacing: (slice, row, column) of the grid in millimetres; None: voxels stay as they are.
        channels: of the network's input; the values are repeated to fill them.
        mean, std: subtracted after division by 255, and divided by; one number each, or one per named channel.
        intensity: how values become 8 bits; None: from the smallest to the largest of a volume. Of several channels
            one for all, or one for each.
        overlap: share of a side by which neighbouring windows overlap.
        channel_names: of volumes of several channels, each of which is one of the network's; none: of one volume.

    Raises:
        InputError: a value makes no sense.

    >>> preprocess = VolumePreprocess((8, 16, 16), (3.0, 1.0, 1.0))
    >>> preprocess.grid_shape((10, 32, 32), (6.0, 0.5, 0.5))
    (20, 16, 16)
    """

    dimensions: ClassVar[int] = 3
    colour: ClassVar[str] = "grey"
    patches: ClassVar[None] = None

    size: Shape
    spacing: Spacing3 | None = None
    channels: int = 1
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    intensity: AnyIntensity = None
    overlap: float = 0.5
    channel_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) != 3 or not all(1 <= side <= 1024 for side in self.size):
            raise InputError(f"a patch has (depth, height, width) from 1 to 1024 voxels, not {self.size}")
        if math.prod(self.size) * self.channels > _MOST or self.channels < 1:
            raise InputError(
                f"a patch of {self.size} with {self.channels} channels is too large: make it smaller"
            )
        if self.spacing is not None and not all(0 < mm < 1000 for mm in self.spacing):
            raise InputError(f"spacing {self.spacing} must be three positive numbers of millimetres")
        check_channel_names(self.channel_names, self.channels, self.intensity)
        counts = {1, len(self.channel_names) or 1}
        if (
            len(self.mean) not in counts
            or len(self.std) not in counts
            or not all(one > 0 for one in self.std)
        ):
            raise InputError(
                "mean and std of volumes are one number each, or one per named channel, std above 0: "
                f"{self.mean}, {self.std}"
            )
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap is a share of a side, from 0 to below 1, not {self.overlap}")

    def grid_shape(self, shape: Shape, spacing: Spacing3 | None) -> Shape:
        """How many voxels of the grid a volume has; its field of view stays.

        Args:
            shape: of the volume, (D, H, W).
            spacing: of its voxels in millimetres; None where it is not known: then the voxels stay as they are.
        """
        if self.spacing is None or spacing is None:
            return shape
        sides = zip(shape, spacing, self.spacing, strict=True)
        depth, height, width = (max(1, round(count * own / wanted)) for count, own, wanted in sides)
        return depth, height, width

    def check_room(self, shape: Shape, spacing: Spacing3 | None, classes: int = 1) -> None:
        """Refuses a volume before memory is taken for it, where its grid would be too large.

        Args:
            shape: of the volume, (D, H, W).
            spacing: of its voxels in millimetres, or None.
            classes: whose probabilities are held, of as many planes as a patch is deep.

        Raises:
            InputError: it would take more than MOST_BYTES.

        >>> VolumePreprocess((64, 64, 64), (1.0, 1.0, 1.0)).check_room((30, 30, 30), (4.0, 4.0, 4.0))
        """
        needed, words = self._room(shape, spacing, classes)
        if needed > MOST_BYTES:
            raise InputError(
                f"{words}, and at most {MOST_BYTES / 1e9:g} GB are allowed: correct the spacing in its header if that "
                "is wrong, crop the volume, or take a network of coarser voxels"
            )

    @contextmanager
    def in_room(self, shape: Shape, spacing: Spacing3 | None, classes: int = 1) -> Iterator[None]:
        """Checks the room, and tells of it where the memory does not suffice inside the block; see `check_room`.

        Raises:
            InputError: it takes more than MOST_BYTES, or more than there is.

        >>> with VolumePreprocess((8, 8, 8)).in_room((9, 9, 9), None):  # doctest: +ELLIPSIS
        ...     raise MemoryError
        Traceback (most recent call last):
        segdistill.errors.InputError: its 9 x 9 x 9 voxels take 0.0 GB of memory, and there is less: ...
        """
        self.check_room(shape, spacing, classes)
        try:
            yield
        except MemoryError as error:
            raise InputError(
                f"{self._room(shape, spacing, classes)[1]}, and there is less: close other programs, crop the volume, "
                "or take a network of coarser voxels"
            ) from error

    def _room(self, shape: Shape, spacing: Spacing3 | None, classes: int) -> tuple[int, str]:
        """Bytes that a volume takes at most at a time, and in words."""
        wanted = self.grid_shape(shape, spacing)
        depth, height, width = map(max, wanted, self.size)
        resampled = 0 if wanted == shape else shape[0] + wanted[0]
        floats = max(resampled, (classes + 1) * self.size[0])  # planes: first the one, then the other
        needed = height * width * (depth * self.channels + 4 * floats)
        words = f"its {' x '.join(map(str, shape))} voxels "
        if wanted != shape and spacing is not None and self.spacing is not None:
            own, of = (" x ".join(f"{mm:g}" for mm in each) for each in (spacing, self.spacing))
            words += f"of {own} mm become {' x '.join(map(str, wanted))} of {of} mm for the network, which "
        return needed, words + f"take {needed / 1e9:.1f} GB of memory"

    def prepare(self, levels: NDArray[np.uint8], spacing: Spacing3 | None) -> NDArray[np.uint8]:
        """A volume on the grid: uint8 (D, H, W) -> uint8 (d, h, w), linear, antialiased where it shrinks.

        Of several channels (D, H, W, C) -> (d, h, w, C).

        Raises:
            InputError: another number of channels than have names.
        """
        shape = (levels.shape[0], levels.shape[1], levels.shape[2])
        return self.prepare_slices(lambda k: levels[k], shape, spacing)

    def prepare_slices(
        self, levels: Callable[[int], NDArray[np.uint8]], shape: Shape, spacing: Spacing3 | None
    ) -> NDArray[np.uint8]:
        """As `prepare`, for a volume whose slices (H, W), or (H, W, C), are made one after the other.

        Raises:
            InputError: also where the grid would be too large (`check_room`).
        """
        self.check_room(shape, spacing)
        wanted = self.grid_shape(shape, spacing)
        if self.channel_names:
            check_channels(levels(0), self.channel_names)
        if wanted == shape:
            return np.stack([levels(k) for k in range(shape[0])])
        if not self.channel_names:
            values = resample((levels(k) for k in range(shape[0])), wanted)
            return np.rint(values, out=values).astype(np.uint8)
        found = np.empty((*wanted, self.channels), np.uint8)
        for c in range(self.channels):
            found[..., c] = np.rint(resample((levels(k)[..., c] for k in range(shape[0])), wanted))
        return found

    def normalise(self, prepared: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Numbers: uint8 (..., d, h, w) -> float32 (..., channels, d, h, w), (x / 255 - mean) / std.

        Of several channels (..., d, h, w, C) -> (..., C, d, h, w).

        >>> VolumePreprocess((1, 1, 1), mean=(0.5,)).normalise(np.full((1, 1, 1), 255, np.uint8)).tolist()
        [[[[0.5]]]]
        """
        if self.channel_names:
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
            found = (prepared.astype(np.float32) / np.float32(255) - mean) / std
            return np.ascontiguousarray(np.moveaxis(found, -1, -4))
        values = (prepared.astype(np.float32) / np.float32(255) - np.float32(self.mean[0])) / np.float32(
            self.std[0]
        )
        return np.repeat(values[..., None, :, :, :], self.channels, axis=-4)

    def windows(self, shape: Shape) -> list[tuple[slice, slice, slice]]:
        """The windows of a prepared volume that is at least as large as a patch, evenly spaced.

        >>> [window[0] for window in VolumePreprocess((4, 4, 4)).windows((6, 4, 4))]
        [slice(0, 4, None), slice(2, 6, None)]
        """
        starts = []
        for length, side in zip(shape, self.size, strict=True):
            step = max(1, round(side * (1 - self.overlap)))
            count = -(-(length - side) // step) + 1
            starts.append([round(k * (length - side) / max(count - 1, 1)) for k in range(count)])
        return [
            (slice(z, z + self.size[0]), slice(y, y + self.size[1]), slice(x, x + self.size[2]))
            for z, y, x in product(*starts)
        ]

    def predict(self, prepared: NDArray[np.uint8], run: Run) -> NDArray[np.float32]:
        """Probabilities of a whole prepared volume: its `planes` together.

        Returns:
            float32 (K, d, h, w).
        """
        return self.planes(prepared, run).together()

    def planes(self, prepared: NDArray[np.uint8], run: Run) -> Planes:
        """Probabilities of a prepared volume, plane by plane: the mean of its windows, whose middle counts more.

        A volume that is smaller than a patch is padded with its outermost voxels. Windows go by their first plane; what
        lies before that of the next one is done, is handed over, and its memory is used again.

        Args:
            prepared: uint8 (d, h, w), or (d, h, w, C).
            run: the network.

        >>> preprocess = VolumePreprocess((4, 4, 4))
        >>> found = preprocess.planes(np.zeros((6, 4, 4), np.uint8), lambda patch: np.float32(1) + patch)
        >>> len(found), [plane.shape for plane in found][5]
        (6, (1, 4, 4))
        """
        return Planes(prepared.shape[0], self._planes(prepared, run))

    def _planes(self, prepared: NDArray[np.uint8], run: Run) -> Iterator[NDArray[np.float32]]:
        padded, (within, *inner) = pad_to(prepared, self.size)
        weight = _gaussian(self.size)
        shape = (padded.shape[0], padded.shape[1], padded.shape[2])
        slab = (self.size[0], *shape[1:])
        total: NDArray[np.float32] | None = None
        sums = np.zeros(slab, np.float32)
        by_start = [
            (start, list(each)) for start, each in groupby(self.windows(shape), lambda one: one[0].start)
        ]
        ends = [*(start for start, _ in by_start[1:]), shape[0]]
        for (start, windows), end in zip(by_start, ends, strict=True):
            for window in windows:
                found = run(self.normalise(padded[window])[None])[0]
                if total is None:
                    total = np.zeros((len(found), *slab), np.float32)
                total[:, :, window[1], window[2]] += found * weight
                sums[:, window[1], window[2]] += weight
            assert total is not None
            done = end - start
            for k in range(max(start, within.start), min(end, within.stop)):
                plane = total[:, k - start] / sums[k - start]
                yield np.ascontiguousarray(plane[(slice(None), *inner)])
            for one in (sums, *total):
                one[: len(one) - done] = one[done:]
                one[len(one) - done :] = 0

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON types.

        >>> VolumePreprocess.from_dict(VolumePreprocess((8, 8, 8)).to_dict()) == VolumePreprocess((8, 8, 8))
        True
        """
        values: dict[str, Any] = {
            "dimensions": 3,
            "size": list(self.size),
            "spacing": None if self.spacing is None else list(self.spacing),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "overlap": self.overlap,
        }
        if self.intensity is not None:
            values["intensity"] = intensity_to_json(self.intensity)
        if self.channel_names:
            values["channel_names"] = list(self.channel_names)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VolumePreprocess:
        """The reverse of `to_dict`; InputError for unknown or missing keys and wrong types."""
        known = {
            "dimensions",
            "size",
            "spacing",
            "channels",
            "mean",
            "std",
            "intensity",
            "overlap",
            "channel_names",
        }
        if not {"size"} <= set(values) <= known:
            raise InputError(
                f"preprocessing of volumes needs 'size' and may have {', '.join(sorted(known - {'size'}))}"
            )
        try:
            sides = [int(side) for side in values["size"]]
            spacing = None if values.get("spacing") is None else [float(mm) for mm in values["spacing"]]
            if len(sides) != 3 or (spacing is not None and len(spacing) != 3):
                raise InputError("preprocessing of volumes: size and spacing have three numbers each")
            return cls(
                (sides[0], sides[1], sides[2]),
                None if spacing is None else (spacing[0], spacing[1], spacing[2]),
                int(values.get("channels", 1)),
                tuple(float(v) for v in values.get("mean", (0.0,))),
                tuple(float(v) for v in values.get("std", (1.0,))),
                intensity_from_json(values.get("intensity")),
                float(values.get("overlap", 0.5)),
                tuple(str(name) for name in values.get("channel_names", ())),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"preprocessing has a value of the wrong type: {error}") from error


@dataclass
class Planes:
    """Probabilities of a volume that are made plane by plane, from the first to the last, once.

    Attributes:
        depth: how many.
        each: the planes, float32 (K, h, w).

    >>> len(Planes(2, iter([np.zeros((1, 3, 3), np.float32)] * 2)))
    2
    """

    depth: int
    each: Iterator[NDArray[np.float32]]

    def __len__(self) -> int:
        return self.depth

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self.each

    def together(self) -> NDArray[np.float32]:
        """All of them, float32 (K, d, h, w).

        >>> Planes(2, iter([np.zeros((1, 3, 3), np.float32)] * 2)).together().shape
        (1, 2, 3, 3)
        """
        first = next(self.each)
        found = np.empty((len(first), self.depth, *first.shape[1:]), np.float32)
        for k, plane in enumerate(chain([first], self.each)):
            found[:, k] = plane
        return found


AnyPreprocess = Preprocess | VolumePreprocess


def preprocess_from_dict(values: Mapping[str, Any]) -> AnyPreprocess:
    """Of pictures or of volumes, by the key `dimensions`.

    >>> preprocess_from_dict({"dimensions": 3, "size": [8, 8, 8]}).dimensions
    3
    """
    if isinstance(values, Mapping) and values.get("dimensions") == 3:
        return VolumePreprocess.from_dict(values)
    return Preprocess.from_dict(values)


def resample(volume: Iterable[NDArray[Any]], shape: Shape) -> NDArray[np.float32]:
    """A volume (D, H, W), or its slices, at another shape, float32: linear, antialiased where it shrinks.

    >>> resample(np.array([0, 4], np.uint8)[:, None, None], (4, 1, 1)).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    depth, height, width = shape
    slices = np.stack(
        [resize_probability(np.asarray(one, np.float32)[None], (height, width))[0] for one in volume]
    )
    columns, found = slices.reshape(1, len(slices), -1), np.empty((depth, height * width), np.float32)
    for start in range(0, height * width, _AT_ONCE):  # each column by itself: copies stay small
        part = columns[..., start : start + _AT_ONCE]
        found[:, start : start + _AT_ONCE] = resize_probability(part, (depth, part.shape[-1]))[0]
    return found.reshape(depth, height, width)


def resample_mask(mask: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    """An index mask (D, H, W) at another shape: the class with the largest share there, of equal ones the last.

    >>> resample_mask(np.array([0, 1, 2, 2])[:, None, None], (2, 1, 1)).ravel().tolist()
    [1, 2]
    """
    if mask.shape == shape:
        return np.asarray(mask, np.uint8)
    return largest_share(mask, shape, lambda one: resample(one, shape))


def pad_to(volume: NDArray[Any], size: Shape) -> tuple[NDArray[Any], tuple[slice, slice, slice]]:
    """The volume (D, H, W), or (D, H, W, C), with its outermost voxels repeated up to a size, and where it lies in it.

    >>> padded, inner = pad_to(np.ones((1, 2, 3)), (2, 2, 2))
    >>> padded.shape, inner[0]
    ((2, 2, 3), slice(0, 1, None))
    """
    missing = [max(0, side - length) for side, length in zip(size, volume.shape[:3], strict=True)]
    before = [count // 2 for count in missing]
    margins = [(b, count - b) for b, count in zip(before, missing, strict=True)]
    padded = np.pad(volume, [*margins, *[(0, 0)] * (volume.ndim - 3)], mode="edge")
    inner = [slice(b, b + length) for b, length in zip(before, volume.shape[:3], strict=True)]
    return padded, (inner[0], inner[1], inner[2])


def slices_at(probability: NDArray[np.float32] | Planes, shape: Shape) -> Iterator[NDArray[np.float32]]:
    """Probabilities (K, d, h, w), or their planes, at another shape, one slice (K, H, W) after the other: linear.

    >>> [float(one.item()) for one in slices_at(np.array([0.0, 1.0], np.float32).reshape(1, 2, 1, 1), (4, 1, 1))]
    [0.0, 0.25, 0.75, 1.0]
    """
    planes = probability if isinstance(probability, Planes) else np.moveaxis(probability, 1, 0)
    depth, count = len(planes), shape[0]
    coming, held = enumerate(planes), dict[int, NDArray[np.float32]]()
    for k in range(count):
        place = min(max((k + 0.5) * depth / count - 0.5, 0.0), depth - 1.0)
        low = int(place)
        high, share = min(low + 1, depth - 1), np.float32(place - low)
        held = {j: plane for j, plane in held.items() if j >= low}
        while high not in held:
            j, plane = next(coming)
            if j >= low:
                held[j] = plane
        mixed = held[low] * (1 - share) + held[high] * share
        yield resize_probability(mixed, (shape[1], shape[2]))
    for _ in coming:  # no slice needs them, but the network's output is checked there, too
        pass


def mask_at(
    probability: NDArray[np.float32] | Planes, shape: Shape, postprocess: Postprocess
) -> NDArray[np.uint8]:
    """The mask of probabilities (K, d, h, w), or of their planes, at a volume's own shape: uint8 (D, H, W).

    >>> mask_at(np.full((1, 1, 1, 1), 0.7, np.float32), (2, 1, 1), Postprocess()).ravel().tolist()
    [1, 1]
    """
    mask = np.empty(shape, np.uint8)
    for k, one in enumerate(slices_at(probability, shape)):
        mask[k] = postprocess.mask(one, (shape[1], shape[2]))
    return mask


def foreground_at(
    probability: NDArray[np.float32], shape: Shape, postprocess: Postprocess
) -> NDArray[np.float32]:
    """The probability of foreground at a volume's own shape, of probabilities (K, d, h, w): float32 (D, H, W).

    >>> foreground_at(np.full((1, 1, 1, 1), 0.25, np.float32), (2, 1, 1), Postprocess()).ravel().tolist()
    [0.25, 0.25]
    """
    return np.stack(
        [postprocess.foreground(one, (shape[1], shape[2])) for one in slices_at(probability, shape)]
    )


@lru_cache(maxsize=4)
def _gaussian(size: Shape) -> NDArray[np.float32]:
    """The weight of each voxel of a window; at its corners at least a thousandth of that in its middle."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / max(n / _SIGMA, 0.5)) ** 2) for n in size]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    found: NDArray[np.float32] = np.maximum(weight / weight.max(), 1e-3).astype(np.float32)
    return found
