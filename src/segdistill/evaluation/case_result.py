"""What was measured on one case, and the predictor that it was measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segdistill.evaluation.metrics import FROM_COUNTS, METRICS
from segdistill.evaluation.surfaces import DISTANCES
from segdistill.imaging.picture import Picture

BOX_METRICS = ("box_iou", "box_dice")
"""Overlap of the boxes around prediction and reference: `boxes.mean_box_overlap`."""
EXTRA_METRICS = (
    *(name for name in FROM_COUNTS if name not in METRICS),
    *DISTANCES,
    "rmse_map",
    *BOX_METRICS,
)
"""Metrics beside METRICS, measured when they are asked for by name."""
LARGER_IS_BETTER = frozenset({"sensitivity", *BOX_METRICS})
"""Of EXTRA_METRICS; of all others smaller is better."""


@dataclass(frozen=True)
class CaseResult:
    """What was measured on one case, at the image's own size.

    Attributes:
        case: id of the case; group: cases of one group are resampled together ("" in the table became the
            id).
        label, site, split: as in the case table.
        metrics: name -> value, the names of METRICS, and those of EXTRA_METRICS that were asked for.
        reference_area, predicted_area: share of the image's pixels that are foreground, 0 to 1.
        height, width: of the image, in pixels.
        depth: slices of a volume, all measured together; 1 for a picture.
        worst_slice: of a volume the slice of lowest Dice among those with any foreground; -1: none.
        worst_dice: Dice of that slice; 1 where there is none.
        unit: of the metrics that are distances: "mm" or "px"; "" without such metrics.
    """

    case: str
    group: str
    label: str = ""
    site: str = ""
    split: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    reference_area: float = 0.0
    predicted_area: float = 0.0
    height: int = 0
    width: int = 0
    depth: int = 1
    worst_slice: int = -1
    worst_dice: float = 1.0
    unit: str = ""

    @property
    def is_volume(self) -> bool:
        """Whether the case is a volume (of several slices, or with a slice that is its worst)."""
        return self.depth > 1 or self.worst_slice >= 0

    @property
    def normal(self) -> bool:
        """Whether there is nothing to find: an empty reference, or the label "normal".

        >>> CaseResult("a", "a", label="benign", reference_area=0.1).normal
        False
        """
        return self.reference_area == 0 or self.label.lower() == "normal"


class Results(list[CaseResult]):
    """A list of CaseResult that remembers which cases were left out for want of a reference.

    >>> Results([], skipped=["a"]).skipped
    ['a']
    """

    def __init__(self, results: Iterable[CaseResult] = (), skipped: Iterable[str] = ()) -> None:
        super().__init__(results)
        self.skipped: list[str] = list(skipped)


class Scored(NamedTuple):
    """What a predictor may give instead of a mask alone: the mask (H, W) and how sure it is of foreground, 0 to 1."""

    mask: NDArray[Any]
    score: NDArray[Any]


Predict = Callable[[Picture], NDArray[Any] | Scored]
