"""The images that a report shows: which cases and slices, and the masks that networks predict for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case
from segdistill.data.opened import OpenedCase, fullest_slice, open_case
from segdistill.imaging.intensity import AnyIntensity
from segdistill.imaging.picture import Mask, Picture, Pixels
from segdistill.metrics.base import Pair
from segdistill.metrics.cases import CaseResult, Predict, Scored
from segdistill.metrics.overlap import class_dice, dice


@dataclass(frozen=True)
class Shown:
    """An image with its reference, before any prediction.

    Attributes:
        case: its id.
        picture: the picture, or one slice of a volume.
        reference: bool (H, W), or with several classes uint8 of their indices.
        slice: number of the slice from 0; -1 for a picture.
        depth: slices of the volume; 1 for a picture.
        opened: the whole case, for networks of volumes.
        channel: name of the channel that is shown, where there are several.
    """

    case: str
    picture: Picture
    reference: Mask | Pixels
    slice: int = -1
    depth: int = 1
    opened: OpenedCase | None = None
    channel: str = ""


@dataclass(frozen=True)
class Example:
    """One image to show: pixels uint8 (H, W) or (H, W, 3), masks (H, W); the others as in `Shown`."""

    case: str
    pixels: NDArray[np.uint8]
    reference: Mask | Pixels
    prediction: Mask | Pixels
    slice: int = -1
    depth: int = 1
    channel: str = ""

    @property
    def dice(self) -> float:
        """Of this image alone."""
        if self.reference.dtype == np.bool_:
            return dice(Pair(self.prediction, self.reference))
        return class_dice(self.prediction, self.reference)  # type: ignore[arg-type]


def choose_examples(
    results: Iterable[CaseResult], count: int = 3, metric: str = "dice"
) -> dict[str, list[str]]:
    """Ids of the `count` best, median and worst cases by one metric; no case twice, ties by id; no normal images.

    >>> made = [CaseResult(str(k), str(k), metrics={"dice": k / 10}, reference_area=0.1) for k in range(7)]
    >>> choose_examples(made, 1)
    {'best': ['6'], 'median': ['3'], 'worst': ['0']}
    """
    ranked = sorted((r for r in results if not r.normal), key=lambda r: (r.metrics[metric], r.case))
    ids = [r.case for r in ranked]
    worst = ids[: min(count, (len(ids) + 1) // 3)]
    best = ids[::-1][: min(count, (len(ids) + 2) // 3)]
    middle = [case for case in ids if case not in {*worst, *best}]
    start = max(0, (len(middle) - count) // 2)
    return {"best": best, "median": middle[start : start + count], "worst": worst}


def choose_slices(results: Iterable[CaseResult], count: int = 6) -> dict[str, int]:
    """Case id -> worst slice, of the volumes whose worst slice has the lowest Dice; ties by the Dice of the volume.

    >>> made = [CaseResult(c, c, metrics={"dice": 0.5}, depth=9, worst_slice=2, worst_dice=d) for c, d in
    ...         (("a", 0.2), ("b", 0.1), ("c", 0.3))]
    >>> choose_slices(made, 2)
    {'b': 2, 'a': 2}
    """
    ranked = sorted(
        (r for r in results if r.worst_slice >= 0), key=lambda r: (r.worst_dice, r.metrics["dice"], r.case)
    )
    return {r.case: r.worst_slice for r in ranked[:count]}


def read_shown(
    cases: Iterable[Case],
    ids: Iterable[str],
    intensity: AnyIntensity = None,
    slices: Mapping[str, int] | None = None,
) -> list[Shown]:
    """The named cases, in the order of `ids`; of a volume the slice in `slices`, else the one of most foreground.

    Args:
        cases: of the table; other ids are ignored.
        ids: of cases.
        intensity: that of the network's preprocessing.
        slices: case id -> slice.

    Raises:
        InputError: an image or mask cannot be read.

    >>> read_shown([], ["a"])
    []
    """
    by_id = {case.id: case for case in cases}
    shown = []
    for case in (by_id[i] for i in ids if i in by_id):
        opened = open_case(case, intensity)
        k = (slices or {}).get(case.id, fullest_slice(opened.reference))
        place = k if opened.is_volume else -1
        channel = next(iter(case.channel_names), "")
        shown.append(
            Shown(case.id, opened.picture(k), opened.reference[k], place, len(opened), opened, channel)
        )
    return shown


def predict_shown(shown: Sequence[Shown], predict: Predict) -> list[Example]:
    """The network's mask of each image.

    >>> predict_shown([], lambda picture: picture.pixels)
    []
    """
    examples = []
    for one in shown:
        whole = getattr(predict, "volume", None)
        output = predict(one.picture) if whole is None else whole(one.opened)[max(one.slice, 0)]
        mask = np.asarray(output.mask if isinstance(output, Scored) else output)
        mask = mask != 0 if one.reference.dtype == np.bool_ else mask.astype(np.uint8)
        pixels = one.picture.shown
        examples.append(Example(one.case, pixels, one.reference, mask, one.slice, one.depth, one.channel))
    return examples
