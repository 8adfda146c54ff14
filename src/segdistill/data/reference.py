"""A case's reference as pixels: its masks joined, or its box filled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.imaging.masks import read_mask


def reference_mask(case: Case, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The reference at the image's own size; all False when the case has none or is normal (see `Case.has_reference`).

    Args:
        case: whose reference.
        size: (height, width) of its image.

    Returns:
        bool array (height, width).

    Raises:
        InputError: a mask cannot be read, is a photo, or differs in size.

    >>> from pathlib import Path
    >>> reference_mask(Case("a", Path("a.png"), box=(1, 0, 3, 1)), (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    if case.masks:
        return read_mask(case.masks, size=size, resize=case.resize_mask)
    mask = np.zeros(size, dtype=np.bool_)
    if case.box is not None:
        left, top, right, bottom = case.box
        if right > size[1] or bottom > size[0]:
            raise InputError(
                f"case '{case.id}': box {case.box} leaves the image of {size[1]}x{size[0]} pixels: "
                f"correct the box"
            )
        mask[top:bottom, left:right] = True
    return mask
