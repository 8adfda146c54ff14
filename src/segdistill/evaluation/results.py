"""Per-case results: computed from a predictor, kept in metrics.csv, and summed up by class with intervals."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.data.cases import Case
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.evaluation.metrics import FROM_COUNTS, METRICS, Counts, count_pixels, rmse_map
from segdistill.evaluation.pooled import Pool
from segdistill.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_mean,
    bootstrap_rate,
    bootstrap_table,
    paired_difference,
)
from segdistill.evaluation.surfaces import DISTANCES, surface_distances
from segdistill.files import atomic_write
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.picture import Picture
from segdistill.registry import near_names

_TEXT = ("case", "group", "label", "site", "split")
_AREA = ("reference_area", "predicted_area")
_SIZE = ("height", "width")
COLUMNS = (*_TEXT, *METRICS, *_AREA, *_SIZE)
EXTRA_METRICS = (*(name for name in FROM_COUNTS if name not in METRICS), *DISTANCES, "rmse_map")
"""Metrics beside METRICS, measured when they are asked for by name; all but sensitivity: smaller is better."""
_VOLUME = ("depth", "worst_slice")


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
    unit: str = ""

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


def evaluate_cases(
    cases: Sequence[Case],
    predict: Predict,
    progress: Callable[[int, int], None] | None = None,
    *,
    intensity: Intensity | None = None,
    extra: Sequence[str] = (),
    pool: Pool | None = None,
) -> Results:
    """Predicts every case that has a reference and measures it at the image's own size, a volume as a whole.

    Args:
        cases: rows of the case table. Without mask or box a case is skipped and counted, unless its label
            is "normal", which says that the reference is empty.
        predict: gives the mask (H, W) of a picture, or of one slice; anything that is not zero is foreground.
            `Scored` where the probability is needed, too.
        progress: called as progress(done, total) after every case.
        intensity: how the values of a volume become 8 bits: that of the network's preprocessing.
        extra: further metrics, of EXTRA_METRICS.
        pool: collects all pixels for `Pool.metrics`.

    Raises:
        InputError: an image or mask cannot be read, or a metric is not known or needs a score that is not there.
        ValueError: a predicted mask does not have its image's size.

    >>> evaluate_cases([Case("a", Path("a.png"))], lambda picture: picture.pixels > 0).skipped
    ['a']
    """
    for name in extra:
        if name not in EXTRA_METRICS and name not in METRICS:
            raise InputError(f"unknown metric '{name}': {near_names(name, (*METRICS, *EXTRA_METRICS))}")
    results = Results()
    for done, case in enumerate(cases, 1):
        if case.has_reference or case.label.lower() == "normal":
            results.append(_evaluate(open_case(case, intensity), predict, extra, pool))
        else:
            results.skipped.append(case.id)
        if progress is not None:
            progress(done, len(cases))
    return results


def predict_case(
    opened: OpenedCase, predict: Predict
) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
    """The masks (D, H, W) of all images of a case, and their scores where the predictor gives them.

    Raises:
        ValueError: a predicted mask does not have its image's size.
    """
    masks, scores = [], []
    for k in range(len(opened)):
        answer = predict(opened.picture(k))
        mask = np.asarray(answer.mask if isinstance(answer, Scored) else answer) != 0
        if mask.shape != opened.size:
            raise ValueError(
                f"case {opened.case.id}: predicted mask is {mask.shape}, its image {opened.size}"
            )
        masks.append(mask)
        if isinstance(answer, Scored):
            scores.append(np.asarray(answer.score, np.float32))
    return np.stack(masks), np.stack(scores) if scores else None


def _evaluate(opened: OpenedCase, predict: Predict, extra: Sequence[str], pool: Pool | None) -> CaseResult:
    case, reference = opened.case, opened.reference
    predicted, scores = predict_case(opened, predict)
    if pool is not None:
        pool.add(predicted, reference, scores)
    counts = count_pixels(predicted, reference)
    metrics = {
        name: FROM_COUNTS[name](counts) for name in (*METRICS, *(n for n in extra if n in FROM_COUNTS))
    }
    if "rmse_map" in extra:
        if scores is None:
            raise InputError("the metric rmse_map needs probabilities, and this predictor gives masks alone")
        metrics["rmse_map"] = rmse_map(scores, reference)
    unit = ""
    if measured := [name for name in extra if name in DISTANCES]:
        unit = "mm" if opened.spacing_mm else "px"
        first = 0 if opened.is_volume else 1
        spacing = opened.spacing_mm[first:] if opened.spacing_mm else None
        whole = ... if opened.is_volume else 0
        distances = surface_distances(predicted[whole], reference[whole], spacing)
        metrics |= {name: DISTANCES[name](distances) for name in measured}
    return CaseResult(
        case=case.id,
        group=case.group_key,
        label=case.label,
        site=case.site,
        split=case.split,
        metrics=metrics,
        reference_area=float(reference.mean()),
        predicted_area=float(predicted.mean()),
        height=opened.size[0],
        width=opened.size[1],
        depth=len(opened),
        worst_slice=worst_slice(predicted, reference) if opened.is_volume else -1,
        unit=unit,
    )


def slice_dice(predicted: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Dice of every slice of two masks (D, H, W); NaN where both are empty.

    >>> slice_dice(np.array([[[1, 1]], [[0, 0]]]), np.array([[[1, 0]], [[0, 0]]])).round(2).tolist()
    [0.67, nan]
    """
    tables = [count_pixels(p, r) for p, r in zip(predicted, reference, strict=True)]
    return np.array([FROM_COUNTS["dice"](c) if _any(c) else np.nan for c in tables])


