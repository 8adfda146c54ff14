"""From a predictor to one result per case, and metrics.csv, which gives the very same numbers back.

Every image is measured at its own size, a volume as a whole.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.data.case import Case
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.files import atomic_write, cell_text, csv_cell
from segdistill.imaging.classes import class_names
from segdistill.imaging.intensity import AnyIntensity
from segdistill.imaging.picture import Picture
from segdistill.metrics.base import LENGTH, LENGTH_UNITS, METRICS, Metric, Pair
from segdistill.metrics.overlap import dice
from segdistill.metrics.pooled import Pool

METRICS_FILE = "metrics.csv"


@dataclass(frozen=True)
class Structure:
    """What was measured of one class of a mask.

    Attributes:
        metrics: name -> value; empty where neither mask holds the class, without the lengths where one of them does.
        reference_area, predicted_area: share of the image's pixels, 0 to 1.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    reference_area: float = 0.0
    predicted_area: float = 0.0


def mean_of_classes(structures: Iterable[Structure]) -> dict[str, float]:
    """The mean of each metric over the classes that have it.

    >>> mean_of_classes([Structure({"dice": 0.5}), Structure(), Structure({"dice": 1.0})])
    {'dice': 0.75}
    """
    found: dict[str, list[float]] = {}
    for each in structures:
        for name, value in each.metrics.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


