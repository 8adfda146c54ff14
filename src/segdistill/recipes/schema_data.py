"""What a recipe says of its data: which cases, how they are divided, and at which size the network sees them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from segdistill.recipes.schema_base import Strict

SMALLEST_SIDE = 8


class SplitRecipe(Strict):
    """How cases are divided: see data/splits.py. `given` takes the table's own split column; `auto` does so where the
    table has one, and holds out cases otherwise.
    """

    method: Literal["auto", "hold_out", "k_fold", "paper", "given"] = "auto"
    test: float = Field(default=0.15, gt=0, lt=1)
    val: float = Field(default=0.15, ge=0, lt=1)
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    seed: int = 0


class DataRecipe(Strict):
    """Which cases, at which size.

    `dataset` names an adapter that indexes the folder given by --data; a cases.csv given there needs none.
    `phantoms` is the number of pictures that the dataset `phantom` draws.
    """

    dataset: str | None = None
    size: int | list[int] = 256
    colour: Literal["grey", "rgb"] = "grey"
    channels: int = Field(default=3, ge=1)
    labels: list[str] | None = None
    split: SplitRecipe = SplitRecipe()
    phantoms: int = Field(default=120, ge=1)

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
