"""From a picture's pixels to what a network sees: one implementation for training and runtime alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.intensity import AnyIntensity, intensity_from_json, intensity_to_json
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.picture import Mask, Pixels

_COLOURS = {"grey": 1, "rgb": 3}
_MAX_INPUT = 16384 * 16384 * 3  # numbers of one input: 3 GiB


@dataclass(frozen=True)
class Preprocess:
    """What is done to every picture: colour, size, then normalisation.

    Attributes:
        size: (height, width) of the network's input.
        colour: "grey" or "rgb": what is kept of the picture.
        channels: channels of the network's input; a grey picture is repeated to fill them.
        channel_names: of an image of several channels, each of which is one of the network's; none: of one image.
        mean: subtracted after division by 255; one value, or one per channel.
        std: divided by; one value, or one per channel.
        intensity: how the values of a volume, or of a picture with more than 8 bits, become 8 bits; None: of a
            volume from its smallest to its largest value, of a picture as `to_eight_bits`. Of several channels
            one for all, or one for each.
        patches: a picture is not resized but cut into these patches, each an input of its own.

    Raises:
        InputError: a value makes no sense.

    >>> prepare = Preprocess(size=(32, 48), channels=3)
    >>> prepare(np.full((100, 90), 255, np.uint8)).shape
    (3, 32, 48)
    """

    dimensions: ClassVar[int] = 2

    size: tuple[int, int]
    colour: str = "grey"
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    intensity: AnyIntensity = None
    patches: PatchGrid | None = None
    channel_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(1 <= side <= 16384 for side in self.size):
            raise InputError(f"input size {self.size} is not (height, width) between 1 and 16384")
        if self.colour not in _COLOURS:
            raise InputError(f"unknown colour {self.colour!r}: choose grey or rgb")
        if math.prod(self.size) * self.channels > _MAX_INPUT:
            raise InputError(
                f"input size {self.size} with {self.channels} channels holds more than {_MAX_INPUT} numbers: use fewer"
            )
        if self.channels < 1 or (self.colour == "rgb" and self.channels != 3):
            raise InputError(f"{self.channels} input channels do not fit colour {self.colour}")
        check_channel_names(self.channel_names, self.channels, self.intensity)
        if self.channel_names and self.colour != "grey":
            raise InputError(
                "colour: rgb is for one picture in colour, not for several channels: set it to grey"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels) or not all(math.isfinite(v) for v in values):
                raise InputError(f"{name} must be one number or {self.channels}, got {values}")
        if not all(value > 0 for value in self.std):
            raise InputError(f"std must be positive, got {self.std}")
        if self.patches is not None and tuple(self.size) != (self.patches.size, self.patches.size):
            raise InputError(
                f"input size {self.size} is not that of the patches, {self.patches.size}: make them equal"
            )

    @property
    def kept(self) -> int:
        """Channels of prepared pixels: 1, 3, or those that have names.

        >>> Preprocess((8, 8), channels=2, channel_names=("flair", "t1")).kept
        2
        """
        return len(self.channel_names) or _COLOURS[self.colour]

    def prepare(self, pixels: Pixels) -> Pixels:
        """Colour and size: uint8 (H, W) or (H, W, 3) at any size -> uint8 (h, w, 1 or 3); with names (H, W, C) -> C.

        Grey is the luma of ITU-R BT.601 (Pillow's "L"); resizing is bilinear, antialiased where it shrinks.

        >>> Preprocess(size=(2, 2)).prepare(np.zeros((5, 5, 3), np.uint8)).shape
        (2, 2, 1)
        """
        if self.channel_names:
            check_channels(pixels, self.channel_names)
            return np.concatenate([self._prepare_one(pixels[..., k]) for k in range(self.kept)], axis=-1)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
            raise InputError(f"pixels must be uint8 (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
        return self._prepare_one(pixels)

    def _prepare_one(self, pixels: Pixels) -> Pixels:
        image = Image.fromarray(pixels).convert("L" if self.colour == "grey" else "RGB")
        height, width = self.size
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(image).reshape(height, width, _COLOURS[self.colour])

    def normalise(self, prepared: Pixels) -> NDArray[np.float32]:
        """Numbers: uint8 (..., h, w, 1 or 3) -> float32 (..., channels, h, w), (x / 255 - mean) / std.

        >>> white = np.full((1, 1, 1), 255, np.uint8)
        >>> Preprocess(size=(1, 1), channels=1, mean=(0.5,)).normalise(white).item()
        0.5
        """
        kept = self.kept
        if prepared.ndim < 3 or prepared.shape[-1] != kept:
            raise InputError(f"prepared pixels must be (H, W, {kept}), got {prepared.shape}")
        *batch, height, width, _ = prepared.shape
        out = np.empty((*batch, self.channels, height, width), np.float32)
        out[:] = np.moveaxis(prepared, -1, -3).astype(np.float32) / np.float32(255)
        if any(self.mean):
            out -= np.asarray(self.mean, np.float32)[:, None, None]
        if any(value != 1 for value in self.std):
            out /= np.asarray(self.std, np.float32)[:, None, None]
        return out

    def __call__(self, pixels: Pixels) -> NDArray[np.float32]:
        """Both steps: uint8 (H, W) or (H, W, 3) -> float32 (channels, h, w)."""
        return self.normalise(self.prepare(pixels))

    def inputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """What a network is given for one picture: float32 (N, channels, h, w), N the number of patches or 1.

        >>> Preprocess(size=(4, 4), patches=PatchGrid(2, 4)).inputs(np.zeros((6, 6), np.uint8)).shape
        (4, 3, 4, 4)
        """
        if self.patches is None:
            return self(pixels)[None]
        return np.stack([self(np.ascontiguousarray(part)) for part in self.patches.cut(pixels)])

    def join(self, outputs: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """A network's outputs for `inputs` as one for the picture of `size`: (N, C, h, w) -> (C, h, w) or (C, *size).

        Without patches it is the one output, at the network's size; patches are merged at the picture's own size.

        >>> Preprocess(size=(4, 4)).join(np.zeros((1, 2, 4, 4), np.float32), (9, 9)).shape
        (2, 4, 4)
        """
        return outputs[0] if self.patches is None else self.patches.stitch(outputs, size)

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON types.

        >>> Preprocess.from_dict(Preprocess(size=(8, 8)).to_dict()) == Preprocess(size=(8, 8))
        True
        """
        values: dict[str, Any] = {
            "size": list(self.size),
            "colour": self.colour,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self.intensity is not None:
            values["intensity"] = intensity_to_json(self.intensity)
        if self.patches is not None:
            values["patches"] = self.patches.to_dict()
        if self.channel_names:
            values["channel_names"] = list(self.channel_names)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The reverse of `to_dict`; InputError for unknown or missing keys and wrong types.

        >>> Preprocess.from_dict({"size": [8, 8], "colour": "rgb"}).colour
        'rgb'
        """
        known = {"size", "colour", "channels", "mean", "std", "intensity", "patches", "channel_names"}
        if not isinstance(values, Mapping) or "size" not in values or not set(values) <= known:
            raise InputError(f"preprocessing needs 'size' and may have {', '.join(sorted(known - {'size'}))}")
        try:
            return cls(
                size=(int(values["size"][0]), int(values["size"][1])) if len(values["size"]) == 2 else (0, 0),
                colour=str(values.get("colour", "grey")),
                channels=int(values.get("channels", 3)),
                mean=tuple(float(v) for v in values.get("mean", (0.0,))),
                std=tuple(float(v) for v in values.get("std", (1.0,))),
                intensity=intensity_from_json(values.get("intensity")),
                patches=PatchGrid.from_dict(values["patches"]) if values.get("patches") else None,
                channel_names=tuple(str(name) for name in values.get("channel_names", ())),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"preprocessing has a value of the wrong type: {error}") from error


def check_channel_names(names: tuple[str, ...], channels: int, intensity: AnyIntensity) -> None:
    """Refuses names that are no channels of the network's input, or an intensity for others.

    Raises:
        InputError: one name alone, one for each of fewer or more channels, one name twice, or an intensity for each
            of other channels.

    >>> check_channel_names(("flair", "t1"), 2, None)
    """
    if names and (len(names) != channels or len(set(names)) != channels or channels < 2):
        raise InputError(
            f"{len(names)} names of channels ({', '.join(names)}) do not fit {channels} input channels: name each once"
        )
    if isinstance(intensity, tuple) and len(intensity) != len(names):
        raise InputError(
            f"{len(intensity)} intensities do not fit {len(names)} named channels: give one for each"
        )


def check_channels(pixels: Pixels, names: Sequence[str]) -> None:
    """Refuses an array that is not uint8 (..., C) of these channels.

    Raises:
        InputError: another number of channels, or another type.

    >>> check_channels(np.zeros((4, 5, 2), np.uint8), ("flair", "t1"))
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != len(names):
        raise InputError(
            f"{len(names)} channels are taken ({', '.join(names)}), uint8 (height, width, {len(names)}), got "
            f"{pixels.dtype} {pixels.shape}: give an image of each"
        )


def prepare_mask(mask: Mask | Pixels, size: tuple[int, int]) -> Pixels:
    """Resizes a reference mask (H, W) to `size`.

    A bool mask's pixel becomes foreground when at least half of its area is. A pixel of an index mask (uint8) becomes
    the class with most of its area; of equal ones the last, so that a structure wins against the background.

    Returns:
        uint8 (h, w) of 0 and 1, or of the indices.

    >>> prepare_mask(np.array([[True, True, False, False]]), (1, 2)).tolist()
    [[1, 0]]
    >>> prepare_mask(np.array([[0, 1, 1, 2, 2, 2]], np.uint8), (1, 2)).tolist()
    [[1, 2]]
    """
    height, width = size
    if mask.shape == (height, width):
        return mask.astype(np.uint8)
    if mask.dtype == np.bool_:
        return (_share(mask, size) >= 0.5 - 1e-4).astype(np.uint8)
    return largest_share(mask, size, lambda one: _share(one, size))


def largest_share(
    mask: NDArray[Any], shape: tuple[int, ...], share_of: Callable[[Mask], NDArray[np.float32]]
) -> Pixels:
    """An index mask at another shape: at each place the class with the largest share, of equal ones the last.

    Args:
        mask: of any shape.
        shape: of the result.
        share_of: brings the mask of one class to that shape, as shares from 0 to 1.

    >>> largest_share(np.array([1, 1, 2], np.uint8), (1,), lambda one: one.mean(keepdims=True)).tolist()
    [1]
    """
    best = np.full(shape, -1.0, np.float32)
    found = np.zeros(shape, np.uint8)
    for index in np.flatnonzero(np.bincount(np.asarray(mask, np.uint8).reshape(-1))):
        share = share_of(mask == index)
        found[share >= best - 2e-4] = index
        np.maximum(best, share, out=best)
    return found


def _share(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """How much of each resized pixel is True, 0 to 1."""
    image = Image.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX))
