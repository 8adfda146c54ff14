"""Means with intervals of all cases, by class and by site, and the table of them for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from segdistill.metrics.base import LENGTH, METRICS
from segdistill.metrics.cases import CaseResult, Column, columns_of
from segdistill.records import Interval, Scores, StructureScores, Summary
from segdistill.stats.bootstrap import bootstrap_mean, bootstrap_rate, bootstrap_table


def summarise(results: Iterable[CaseResult], seed: int = 0) -> Summary:
    """Means with 95 % bootstrap intervals over groups, by class and by site.

    A metric that some cases lack has no mean. Of normal images: the share of them with any foreground predicted, and
    the mean share of the image that was predicted.

    >>> one = CaseResult("a", "a", "benign", metrics={"dice": 0.5}, reference_area=0.1)
    >>> summarise([one]).classes["benign"]["dice"]
    Interval(mean=0.5, low=None, high=None, n=1)
    """
    found = list(results)
    lesions = [r for r in found if not r.normal]
    normals = [r for r in found if r.normal]
    labels = sorted({r.label for r in lesions if r.label})
    sites = sorted({r.site for r in lesions if r.site})
    return Summary(
        all=_scores(lesions, seed),
        classes={label: _scores([r for r in lesions if r.label == label], seed) for label in labels},
        sites={
            site: _scores([r for r in lesions if r.site == site], seed) for site in sites if len(sites) > 1
        },
        normal=_of_normal(normals, seed) if normals else {},
        structures={
            name: _of_structure(found, name, seed)
            for name in dict.fromkeys(n for r in found for n in r.structures)
        },
    )


def _of_structure(results: Sequence[CaseResult], name: str, seed: int) -> StructureScores:
    """The scores of one class, each over the cases that have it."""
    known = [(r, r.structures[name]) for r in results if name in r.structures]
    rows = [replace(r, metrics=one.metrics) for r, one in known if one.metrics]
    scores: Scores = {}
    for column in columns_of(rows):
        values = [(column.value(r), r.group) for r in rows]
        measured = [(value, group) for value, group in values if value is not None]
        scores[column.key] = bootstrap_mean(
            [value for value, _ in measured], [group for _, group in measured], seed=seed
        )
    return StructureScores(
        scores,
        there=sum(one.reference_area > 0 for _, one in known),
        missed=sum(one.reference_area > 0 and one.predicted_area == 0 for _, one in known),
        false=sum(one.reference_area == 0 and one.predicted_area > 0 for _, one in known),
    )


def _of_normal(normals: Sequence[CaseResult], seed: int) -> Scores:
    groups = [r.group for r in normals]
    area = bootstrap_mean([r.predicted_area for r in normals], groups, seed=seed)
    if area.mean == 0:  # no foreground was ever predicted: resampling cannot show the spread
        area = Interval(0.0, None, None, area.n)
    rate = bootstrap_rate([r.predicted_area > 0 for r in normals], groups, seed=seed)
    return {"false_positive_rate": rate, "area": area}


def _scores(results: Sequence[CaseResult], seed: int) -> Scores:
    """Metrics that all cases have, and lengths that all cases with this unit have."""
    scores: Scores = {}
    by_unit: dict[str, list[Column]] = {}
    for column in columns_of(results) or [Column(METRICS.create(name)) for name in METRICS.always()]:
        by_unit.setdefault(column.unit if column.metric.unit == LENGTH else "", []).append(column)
    for unit, found in by_unit.items():
        rows = [r for r in results if r.unit == unit] if unit else results
        shared = [column for column in found if all(column.value(r) is not None for r in rows)]
        values = np.array([[column.value(r) for column in shared] for r in rows], np.float64)
        intervals = bootstrap_table(
            values.reshape(len(rows), len(shared)), [r.group for r in rows], seed=seed
        )
        scores |= {column.key: interval for column, interval in zip(shared, intervals, strict=True)}
    return scores


def summary_lines(
    summary: Summary, cases: int, pooled: Mapping[str, float | None] | None = None
) -> list[str]:
    """A row per class and site, the normal images and the pooled metrics in a line each, and what the numbers are.

    Args:
        summary: from `summarise`.
        cases: how many were measured.
        pooled: from Pool.metrics; None or empty: not measured.

    >>> rows = summary_lines(Summary({"dice": Interval(0.8, 0.75, 0.85, 9)}), 9)
    >>> rows[1].split()
    ['all', '9', '0.8000', '[0.750,', '0.850]']
    """
    names = list(summary.all)
    lines = [f"{'':12}{'n':>5}  " + "".join(f"{name:>24}" for name in names)]
    for label, scores in summary.named().items():
        cells = "".join(f"{_cell(scores.get(name)):>24}" for name in names)
        lines.append(f"{label:12}{max((score.n for score in scores.values()), default=0):>5}  {cells}")
    for name, each in summary.structures.items():
        cells = "".join(f"{_cell(each.scores.get(column)):>24}" for column in names)
        lines.append(f"{'class ' + name:12}{each.there:>5}  {cells}")
    if summary.normal:
        shown = (f"{name} {_cell(value)}" for name, value in summary.normal.items())
        lines.append("normal      " + ", ".join(shown))
    if pooled:
        shown = (f"{name} {value:.4f}" for name, value in pooled.items() if value is not None)
        lines.append("pooled      " + ", ".join(shown))
    return [*lines, f"{cases} cases; mean [bootstrap 95 % interval], groups resampled"]


def _cell(value: Interval | None) -> str:
    if value is None or value.mean is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.mean:.4f}"
    return f"{value.mean:.4f} [{value.low:.3f}, {value.high:.3f}]"