@dataclass(frozen=True)
class CaseResult:
    """What was measured on one case, at the image's own size.

    Attributes:
        case: its id. group: cases of one group are resampled together; the id where the table has none.
        label, site, split: as in the case table.
        metrics: name -> value.
        reference_area, predicted_area: share of the image's pixels that are foreground, 0 to 1.
        height, width: of the image, in pixels. depth: slices of a volume; 1 for a picture.
        worst_slice: of a volume the slice of lowest Dice among those with any foreground; -1: none.
        worst_dice: Dice of that slice; 1 where there is none.
        unit: of the metrics that are lengths: "mm" or "px"; "" without such metrics.
        structures: where masks have several classes, what was measured of each; then `metrics` holds their means
            (`mean_of_classes`).
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
    structures: dict[str, Structure] = field(default_factory=dict)

    @property
    def is_volume(self) -> bool:
        """Whether the case is a volume (of several slices, or with a worst slice)."""
        return self.depth > 1 or self.worst_slice >= 0

    @property
    def normal(self) -> bool:
        """Whether there is nothing to find: an empty reference, or the label "normal".

        >>> CaseResult("a", "a", label="benign", reference_area=0.1).normal
        False
        """
        return self.reference_area == 0 or self.label.lower() == "normal"


class Results(list[CaseResult]):
    """Results of cases.

    Attributes:
        skipped: cases without a reference.
        failed: case -> why it could not be measured.
    """

    def __init__(self, results: Iterable[CaseResult] = ()) -> None:
        super().__init__(results)
        self.skipped: list[str] = []
        self.failed: dict[str, str] = {}


@dataclass(frozen=True)
class Column:
    """A metric as summaries and tables have it: a length once for each unit, since mm and px are never averaged.

    >>> find_column("hd95_mm").head, find_column("voe").head
    ('HD95, mm', 'VOE (1 − IoU)')
    """

    metric: Metric
    unit: str = ""

    @property
    def key(self) -> str:
        """Its key in a `records.Summary`."""
        return f"{self.metric.name}_{self.unit}" if self.metric.unit == LENGTH else self.metric.name

    @property
    def head(self) -> str:
        """Label and unit."""
        return f"{self.metric.label}, {self.unit}" if self.unit else self.metric.label

    def value(self, result: CaseResult) -> float | None:
        """Of a case; None where it was not measured, or in another unit."""
        if self.metric.unit == LENGTH and result.unit != self.unit:
            return None
        return result.metrics.get(self.metric.name)


def columns(metric: Metric, units: Iterable[str] = LENGTH_UNITS) -> list[Column]:
    """A metric's columns: one, or of a length one for each unit.

    >>> [column.key for column in columns(METRICS.create("msd"))]
    ['msd_mm', 'msd_px']
    """
    return [Column(metric, unit) for unit in (units if metric.unit == LENGTH else [metric.unit])]


def find_column(key: str) -> Column:
    """The column with this key in a summary.

    Raises:
        InputError: no registered metric has it.
    """
    found = (column for name in METRICS for column in columns(METRICS.create(name)) if column.key == key)
    return next(found, None) or Column(METRICS.create(key))


def columns_of(results: Iterable[CaseResult]) -> list[Column]:
    """The columns that some of the cases have a value for, those that are always measured first.

    >>> one = CaseResult("a", "a", metrics={"hd95": 2.0, "voe": 0.5}, unit="px")
    >>> [column.key for column in columns_of([one])]
    ['hd95_px', 'voe']
    """
    found = list(results)
    units = sorted({r.unit for r in found if r.unit})
    names = dict.fromkeys(name for r in found for name in r.metrics)
    metrics = sorted((METRICS.create(name) for name in names), key=lambda metric: not metric.always)
    return [column for metric in metrics for column in columns(metric, units)]


class Scored(NamedTuple):
    """What a predictor may give instead of a mask: the mask (H, W) and the probability of foreground, 0 to 1."""

    mask: NDArray[Any]
    score: NDArray[Any]


Predict = Callable[[Picture], NDArray[Any] | Scored]
Missed = Literal["skip", "diagonal"]


def evaluate_cases(
    cases: Iterable[Case],
    predict: Predict,
    *,
    intensity: AnyIntensity = None,
    extra: Sequence[str] = (),
    pool: Pool | None = None,
    missed: Missed = "skip",
) -> Results:
    """As `measure_cases`, in one go; a case that cannot be read is an error.

    >>> evaluate_cases([Case("a", Path("a.png"))], lambda picture: picture.pixels > 0).skipped
    ['a']
    """
    results = Results()
    for _ in measure_cases(
        cases, predict, results, intensity=intensity, extra=extra, pool=pool, missed=missed
    ):
        pass
    return results


def measure_cases(
    cases: Iterable[Case],
    predict: Predict,
    results: Results,
    *,
    intensity: AnyIntensity = None,
    extra: Sequence[str] = (),
    pool: Pool | None = None,
    keep_going: bool = False,
    missed: Missed = "skip",
) -> Iterator[int]:
    """Predicts and measures case by case; gives the number of cases that are done, after each.

    Args:
        cases: rows of the case table; one without a reference (`Case.has_reference`) is noted as skipped.
        predict: gives the mask (H, W) of a picture, or of one slice; anything that is not zero is foreground.
            `Scored` where the probability is needed, too.
        results: is filled.
        intensity: how the values of a volume become 8 bits: that of the network's preprocessing.
        extra: names of metrics besides those that are always measured.
        pool: collects all pixels.
        keep_going: note a case that cannot be measured as failed, and measure the others.
        missed: with several classes, the distances of one that only the reference holds: not measured ("skip"), or as
            the image's diagonal, which is what they are with one class. Of one that only the prediction holds there are
            none.

    Raises:
        InputError: an unknown metric, one that needs a probability that is not there, or (not with `keep_going`) an
            image or mask that cannot be read.
        ValueError: a predicted mask does not have its image's size.
    """
    metrics = [METRICS.create(name) for name in (*METRICS.always(), *METRICS.optional(extra))]
    for done, case in enumerate(cases, 1):
        try:
            if case.has_reference:
                results.append(_measure(open_case(case, intensity), predict, metrics, pool, missed))
            else:
                results.skipped.append(case.id)
        except InputError as error:
            if not keep_going:
                raise
            results.failed[case.id] = str(error)
        yield done


def predict_case(
    opened: OpenedCase, predict: Predict
) -> tuple[NDArray[np.bool_] | NDArray[np.uint8], NDArray[np.float32] | None]:
    """The masks (D, H, W) of all images of a case, and their probabilities where the predictor gives them.

    A predictor with a method `volume` is given the whole case.

    They are bool; where the case has several classes, uint8 with the index of the class.

    Raises:
        ValueError: a predicted mask does not have its image's size.
    """
    masks, scores = [], []
    if (whole := getattr(predict, "volume", None)) is not None:
        given = whole(opened)
        score = np.asarray(given.score, np.float32) if isinstance(given, Scored) else None
        found = np.asarray(given.mask if isinstance(given, Scored) else given)
        return (found != 0 if opened.case.reading.is_binary else found.astype(np.uint8)), score
    for k in range(len(opened)):
        predicted = predict(opened.picture(k))
        mask = np.asarray(predicted.mask if isinstance(predicted, Scored) else predicted)
        mask = mask != 0 if opened.case.reading.is_binary else mask.astype(np.uint8)
        if mask.shape != opened.size:
            raise ValueError(
                f"case {opened.case.id}: predicted mask is {mask.shape}, its image {opened.size}"
            )
        masks.append(mask)
        if isinstance(predicted, Scored):
            scores.append(np.asarray(predicted.score, np.float32))
    return np.stack(masks), np.stack(scores) if scores else None


def _measure(
    opened: OpenedCase, predict: Predict, metrics: Sequence[Metric], pool: Pool | None, missed: Missed
) -> CaseResult:
    case, reference = opened.case, opened.reference
    predicted, scores = predict_case(opened, predict)
    if pool is not None:
        pool.add(predicted, reference, scores)
    first, whole = (0, ...) if opened.is_volume else (1, 0)
    spacing = opened.spacing_mm[first:] if opened.spacing_mm else None
    pair = Pair(predicted[whole], reference[whole], None if scores is None else scores[whole], spacing)
    structures = {
        name: _measure_class(
            Pair(predicted[whole] == k, reference[whole] == k, None, spacing), metrics, missed
        )
        for k, name in enumerate(class_names(case.classes) if not case.reading.is_binary else (), start=1)
    }
    values = mean_of_classes(structures.values()) or {m.name: float(m.function(pair)) for m in metrics}
    for name, value in values.items():
        if not np.isfinite(value):
            raise InputError(f"case {case.id}: metric {name} is {value}: a metric must give a number")
    lengths = any(metric.unit == LENGTH for metric in metrics)
    worst = worst_slice(predicted, reference) if opened.is_volume else -1
    return CaseResult(
        case=case.id,
        group=case.group_key,
        label=case.label,
        site=case.site,
        split=case.split,
        metrics=values,
        reference_area=float((reference != 0).mean()),
        predicted_area=float((predicted != 0).mean()),
        height=opened.size[0],
        width=opened.size[1],
        depth=len(opened),
        worst_slice=worst,
        worst_dice=dice(Pair(predicted[worst], reference[worst])) if worst >= 0 else 1.0,
        unit=("mm" if spacing else "px") if lengths else "",
        structures=structures,
    )


def _measure_class(pair: Pair, metrics: Sequence[Metric], missed: Missed) -> Structure:
    """One class of a case: nothing where neither mask holds it, no distances where only one does; by option those of a
    missed class.
    """
    is_there, is_found = bool(pair.reference.any()), bool(pair.prediction.any())
    has_distances = is_there and (is_found or missed == "diagonal")
    known = [
        metric for metric in metrics if (is_there or is_found) and (has_distances or metric.unit != LENGTH)
    ]
    values = {metric.name: float(metric.function(pair)) for metric in known}
    return Structure(values, float(pair.reference.mean()), float(pair.prediction.mean()))


def slice_dice(predicted: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Dice of every slice of two masks (D, H, W); NaN where both are empty.

    >>> slice_dice(np.array([[[1, 1]], [[0, 0]]]), np.array([[[1, 0]], [[0, 0]]])).round(2).tolist()
    [0.67, nan]
    """
    pairs = [Pair(p, r) for p, r in zip(predicted, reference, strict=True)]
    return np.array([dice(pair) if any(pair.counts[:3]) else np.nan for pair in pairs])


