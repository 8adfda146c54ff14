"""Black and white of pictures with more than 8 bits: the same for all of a table, so that grey levels compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.imaging.grid import AnyPreprocess
from segdistill.imaging.intensity import PERCENTILES, Intensity, robust_range
from segdistill.imaging.read import stored_values

_SAMPLE = 1 << 16  # pixels of a picture that are looked at, at first
_MOST = 1 << 22  # and of all pictures


def with_levels(cases: Sequence[Case]) -> list[Case]:
    """Gives `levels` to the pictures with more than 8 bits that have none.

    Pictures of several channels get none: each channel is scaled by its own values, or as the recipe states. The levels
    are those of the other pictures where these have one pair; else the values at PERCENTILES of the pixels of all
    such pictures, each picture counting alike.

    >>> from pathlib import Path
    >>> with_levels([Case("a", Path("absent.png"))])[0].levels is None
    True
    """
    known = {case.levels for case in cases} - {None}
    sample = _Sample()
    deep = []
    for case in cases:
        has_levels = case.levels is not None or case.is_volume or case.channel_names
        values = None if has_levels else stored_values(case.image)
        if values is not None and sample.add(values):
            deep.append(case.id)
    if not deep:
        return list(cases)
    levels = known.pop() if len(known) == 1 else sample.range()
    return [replace(case, levels=levels) if case.id in set(deep) else case for case in cases]


def is_scaled(case: Case) -> bool:
    """Whether an `Intensity` changes the case: a volume, or a picture with more than 8 bits.

    >>> from pathlib import Path
    >>> is_scaled(Case("a", Path("absent.png")))
    False
    """
    deep = case.is_volume or case.levels is not None
    return deep or any(stored_values(file) is not None for file in case.image_files)


class _Sample:
    """Pixels of many pictures, of each as many, in bounded memory."""

    def __init__(self) -> None:
        self._share = _SAMPLE
        self._parts: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> bool:
        """Adds a picture; False where it has values that are NaN or infinite, which reading it refuses."""
        if not np.isfinite(values).all():
            return False
        flat = values.reshape(-1)
        self._parts.append(flat[:: -(-flat.size // self._share)].astype(np.float64))
        while sum(part.size for part in self._parts) > _MOST and self._share > 1:
            self._share //= 2
            self._parts = [part[:: -(-part.size // self._share)] for part in self._parts]
        return True

    def range(self) -> tuple[float, float]:
        low, high = robust_range(np.concatenate(self._parts))
        return (low, high) if low < high else (low, low + 1)


def levels_note(cases: Iterable[Case]) -> str:
    """One line on the levels of a table; "" where all pictures have 8 bits.

    >>> from pathlib import Path
    >>> levels_note([Case("a", Path("a.tif"), levels=(12.0, 4000.0))])
    'more than 8 bits: 1 pictures, in which 12 becomes black and 4000 white (percentiles 0.5 and 99.5 of all of them)'
    """
    deep = [case.levels for case in cases if case.levels is not None]
    if not deep:
        return ""
    pairs = sorted(set(deep))
    low, high = pairs[0]
    source = f"percentiles {PERCENTILES[0]} and {PERCENTILES[1]} of all of them"
    more = f"; {len(pairs) - 1} other pairs of levels in the table" if len(pairs) > 1 else f" ({source})"
    return f"more than 8 bits: {len(deep)} pictures, in which {low:g} becomes black and {high:g} white{more}"


def with_intensity(preprocess: AnyPreprocess, cases: Sequence[Case]) -> AnyPreprocess:
    """The same preprocessing with the levels of the table, so that a model file scales pictures as its training did.

    Raises:
        InputError: the table has several pairs of levels, of which a model file could hold one.

    >>> from pathlib import Path
    >>> from segdistill.imaging.preprocess import Preprocess
    >>> table = [Case("a", Path("a.tif"), levels=(0, 4095))]
    >>> with_intensity(Preprocess((32, 32)), table).intensity
    Intensity(kind='window', low=0, high=4095)
    """
    pairs = sorted({case.levels for case in cases if case.levels is not None})
    if preprocess.intensity is not None or not pairs or any(case.is_volume for case in cases):
        return preprocess
    if len(pairs) > 1:
        shown = " and ".join(f"'{low:g} {high:g}'" for low, high in pairs[:2])
        raise InputError(
            f"the column levels holds {len(pairs)} pairs, such as {shown}, but a model scales all pictures alike: "
            "write one pair into all rows, or data.intensity into the recipe"
        )
    return replace(preprocess, intensity=Intensity("window", *pairs[0]))
