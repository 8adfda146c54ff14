"""Results summed up: means with intervals for all cases, by class and by site, and one network against another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segdistill.errors import InputError
from segdistill.metrics.cases import EXTRA_METRICS, CaseResult
from segdistill.metrics.overlap import METRICS
from segdistill.metrics.surfaces import DISTANCES
from segdistill.stats.bootstrap import (
    Interval,
    PairedDifference,
    bootstrap_mean,
    bootstrap_rate,
    bootstrap_table,
    paired_difference,
)

Summary = dict[str, dict[str, dict[str, Any]]]
_SITE = "site "


def site_of(name: str) -> str:
    """The key of a site in a summary.

    >>> site_of("UCL")
    'site UCL'
    """
    return _SITE + name


def class_names(summary: Summary) -> list[str]:
    """The keys of a summary that hold metrics of a class of images, "all" first.

    >>> class_names({"all": {}, "benign": {}, "site UCL": {}, "normal": {}})
    ['all', 'benign']
    """
    return [name for name in summary if name != "normal" and not name.startswith(_SITE)]


def site_names(summary: Summary) -> list[str]:
    """The sites that a summary tells apart; none where there are fewer than two.

    >>> site_names({"all": {}, "site UCL": {}})
    ['UCL']
    """
    return [name.removeprefix(_SITE) for name in summary if name.startswith(_SITE)]


def summarise(results: Iterable[CaseResult], seed: int = 0) -> Summary:
    """Means with 95 % bootstrap intervals over groups, by class and by site.

    Returns:
        "all": the metrics of the cases with something to find; one entry per label of those; one entry
        "site NAME" per site where there are several; "normal"
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
        name = f"label {label}" if label.startswith(_SITE) else name
        summary[name] = _metrics_of([r for r in lesions if r.label == label], seed)
    sites = sorted({r.site for r in lesions if r.site})
    for site in sites if len(sites) > 1 else []:
        summary[site_of(site)] = _metrics_of([r for r in lesions if r.site == site], seed)
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


def summary_lines(summary: Summary, cases: int, pooled: Mapping[str, Any] | None = None) -> list[str]:
    """A row per class and site, the normal images and the pooled measures in a line each, and what the numbers are.

    Args:
        summary: from results.summarise.
        cases: how many were measured.
        pooled: from Pool.metrics; None or empty: not measured.

    >>> rows = summary_lines({"all": {"dice": {"mean": 0.8, "low": 0.75, "high": 0.85, "n": 9}}}, 9)
    >>> rows[1].split()
    ['all', '9', '0.8000', '[0.750,', '0.850]']
    """
    names = list(summary.get("all", {}))
    lines = [f"{'':12}{'n':>5}  " + "".join(f"{name:>24}" for name in names)]
    for label, metrics in summary.items():
        if label != "normal":
            cells = "".join(f"{_cell(metrics.get(name, {})):>24}" for name in names)
            lines.append(f"{label:12}{next(iter(metrics.values()))['n']:>5}  {cells}")
    if normal := summary.get("normal"):
        lines.append("normal      " + ", ".join(f"{name} {_cell(value)}" for name, value in normal.items()))
    if pooled:
        shown = ", ".join(f"{name} {_cell(value)}" for name, value in pooled.items() if value is not None)
        lines.append(f"pooled      {shown}")
    return [*lines, f"{cases} cases; mean [bootstrap 95 % interval], groups resampled"]


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.4f}" if isinstance(value, float) else str(value)
    if value.get("mean") is None:
        return "-"
    if value.get("low") is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"