def worst_slice(predicted: NDArray[Any], reference: NDArray[Any]) -> int:
    """The slice of lowest Dice among those with any foreground, the fullest of several; -1 where there is none.

    >>> worst_slice(np.zeros((3, 1, 2)), np.array([[[0, 0]], [[1, 0]], [[1, 1]]]))
    2
    """
    scores = slice_dice(predicted, reference)
    if np.isnan(scores).all():
        return -1
    size = sum(np.count_nonzero(mask, axis=(1, 2)) for mask in (np.asarray(reference), np.asarray(predicted)))
    worst = np.flatnonzero(scores == np.nanmin(scores))
    return int(worst[size[worst].argmax()])


_TEXT = ("case", "group", "label", "site", "split")
_AREA = ("reference_area", "predicted_area")
_SIZE = ("height", "width")
_VOLUME = ("depth", "worst_slice", "worst_dice")
_NO_METRIC = {*_TEXT, *_AREA, *_SIZE, *_VOLUME, "unit"}
_OF = ":"  # between a metric and the class that it is of, as in dice:liver


def write_metrics_csv(results: Iterable[CaseResult], path: str | Path) -> None:
    """Writes one row per case, whole or not at all; every number is written so that reading gives it back exactly.

    Columns: text, the metrics that are always measured, areas, sizes, the other metrics; of volumes depth and worst
    slice; of lengths their unit; of several classes each metric of each, as dice:liver.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> write_metrics_csv([CaseResult("a", "a", metrics=dict.fromkeys(METRICS.always(), 0.1))], target)
    >>> read_metrics_csv(target)[0].metrics["dice"]
    0.1
    """
    rows, always = list(results), METRICS.always()
    extra = [name for name in dict.fromkeys(name for r in rows for name in r.metrics) if name not in always]
    volumes = _VOLUME if any(r.is_volume for r in rows) else ()
    unit = ("unit",) if any(r.unit for r in rows) else ()
    names = dict.fromkeys(name for r in rows for name in r.structures)
    known = dict.fromkeys(m for r in rows for one in r.structures.values() for m in one.metrics)
    of_classes = [(name, column) for name in names for column in (*known, *_AREA)]
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [*_TEXT, *always, *_AREA, *_SIZE, *map(csv_cell, extra), *volumes, *unit]
            + [csv_cell(f"{column}{_OF}{name}") for name, column in of_classes]
        )
        for r in rows:
            writer.writerow(
                [
                    *(csv_cell(getattr(r, name)) for name in _TEXT),
                    *(repr(float(r.metrics[name])) for name in always),
                    *(repr(float(getattr(r, name))) for name in _AREA),
                    *(getattr(r, name) for name in _SIZE),
                    *(repr(float(r.metrics[name])) if name in r.metrics else "" for name in extra),
                    *(getattr(r, name) for name in (*volumes, *unit)),
                    *(_of_class(r.structures.get(name), column) for name, column in of_classes),
                ]
            )


