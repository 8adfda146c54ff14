"""How metrics are called in reports, with their units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segdistill.metrics.cases import EXTRA_METRICS, CaseResult
from segdistill.metrics.overlap import METRICS
from segdistill.metrics.surfaces import DISTANCES

HEADS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "CachedTargets",
    "accuracy": "Accuracy",
    "voe": "VOE (1 − IoU)",
    "voe_emkd": "VOE (EMKD)",
    "voe_printed": "VOE (printed)",
    "sensitivity": "Sensitivity",
    "hd95": "HD95",
    "msd": "Mean surface distance",
    "rmse_boundary": "RMSE of the boundary",
    "rmse_map": "RMSE of the map",
    "box_iou": "IoU of the boxes",
    "box_dice": "Dice of the boxes",
}
POOLED_HEADS = {
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "f1": "F1",
    "miou": "mIoU of two classes",
    "auc": "AUC",
}


def head_of(metric: str) -> str:
    """A metric's name for readers; distances carry their unit.

    >>> head_of("hd95_mm"), head_of("voe")
    ('HD95, mm', 'VOE (1 − IoU)')
    """
    name, _, unit = metric.rpartition("_")
    return f"{HEADS[name]}, {unit}" if name in DISTANCES else HEADS.get(metric, metric)


def digits_of(metric: str) -> int:
    """Decimals to show: two for distances, three for shares.

    >>> digits_of("msd_px")
    2
    """
    return 2 if is_distance(metric) else 3


def is_distance(metric: str) -> bool:
    """Whether it is a distance with its unit, as summaries name them.

    >>> is_distance("hd95_mm"), is_distance("rmse_map")
    (True, False)
    """
    return metric.rpartition("_")[0] in DISTANCES


def measured_extras(results: Iterable[CaseResult]) -> list[str]:
    """The metrics beside the usual ones that some of the cases have, distances once for each unit.

    >>> one = CaseResult("a", "a", metrics={"voe": 0.5, "hd95": 2.0}, unit="px")
    >>> measured_extras([one])
    ['voe', 'hd95_px']
    """
    found = list(results)
    units = sorted({r.unit for r in found if r.unit})
    names: list[str] = []
    for name in EXTRA_METRICS:
        if any(name in r.metrics for r in found):
            names += [f"{name}_{unit}" for unit in units] if name in DISTANCES else [name]
    return names


def value_of(result: CaseResult, metric: str) -> float | None:
    """A case's value of a metric as `measured_extras` names it; None where it has none, or one in another unit.

    >>> value_of(CaseResult("a", "a", metrics={"hd95": 2.0}, unit="px"), "hd95_mm") is None
    True
    """
    name, _, unit = metric.rpartition("_")
    if name in DISTANCES:
        return result.metrics.get(name) if result.unit == unit else None
    return result.metrics.get(metric)


def summary_metrics(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that any of several entries of a summary holds, the usual ones first.

    >>> summary_metrics([{"dice": {}, "hd95_mm": {}}])[-2:]
    ['accuracy', 'hd95_mm']
    """
    names = dict.fromkeys(METRICS)
    for entry in scores:
        names |= dict.fromkeys(entry)
    return list(names)
