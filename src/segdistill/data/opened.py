"""A case opened: a picture, or a volume as slices of 8 bits, with its reference on the same grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case, reference_mask
from segdistill.errors import InputError
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Mask, Picture, Pixels, Spacing
from segdistill.imaging.read import read_picture
from segdistill.imaging.read_volume import read_volume, read_volume_mask
from segdistill.imaging.volume import Misfit, Vector, Volume


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
        """Image `k`: uint8 (H, W), or (H, W, 3) for a coloured picture."""
        return self._pixels(k)

    def levels(self) -> Pixels:
        """All slices of a volume: uint8 (D, H, W).

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
        return Picture(self._pixels(k), spacing or None, self.case.image)


def open_case(case: Case, intensity: Intensity | None = None) -> OpenedCase:
    """Reads a case's image and reference, and checks that they lie on one grid.

    Args:
        case: a picture or a volume.
        intensity: how values become 8 bits; None: of a volume from its smallest to its largest, of a picture with more
            than 8 bits by the case's `levels`. Pictures of 8 bits keep theirs.

    Raises:
        InputError: a file that cannot be read, a mask on another grid, or one that is no mask.
    """
    return _open_volume(case, intensity or Intensity()) if case.is_volume else _open_picture(case, intensity)


def open_volume(
    case: Case, misfits: list[Misfit] | None = None, overlaps: list[int] | None = None
) -> tuple[Volume, Mask | Pixels]:
    """A volume case in its own numbers and its reference (D, H, W), turned as DICOM shows them.

    Args:
        case: a volume.
        misfits: what is noticed of masks that are accepted is added to it (`require_same_geometry`).
        overlaps: the number of voxels of several classes is added to it, where classes have files of their own.

    Raises:
        InputError: a file that cannot be read, a mask on another grid, or one that is no mask.
    """
    if case.box is not None:
        raise InputError(f"case '{case.id}': a box belongs to a picture, not to a volume: give a mask")
    stored = read_volume(case.image, turn=False)
    mask = read_volume_mask(case.masks, stored, case.reading, misfits, overlaps)
    reference = Volume(mask, None, case.image, stored.geometry).turned()
    return stored.turned(), np.ascontiguousarray(reference.voxels)


def fullest_slice(reference: Mask | Pixels) -> int:
    """The slice of (D, H, W) with most foreground; the middle one when there is none.

    >>> fullest_slice(np.array([[[0, 0]], [[1, 0]], [[1, 1]]], bool))
    2
    """
    counts = np.count_nonzero(reference, axis=(1, 2))
    return int(counts.argmax()) if counts.any() else len(reference) // 2


def _open_volume(case: Case, intensity: Intensity) -> OpenedCase:
    volume, reference = open_volume(case)
    spacing, source = volume.spacing, "file"
    if case.spacing_mm is not None:
        if len(case.spacing_mm) != 3:
            raise InputError(
                f"case '{case.id}': spacing_mm of a volume needs three numbers: slice, row, column"
            )
        spacing, source = case.spacing_mm, "case table"
    levels = intensity.levels(volume.voxels)

    def pixels(k: int) -> Pixels:
        values: NDArray[Any] = np.asarray(volume.voxels[k])
        return levels(values)

    return OpenedCase(case, reference, spacing, source, pixels)


def _open_picture(case: Case, intensity: Intensity | None) -> OpenedCase:
    picture = read_picture(case.image, intensity=intensity or case.intensity)
    reference = reference_mask(case, picture.size)
    spacing: Vector | None = None
    source = ""
    if case.spacing_mm is not None:
        spacing, source = (0.0, case.spacing_mm[-2], case.spacing_mm[-1]), "case table"
    elif picture.spacing is not None and picture.spacing.holds_for(reference):
        spacing, source = (0.0, picture.spacing.row_mm, picture.spacing.column_mm), picture.spacing.source
    return OpenedCase(case, reference[None], spacing, source, lambda _: picture.pixels, picture)
