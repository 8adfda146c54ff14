"""What a recipe says of its data: which cases, how they are divided, and at which size the network sees them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from segdistill.errors import InputError
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.preprocess import Preprocess
from segdistill.recipes.schema_base import Strict

SMALLEST_SIDE = 8


class SplitRecipe(Strict):
    """How cases are divided: see data/splits.py. `given` takes the table's own split column; `auto` does so where the
    table has one, and holds out cases otherwise. `counts` tests exactly so many cases of each label;
    `leave_one_out` tests the group number `fold`.
    """

    method: Literal["auto", "hold_out", "k_fold", "leave_one_out", "paper", "given", "counts"] = "auto"
    test: float = Field(default=0.15, gt=0, lt=1)
    val: float = Field(default=0.15, ge=0, lt=1)
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    seed: int = 0
    counts: dict[str, int] | None = None

    @model_validator(mode="after")
    def _counts_belong(self) -> SplitRecipe:
        if (self.method == "counts") != bool(self.counts):
            raise ValueError(
                "method: counts needs counts: {LABEL: NUMBER, ...}, and no other method has them"
            )
        return self


class PatchRecipe(Strict):
    """A picture is not resized but cut into `count` x `count` overlapping patches of `size` x `size` pixels."""

    count: int = Field(ge=1)
    size: int = Field(ge=SMALLEST_SIDE)


class DataRecipe(Strict):
    """Which cases, at which size.

    `dataset` names an adapter that indexes the folder given by --data; a cases.csv given there needs none.
    `phantoms` is the number of pictures that the dataset `phantom` draws.

    `sites` keeps the cases of these hospitals alone. `intensity` says how the numbers of a volume become 8 bits: ct
    (a window of -160 to 240 HU), mr (standard deviations of the volume, -3 to 5), range (smallest to largest), or
    kind (window, z_score, range) with low and high; the network then sees -1 to 1, or standard deviations. With
    `patches` the network sees patches, and size is theirs. `skip_empty` leaves rows without foreground, such as the
    slices beyond an organ, out of training; validation and test keep all. Of the training cases with a mask or box
    each keeps it with probability `locations`, drawn by `locations_seed`; labels stay (LA-Net's partly labelled sets).

    >>> DataRecipe(patches={"count": 4, "size": 256}, channels=1).preprocess().size
    (256, 256)
    """

    dataset: str | None = None
    size: int | list[int] = 256
    colour: Literal["grey", "rgb"] = "grey"
    channels: int = Field(default=3, ge=1)
    labels: list[str] | None = None
    split: SplitRecipe = SplitRecipe()
    phantoms: int = Field(default=120, ge=1)
    sites: list[str] | None = Field(default=None, min_length=1)
    intensity: str | dict[str, Any] | None = None
    patches: PatchRecipe | None = None
    skip_empty: bool = False
    locations: float = Field(default=1.0, ge=0, le=1)
    locations_seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _size_of_patches(cls, content: Any) -> Any:
        patches = content.get("patches") if isinstance(content, dict) and "size" not in content else None
        size = patches.get("size") if isinstance(patches, dict) else getattr(patches, "size", None)
        return content if size is None else {**content, "size": size}

    @field_validator("intensity", mode="before")
    @classmethod
    def _is_intensity(cls, value: Any) -> Any:
        if value is not None:
            try:
                Intensity.from_dict(value)
            except InputError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _size_is_that_of_patches(self) -> DataRecipe:
        if self.patches is not None and self.height_width != (self.patches.size, self.patches.size):
            raise ValueError(
                f"size is {self.size} and patches.size is {self.patches.size}, but the network sees patches: set "
                "data.size and data.patches.size to the same number, or leave size out"
            )
        return self

    @field_validator("size", mode="before")
    @classmethod
    def _is_size(cls, value: object) -> object:
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if not all(type(side) is int and side >= SMALLEST_SIDE for side in sides):
            raise ValueError(
                f"give a side or [height, width] in pixels, at least {SMALLEST_SIDE}, not {value!r}"
            )
        return value

    @property
    def height_width(self) -> tuple[int, int]:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])

    def preprocess(self) -> Preprocess:
        """What is done to every picture or slice before the network, in training and in the model file.

        >>> DataRecipe(intensity="ct").preprocess().mean
        (0.5,)
        """
        intensity = None if self.intensity is None else Intensity.from_dict(self.intensity)
        mean, std = (0.0, 1.0) if intensity is None else intensity.network_scale()
        patches = None if self.patches is None else PatchGrid(self.patches.count, self.patches.size)
        return Preprocess(self.height_width, self.colour, self.channels, (mean,), (std,), intensity, patches)