def worst_slice(predicted: NDArray[Any], reference: NDArray[Any]) -> int:
    """The slice of lowest Dice among those with any foreground, the fullest of several; -1 where there is none.

    >>> worst_slice(np.zeros((3, 1, 2)), np.array([[[0, 0]], [[1, 0]], [[1, 1]]]))
    2
    """
    scores = slice_dice(predicted, reference)
    if np.isnan(scores).all():
        return -1
    size = np.count_nonzero(np.asarray(reference) != 0, axis=(1, 2)) + np.count_nonzero(
        predicted, axis=(1, 2)
    )
    worst = np.flatnonzero(scores == np.nanmin(scores))
    return int(worst[size[worst].argmax()])


def _any(counts: Counts) -> bool:
    return bool(counts.tp + counts.fp + counts.fn)


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
    volumes = _VOLUME if any(r.depth > 1 or r.worst_slice >= 0 for r in rows) else ()
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
        unit=row.get("unit") or "",
    )


Summary = dict[str, dict[str, dict[str, Any]]]


def summarise(results: Iterable[CaseResult], seed: int = 0) -> Summary:
    """Means with 95 % bootstrap intervals over groups, by class.

    Returns:
        "all": the metrics of the cases with something to find; one entry per label of those; "normal"
        (only where there are normal images): "false_positive_rate", the share of them with any foreground
        predicted, and "area", the mean share of the image that was predicted. Extra metrics come after METRICS,
        distances by their unit ("hd95_mm", "hd95_px"). Each value: {"mean", "low",
        "high", "n"}; low and high are None with fewer than two groups, mean is None with no case; never NaN.

    >>> one = CaseResult("a", "a", "benign", metrics=dict.fromkeys(METRICS, 0.5), reference_area=0.1)
    >>> summarise([one])["all"]["dice"]
    {'mean': 0.5, 'low': None, 'high': None, 'n': 1}
    """
    found = list(results)
    lesions = [r for r in found if not r.normal]
    normals = [r for r in found if r.normal]
    summary = {"all": _metrics_of(lesions, seed)}
    for label in sorted({r.label for r in lesions if r.label}):
        name = f"{label} (label)" if label in ("all", "normal") else label
        summary[name] = _metrics_of([r for r in lesions if r.label == label], seed)
    if normals:
        groups = [r.group for r in normals]
        area = bootstrap_mean([r.predicted_area for r in normals], groups, seed=seed)
        if area.mean == 0:  # nothing was ever marked: resampling says nothing of the spread
            area = Interval(0.0, None, None, area.n)
        summary["normal"] = {
            "false_positive_rate": bootstrap_rate(
                [r.predicted_area > 0 for r in normals], groups, seed=seed
            ).to_dict(),
            "area": area.to_dict(),
        }
    return summary


def _metrics_of(results: list[CaseResult], seed: int) -> dict[str, dict[str, Any]]:
    shared = [name for name in EXTRA_METRICS if name not in DISTANCES and _all_have(results, name)]
    found = _intervals(results, [*METRICS, *shared], seed)
    for unit in sorted(
        {r.unit for r in results if r.unit}
    ):  # millimetres and pixels are never averaged together
        measured = [r for r in results if r.unit == unit]
        names = [name for name in DISTANCES if _all_have(measured, name)]
        found |= {f"{name}_{unit}": value for name, value in _intervals(measured, names, seed).items()}
    return found


def _all_have(results: list[CaseResult], name: str) -> bool:
    return bool(results) and all(name in r.metrics for r in results)


def _intervals(results: list[CaseResult], names: Sequence[str], seed: int) -> dict[str, dict[str, Any]]:
    values = np.array([[r.metrics[name] for name in names] for r in results]).reshape(-1, len(names))
    intervals = bootstrap_table(values, [r.group for r in results], seed=seed)
    return {name: interval.to_dict() for name, interval in zip(names, intervals, strict=True)}


def paired_results(
    a: Iterable[CaseResult], b: Iterable[CaseResult], metric: str = "dice", seed: int = 0
) -> PairedDifference:
    """Difference a - b of one metric over the cases with something to find, paired by case id.

    Raises:
        InputError: the two sides do not hold the same cases (names one).

    >>> one = CaseResult("a", "a", metrics={"dice": 0.9}, reference_area=0.1)
    >>> two = CaseResult("a", "a", metrics={"dice": 0.7}, reference_area=0.1)
    >>> round(paired_results([one], [two]).mean, 3)
    0.2
    """
    left = {r.case: r for r in a if not r.normal}
    right = {r.case: r for r in b if not r.normal}
    if odd := sorted(left.keys() ^ right.keys()):
        raise InputError(
            f"the two sides hold different cases ({odd[0]!r} is on one only): evaluate both on the same split"
        )
    return paired_difference(
        [r.metrics[metric] for r in left.values()],
        [right[case].metrics[metric] for case in left],
        [r.group for r in left.values()],
        seed=seed,
    )
