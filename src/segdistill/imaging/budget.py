"""How large a picture may claim to be: a few bytes can ask for more memory than there is."""

from __future__ import annotations

from segdistill.errors import UnreadableImage


def check_budget(height: int, width: int, max_pixels: int) -> None:
    """Raises UnreadableImage when a picture of this size must not be decoded.

    >>> check_budget(10, 10, max_pixels=99)
    Traceback (most recent call last):
    ...
    segdistill.errors.UnreadableImage: claims 10 x 10 pixels, more than the 99 that are allowed
    """
    if height < 1 or width < 1:
        raise UnreadableImage(f"claims {height} x {width} pixels")
    if height * width > max_pixels:
        raise UnreadableImage(
            f"claims {height} x {width} pixels, more than the {max_pixels} that are allowed"
        )
