"""metrics.csv: one row per case, written so that reading gives the very same numbers back."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.files import atomic_write
from segdistill.imaging.picture import Picture
from segdistill.metrics.overlap import FROM_COUNTS, METRICS
from segdistill.metrics.surfaces import DISTANCES

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


_TEXT = ("case", "group", "label", "site", "split")
_AREA = ("reference_area", "predicted_area")
_SIZE = ("height", "width")
COLUMNS = (*_TEXT, *METRICS, *_AREA, *_SIZE)
_VOLUME = ("depth", "worst_slice", "worst_dice")


def write_metrics_csv(results: Iterable[CaseResult], path: str | Path) -> None:
    """Writes one row per case, whole or not at all; numbers are written so that reading gives them back
    exactly.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> write_metrics_csv([CaseResult("a", "a", metrics=dict.fromkeys(METRICS, 0.1))], target)
    >>> read_metrics_csv(target)[0].metrics["dice"]
    0.1
    """
    rows = list(results)
    extra = [name for name in EXTRA_METRICS if any(name in r.metrics for r in rows)]
    volumes = _VOLUME if any(r.is_volume for r in rows) else ()
    unit = ("unit",) if any(r.unit for r in rows) else ()
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *extra, *volumes, *unit])
        for r in rows:
            writer.writerow(
                [
                    *(getattr(r, name) for name in _TEXT),
                    *(repr(float(r.metrics[name])) for name in METRICS),
                    *(repr(float(getattr(r, name))) for name in _AREA),
                    *(getattr(r, name) for name in _SIZE),
                    *(repr(float(r.metrics[name])) if name in r.metrics else "" for name in extra),
                    *(getattr(r, name) for name in (*volumes, *unit)),
                ]
            )


def read_metrics_csv(path: str | Path) -> Results:
    """Reads what write_metrics_csv wrote.

    Raises:
        InputError: missing file, missing column, or a value that is not a number (names row and column).

    >>> read_metrics_csv("nowhere/metrics.csv")
    Traceback (most recent call last):
    segdistill.errors.InputError: cannot read nowhere/metrics.csv: No such file or directory
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise InputError(f"{path} is not a metrics.csv: column {missing[0]!r} is missing")
            return Results(_read_row(row, number, path) for number, row in enumerate(rows, 2))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a metrics.csv: {error}") from error


def _read_row(row: dict[str, str | None], number: int, path: str | Path) -> CaseResult:
    def value(name: str) -> float:
        try:
            result = float(row[name] or "")
        except ValueError:
            result = float("nan")
        if not np.isfinite(result):
            raise InputError(f"{path}, row {number}, column {name}: {row[name]!r} is not a number")
        return result

    return CaseResult(
        **{name: row[name] or "" for name in _TEXT},
        metrics={name: value(name) for name in (*METRICS, *(n for n in EXTRA_METRICS if row.get(n)))},
        reference_area=value("reference_area"),
        predicted_area=value("predicted_area"),
        height=int(value("height")),
        width=int(value("width")),
        depth=int(value("depth")) if row.get("depth") else 1,
        worst_slice=int(value("worst_slice")) if row.get("worst_slice") else -1,
        worst_dice=value("worst_dice") if row.get("worst_dice") else 1.0,
        unit=row.get("unit") or "",
    )
