"""Which random changes a view gets: settings and the papers' presets. No picture is touched here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from segdistill.errors import InputError
from segdistill.registry import near_names


@dataclass(frozen=True)
class Augment:
    """Settings of the augmentation; 0 switches a part off.

    Attributes:
        flip_horizontal, flip_vertical: probability of a mirror image.
        rotate_90: probability of a turn by 0, 90, 180 or 270 degrees, drawn alike.
        rotate: largest angle in degrees, either way.
        shift: largest shift as a share of the size, either way.
        scale: largest relative change of size: 0.2 draws from 0.8 to 1.2.
        affine_p: probability that rotate, shift and scale are applied (as one resampling).
        crop: smallest area kept by a random crop that is resized back, such as 0.75 (LA-Net); aspect 3:4 to
            4:3.
        brightness, contrast: largest relative change: 0.1 draws from -0.1 to 0.1.
        colour_p: probability that brightness and contrast are applied.
        elastic, grid, optical: probabilities of these distortions.
        coarse_dropout: probability that up to eight small rectangles of the image (not of the mask) are
            blanked.
        noise: largest standard deviation of Gaussian noise, relative to the range of values.

    >>> Augment(rotate=15).is_identity, Augment().is_identity
    (False, True)
    """

    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    rotate_90: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    affine_p: float = 1.0
    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    colour_p: float = 1.0
    elastic: float = 0.0
    grid: float = 0.0
    optical: float = 0.0
    coarse_dropout: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            top = 180.0 if field.name == "rotate" else 1.0
            if not 0 <= value <= top:
                raise InputError(f"augment: {field.name}={value} is outside 0 to {top:g}")

    @property
    def is_identity(self) -> bool:
        """Whether nothing at all is changed."""
        return not any(getattr(self, field.name) for field in fields(self) if not field.name.endswith("_p"))

    @property
    def geometry(self) -> Augment:
        """What moves pixels, without what changes their values.

        >>> Augment(rotate=15, noise=0.1).geometry == Augment(rotate=15)
        True
        """
        return replace(self, brightness=0.0, contrast=0.0, colour_p=1.0, noise=0.0, coarse_dropout=0.0)

    def to_dict(self) -> dict[str, float]:
        """Settings as plain numbers."""
        return asdict(self)


AUGMENTS: dict[str, Augment] = {
    "none": Augment(),
    "light": Augment(flip_horizontal=0.5, rotate=10, shift=0.05, scale=0.1, brightness=0.1, contrast=0.1),
    "volume": Augment(rotate=15, scale=0.15, affine_p=0.8, brightness=0.1, contrast=0.2, noise=0.02),
    "lightbtseg": Augment(flip_horizontal=0.5, flip_vertical=0.5, rotate=15, brightness=0.1, contrast=0.1),
    "amtd": Augment(
        flip_horizontal=0.5,
        flip_vertical=0.5,
        rotate=90,
        shift=0.0625,
        scale=0.2,
        brightness=0.2,
        contrast=0.2,
        colour_p=0.2,
        elastic=0.1,
        grid=0.1,
        optical=0.1,
        coarse_dropout=0.2,
    ),
    "usseg": Augment(flip_horizontal=0.5, flip_vertical=0.5, brightness=0.1, contrast=0.1),
    "vessel": Augment(flip_horizontal=0.5, flip_vertical=0.5, rotate_90=1.0),
    "lanet": Augment(flip_horizontal=0.5, flip_vertical=0.5, rotate_90=1.0, brightness=0.12, contrast=0.12),
    "lanet_crop": Augment(
        flip_horizontal=0.5, flip_vertical=0.5, rotate_90=1.0, crop=0.75, brightness=0.12, contrast=0.12
    ),
}


def make_augment(setting: str | Augment | dict[str, Any]) -> Augment:
    """A preset by name, settings by name (`preset` names a base that the others change), or an `Augment` as
    it is.

    Raises:
        InputError: an unknown preset or setting (names the nearest), or a value out of range.

    >>> make_augment({"preset": "lightbtseg", "rotate": 5}).rotate
    5
    """
    if isinstance(setting, Augment):
        return setting
    if isinstance(setting, str):
        setting = {"preset": setting}
    values = dict(setting)
    preset = values.pop("preset", "none")
    if preset not in AUGMENTS:
        raise InputError(f"unknown augmentation '{preset}': {near_names(str(preset), AUGMENTS)}")
    base = AUGMENTS[preset].to_dict()
    for name, value in values.items():
        if name not in base:
            raise InputError(f"unknown augmentation setting '{name}': {near_names(name, base)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"augment: {name}={value!r} is not a number")
    return Augment(**{**base, **values})