def _of_class(found: Structure | None, column: str) -> str:
    if found is None:
        return ""
    value = getattr(found, column) if column in _AREA else found.metrics.get(column)
    return "" if value is None else repr(float(value))


def read_metrics_csv(path: str | Path) -> Results:
    """Reads what write_metrics_csv wrote; metrics that are not registered here are read, too.

    Raises:
        InputError: missing file, missing column, or a value that is not a number (names row and column).

    >>> read_metrics_csv("nowhere/metrics.csv")
    Traceback (most recent call last):
    segdistill.errors.InputError: cannot read nowhere/metrics.csv: No such file or directory
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            names, always = rows.fieldnames or (), METRICS.always()
            missing = [name for name in (*_TEXT, *always, *_AREA, *_SIZE) if name not in names]
            if missing:
                raise InputError(f"{path} is not a metrics.csv: column {missing[0]!r} is missing")
            metrics = [
                *always,
                *(name for name in names if _OF not in name and name not in {*_NO_METRIC, *always}),
            ]
            return Results(
                _read_row(row, metrics, f"{path}, row {number}") for number, row in enumerate(rows, 2)
            )
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a metrics.csv: {error}") from error


def _read_row(row: dict[str, str | None], metrics: Sequence[str], place: str) -> CaseResult:
    def value(name: str) -> float:
        try:
            result = float(row[name] or "")
        except ValueError:
            result = float("nan")
        if not np.isfinite(result):
            raise InputError(f"{place}, column {name}: {row[name]!r} is not a number")
        return result

    always = METRICS.always()
    return CaseResult(
        **{name: cell_text(row[name] or "") for name in _TEXT},
        metrics={name: value(name) for name in metrics if row[name] or name in always},
        reference_area=value("reference_area"),
        predicted_area=value("predicted_area"),
        height=int(value("height")),
        width=int(value("width")),
        depth=int(value("depth")) if row.get("depth") else 1,
        worst_slice=int(value("worst_slice")) if row.get("worst_slice") else -1,
        worst_dice=value("worst_dice") if row.get("worst_dice") else 1.0,
        unit=row.get("unit") or "",
        structures=_read_structures(
            {name: value(name) for name in row if name and _OF in name and row[name]}
        ),
    )


def _read_structures(values: dict[str, float]) -> dict[str, Structure]:
    """The classes of a row, by columns such as dice:liver."""
    found: dict[str, dict[str, float]] = {}
    for column, value in values.items():
        name, _, of_class = cell_text(column).partition(_OF)
        found.setdefault(of_class, {})[name] = value
    return {
        of_class: Structure(
            {name: value for name, value in each.items() if name not in _AREA},
            **{name: each.get(name, 0.0) for name in _AREA},
        )
        for of_class, each in found.items()
    }
