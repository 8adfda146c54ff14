"""A case opened: a picture, or a volume as slices of 8 bits, with its reference on the same grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segdistill.data.case import Case, reference_mask
from segdistill.errors import InputError
from segdistill.imaging.intensity import AnyIntensity, intensity_of
from segdistill.imaging.picture import Mask, Picture, Pixels, Spacing
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from segdistill.imaging.several import (
    channel_levels,
    read_channel_picture,
    read_channel_volumes,
)
from segdistill.imaging.volume import Noticed, Vector, Volume


@dataclass(frozen=True, eq=False)
class OpenedCase:
    """The images of one case, and its reference.

    Attributes:
        case: what was opened.
        reference: (D, H, W), D the number of slices, 1 for a picture: bool, or with several classes uint8, k for the
            k-th of the case's classes; all zero without reference.
        spacing_mm: (slice, row, column), the first 0 for a picture; None when unknown.
        spacing_from: where the spacing comes from.

    Made by `open_case`; slices are converted on access.
    """

    case: Case
    reference: Mask | Pixels
    spacing_mm: Vector | None
    spacing_from: str
    _pixels: Callable[[int], Pixels]
    _picture: Picture | None = None

    def __len__(self) -> int:
        return len(self.reference)

    @property
    def is_volume(self) -> bool:
        """Whether this is a volume, be it of a single slice."""
        return self._picture is None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every image."""
        return int(self.reference.shape[1]), int(self.reference.shape[2])

    def pixels(self, k: int) -> Pixels:
        """Image `k`: uint8 (H, W), or (H, W, 3) for a coloured picture, or (H, W, C) of several channels."""
        return self._pixels(k)

    def shown(self, k: int) -> Pixels:
        """What is shown of image `k`: uint8 (H, W) or (H, W, 3); of several channels the first."""
        return self.picture(k).shown

    def levels(self) -> Pixels:
        """All slices of a volume: uint8 (D, H, W), or (D, H, W, C) of several channels.

        Raises:
            InputError: a picture.
        """
        if not self.is_volume:
            raise InputError(
                f"{self.case.image}: is a picture, and a network of volumes takes volumes: set dimensions=2"
            )
        return np.stack([self._pixels(k) for k in range(len(self))])

    def picture(self, k: int) -> Picture:
        """Image `k` as a picture with the size of its pixels."""
        if self._picture is not None:
            return self._picture
        spacing = self.spacing_mm and Spacing(self.spacing_mm[1], self.spacing_mm[2], self.spacing_from)
        count = len(self.case.image_channels)
        return Picture(self._pixels(k), spacing or None, self.case.image, channels=count)


def open_case(case: Case, intensity: AnyIntensity = None, noticed: Noticed | None = None) -> OpenedCase:
    """Reads a case's image, of all its channels, and its reference, and checks that they lie on one grid.

    Args:
        case: a picture or a volume.
        intensity: how values become 8 bits; None: of a volume from its smallest to its largest, of a picture with more
            than 8 bits by the case's `levels`. Pictures of 8 bits keep theirs. Of several channels one for all, or one
            for each.
        noticed: gets what is noticed of masks and channels that are accepted.

    Raises:
        InputError: a file that cannot be read, a mask or a channel on another grid, or one that is no mask.
    """
    opening = _open_volume if case.is_volume else _open_picture
    return opening(case, intensity, noticed)


def open_volume(
    case: Case, noticed: Noticed | None = None, of_channels: Noticed | None = None
) -> tuple[list[Volume], Mask | Pixels]:
    """The channels of a volume case in their own numbers and its reference (D, H, W), turned as DICOM shows them.

    Args:
        case: a volume.
        noticed: gets what is noticed of masks that are accepted.
        of_channels: gets what is noticed of channels that are accepted.

    Raises:
        InputError: a file that cannot be read, a mask or a channel on another grid, or one that is no mask.
    """
    if case.box is not None:
        raise InputError(f"case '{case.id}': a box belongs to a picture, not to a volume: give a mask")
    stored = read_channel_volumes(case.image_channels, turn=False, noticed=of_channels)
    mask = read_volume_mask(case.masks, stored[0], case.reading, noticed)
    reference = Volume(mask, None, case.image, stored[0].geometry).turned()
    return [each.turned() for each in stored], np.ascontiguousarray(reference.voxels)


def first_volume(case: Case, turn: bool = True) -> Volume:
    """The volume of a case's first channel, in its own numbers; see `read_volume`.

    Raises:
        InputError: a file that cannot be read.
    """
    first = case.image_channels[0]
    return read_volume(first.path, turn=turn, part=first.part)


def fullest_slice(reference: Mask | Pixels) -> int:
    """The slice of (D, H, W) with most foreground; the middle one when there is none.

    >>> fullest_slice(np.array([[[0, 0]], [[1, 0]], [[1, 1]]], bool))
    2
    """
    counts = np.count_nonzero(reference, axis=(1, 2))
    return int(counts.argmax()) if counts.any() else len(reference) // 2


def _open_volume(case: Case, intensity: AnyIntensity, noticed: Noticed | None) -> OpenedCase:
    volumes, reference = open_volume(case, noticed, noticed)
    spacing, source = volumes[0].spacing, "file"
    if case.spacing_mm is not None:
        if len(case.spacing_mm) != 3:
            raise InputError(
                f"case '{case.id}': spacing_mm of a volume needs three numbers: slice, row, column"
            )
        spacing, source = case.spacing_mm, "case table"
    return OpenedCase(case, reference, spacing, source, channel_levels(volumes, intensity))


def open_picture(case: Case, intensity: AnyIntensity = None) -> Picture:
    """The picture of a case, (H, W, C) where it has several channels; by default its `levels` count.

    Raises:
        InputError: a file that cannot be read, or channels of different sizes.
    """
    chosen = intensity or case.intensity
    if case.channel_names:
        return read_channel_picture(case.channels, chosen)
    return read_picture(case.image, intensity=intensity_of(chosen, 0))


def _open_picture(case: Case, intensity: AnyIntensity, noticed: Noticed | None) -> OpenedCase:
    picture = open_picture(case, intensity)
    reference = reference_mask(case, picture.size, noticed)
    spacing: Vector | None = None
    source = ""
    if case.spacing_mm is not None:
        spacing, source = (0.0, case.spacing_mm[-2], case.spacing_mm[-1]), "case table"
    elif picture.spacing is not None and picture.spacing.holds_for(reference):
        spacing, source = (0.0, picture.spacing.row_mm, picture.spacing.column_mm), picture.spacing.source
    return OpenedCase(case, reference[None], spacing, source, lambda _: picture.pixels, picture)
