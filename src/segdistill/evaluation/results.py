"""Per-case results: computed from a predictor, kept in metrics.csv, and summed up by class with intervals."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.data.cases import Case, reference_mask
from segdistill.errors import InputError
from segdistill.evaluation.metrics import METRICS, all_metrics
from segdistill.evaluation.statistics import (
    Interval,
    PairedDifference,
    bootstrap_mean,
    bootstrap_rate,
    bootstrap_table,
    paired_difference,
)
from segdistill.files import atomic_write
from segdistill.imaging.read import Picture, read_picture

_TEXT = ("case", "group", "label", "site", "split")
_AREA = ("reference_area", "predicted_area")
_SIZE = ("height", "width")
COLUMNS = (*_TEXT, *METRICS, *_AREA, *_SIZE)


@dataclass(frozen=True)
class CaseResult:
    """What was measured on one case, at the image's own size.

    Attributes:
        case: id of the case; group: cases of one group are resampled together ("" in the table became the
            id).
        label, site, split: as in the case table.
        metrics: name -> value, the names of METRICS.
        reference_area, predicted_area: share of the image's pixels that are foreground, 0 to 1.
        height, width: of the image, in pixels.
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


def evaluate_cases(
    cases: Sequence[Case],
    predict: Callable[[Picture], NDArray[Any]],
    progress: Callable[[int, int], None] | None = None,
) -> Results:
    """Predicts every case that has a reference and measures it at the image's own size (H, W).

    Args:
        cases: rows of the case table. Without mask or box a case is skipped and counted, unless its label
            is "normal", which says that the reference is empty.
        predict: gives the mask (H, W) of a picture; anything that is not zero is foreground.
        progress: called as progress(done, total) after every case.

    Raises:
        InputError: an image or mask cannot be read.
        ValueError: a predicted mask does not have its image's size.

    >>> evaluate_cases([Case("a", Path("a.png"))], lambda picture: picture.pixels > 0).skipped
    ['a']
    """
    results = Results()
    for done, case in enumerate(cases, 1):
        if case.has_reference or case.label.lower() == "normal":
            results.append(_evaluate(case, predict))
        else:
            results.skipped.append(case.id)
        if progress is not None:
            progress(done, len(cases))
    return results


def _evaluate(case: Case, predict: Callable[[Picture], NDArray[Any]]) -> CaseResult:
    picture = read_picture(case.image)
    reference = reference_mask(case, (picture.pixels.shape[0], picture.pixels.shape[1]))
    predicted = np.asarray(predict(picture)) != 0
    if predicted.shape != reference.shape:
        raise ValueError(f"case {case.id}: predicted mask is {predicted.shape}, its image {reference.shape}")
    return CaseResult(
        case=case.id,
        group=case.group_key,
        label=case.label,
        site=case.site,
        split=case.split,
        metrics=all_metrics(predicted, reference),
        reference_area=float(reference.mean()),
        predicted_area=float(predicted.mean()),
        height=reference.shape[0],
        width=reference.shape[1],
    )


def write_metrics_csv(results: Iterable[CaseResult], path: str | Path) -> None:
    """Writes one row per case, whole or not at all; numbers are written so that reading gives them back
    exactly.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> write_metrics_csv([CaseResult("a", "a", metrics=dict.fromkeys(METRICS, 0.1))], target)
    >>> read_metrics_csv(target)[0].metrics["dice"]
    0.1
    """
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for r in results:
            writer.writerow(
                [
                    *(getattr(r, name) for name in _TEXT),
                    *(repr(float(r.metrics[name])) for name in METRICS),
                    *(repr(float(getattr(r, name))) for name in _AREA),
                    *(getattr(r, name) for name in _SIZE),
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
        metrics={name: value(name) for name in METRICS},
        reference_area=value("reference_area"),
        predicted_area=value("predicted_area"),
        height=int(value("height")),
        width=int(value("width")),
    )


Summary = dict[str, dict[str, dict[str, Any]]]


def summarise(results: Iterable[CaseResult], seed: int = 0) -> Summary:
    """Means with 95 % bootstrap intervals over groups, by class.

    Returns:
        "all": the metrics of the cases with something to find; one entry per label of those; "normal"
        (only where there are normal images): "false_positive_rate", the share of them with any foreground
        predicted, and "area", the mean share of the image that was predicted. Each value: {"mean", "low",
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
    values = np.array([[r.metrics[name] for name in METRICS] for r in results]).reshape(-1, len(METRICS))
    intervals = bootstrap_table(values, [r.group for r in results], seed=seed)
    return {name: interval.to_dict() for name, interval in zip(METRICS, intervals, strict=True)}


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
