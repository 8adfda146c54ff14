"""An image of several channels, such as the sequences of an MR examination: read, compared, and scaled to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segdistill.errors import InputError
from segdistill.imaging.intensity import AnyIntensity, Intensity, intensity_of
from segdistill.imaging.picture import Picture, Pixels
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume
from segdistill.imaging.volume import Misfit, Noticed, Volume


class Channel(NamedTuple):
    """Where one channel of an image lies.

    Attributes:
        name: of the channel, such as "flair".
        path: of its file.
        part: number of the channel, from 1, in a NIfTI file of four dimensions; 0: the file holds nothing else.
    """

    name: str
    path: Path
    part: int = 0


def read_channel_volumes(
    channels: Sequence[Channel], turn: bool = True, noticed: Noticed | None = None
) -> list[Volume]:
    """The volumes of all channels, which lie on one grid.

    Args:
        channels: one or several.
        turn: see `read_volume`.
        noticed: gets the misfits of channels that are accepted: see `Geometry.differs`.

    Raises:
        InputError: a file that cannot be read, or that lies on another grid than the first channel.
    """
    first, *others = [read_volume(each.path, turn=False, part=each.part) for each in channels]
    for channel, volume in zip(channels[1:], others, strict=True):
        if difference := first.geometry.differs(volume.geometry):
            raise InputError(
                f"{volume.source}: the channel {channel.name} does not lie on the grid of {channels[0].name}, "
                f"{first.source}: they have {difference}: resample it onto that grid"
            )
        apart = first.geometry.offset(volume.geometry)
        if (misfit := Misfit.rounding(volume.source, apart)) is not None and noticed is not None:
            noticed.misfits.append(misfit)
    return [each.turned() if turn else each for each in (first, *others)]


def channel_levels(volumes: Sequence[Volume], intensity: AnyIntensity) -> Callable[[int], Pixels]:
    """A function from the number of a slice to its 8 bits: uint8 (H, W) of one volume, (H, W, C) of several channels.

    Args:
        volumes: one for each channel.
        intensity: for all, or for each; None: from the smallest to the largest value of each volume.
    """
    scaled = [
        (intensity_of(intensity, k) or Intensity()).levels(volume.voxels) for k, volume in enumerate(volumes)
    ]

    def level(k: int) -> Pixels:
        slices = [scale(np.asarray(volume.voxels[k])) for scale, volume in zip(scaled, volumes, strict=True)]
        return slices[0] if len(slices) == 1 else np.stack(slices, axis=-1)

    return level


def read_channel_picture(channels: Sequence[Channel], intensity: AnyIntensity = None) -> Picture:
    """The picture of all channels, each in grey: uint8 (H, W, C).

    Args:
        channels: two or more.
        intensity: of those with more than 8 bits, for all or for each; see `read_picture`.

    Raises:
        InputError: a file that cannot be read, or pictures of different sizes.
    """
    pictures = [
        read_picture(each.path, intensity=intensity_of(intensity, k)) for k, each in enumerate(channels)
    ]
    first = pictures[0]
    for channel, picture in zip(channels, pictures, strict=True):
        if channel.part:
            raise InputError(f"{channel.path}: holds one image: give each channel a file of its own")
        if picture.size != first.size:
            own, wanted = (" x ".join(map(str, each.size)) for each in (picture, first))
            raise InputError(
                f"{channel.path}: the channel {channel.name} is of {own} pixels, and {channels[0].name}, "
                f"{channels[0].path}, of {wanted}: resample it"
            )
    pixels = np.stack([_grey(each.pixels) for each in pictures], axis=-1)
    return Picture(pixels, first.spacing, first.source, channels=len(pictures))


def _grey(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 2 else np.array(Image.fromarray(pixels).convert("L"))
