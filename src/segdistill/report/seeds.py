"""Means over seeds: the trainings that differ by their seed only become one row of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from segdistill.metrics.cases import CaseResult
from segdistill.records import Scores, StructureScores, Summary
from segdistill.report.data import Report, StageReport
from segdistill.stats.summary import summarise


def over_seeds(report: Report) -> list[StageReport]:
    """One stage per variant, named without its seed, in order of appearance.

    A variant's score of a case is the mean over its trainings, and so are its pooled scores and its time per image.
    Pictures are those of one training. Curves, calibration and robustness stay with the trainings.

    >>> seeds = [StageReport(f"kd@{k}", "student", variant="kd", seed=k) for k in (0, 1)]
    >>> [stage.name for stage in over_seeds(Report("r", seeds))]
    ['kd']
    """
    known = {stage.name for stage in report.stages}
    name_of = {stage.name: _variant_name(stage, known) for stage in report.stages}
    return [_mean_stage(trainings, name_of, report.seed) for trainings in report.cells()]


def _variant_name(stage: StageReport, known: set[str]) -> str:
    """The variant; a stage without a seed may have that name already."""
    if stage.variant in ("", stage.name):
        return stage.name
    return f"{stage.variant} over seeds" if stage.variant in known else stage.variant


def _mean_stage(trainings: Sequence[StageReport], name_of: Mapping[str, str], seed: int) -> StageReport:
    first = trainings[0]
    taught = dict.fromkeys(name_of.get(teacher, teacher) for teacher in first.teachers)
    variant = replace(first, name=name_of[first.name], teachers=tuple(taught))
    if len(trainings) == 1:
        return variant
    seconds = _mean(t.training.seconds for t in trainings)
    return replace(
        variant,
        summary=_mean_summary(trainings, seed),
        results=_mean_results(trainings),
        curves=(),
        cost=replace(first.cost, ms=_mean(t.cost.ms for t in trainings)),
        training=replace(first.training, seconds=seconds, warnings=()),
        examples=next((t.examples for t in trainings if t.examples), ()),
        worst_slices=next((t.worst_slices for t in trainings if t.worst_slices), ()),
        pooled={name: _mean(t.pooled.get(name) for t in trainings) for name in first.pooled},
        calibration={},
        robustness=(),
    )


def _mean(values: Iterable[Any]) -> float | None:
    """The mean, where every training has the value."""
    found = list(values)
    return None if any(value is None for value in found) else fmean(map(float, found))


def _mean_summary(trainings: Sequence[StageReport], seed: int) -> Summary:
    """Means over cases and trainings; the bootstrap draws whole groups, each case with all of its trainings."""
    pooled = summarise([result for t in trainings for result in t.results], seed)

    def once(scores: Scores) -> Scores:  # each case counts once
        return {name: replace(value, n=round(value.n / len(trainings))) for name, value in scores.items()}

    classes, sites = (
        {name: once(scores) for name, scores in part.items()} for part in (pooled.classes, pooled.sites)
    )
    structures = {
        name: StructureScores(
            once(one.scores), *(round(count / len(trainings)) for count in (one.there, one.missed, one.false))
        )
        for name, one in pooled.structures.items()
    }
    return Summary(once(pooled.all), classes, sites, once(pooled.normal), structures)


def _mean_results(trainings: Sequence[StageReport]) -> list[CaseResult]:
    """Each case that all trainings were tested on, with the means of what was measured."""
    by_case = [{r.case: r for r in t.results} for t in trainings]
    averaged = []
    for case, first in by_case[0].items():
        rows = [results[case] for results in by_case if case in results]
        if len(rows) < len(by_case):
            continue
        shared = [name for name in first.metrics if all(name in r.metrics for r in rows)]
        one_slice = len({r.worst_slice for r in rows}) == 1
        averaged.append(
            replace(
                first,
                metrics={name: fmean(r.metrics[name] for r in rows) for name in shared},
                predicted_area=fmean(r.predicted_area for r in rows),
                worst_slice=first.worst_slice if one_slice else -1,
                worst_dice=fmean(r.worst_dice for r in rows) if one_slice else 1.0,
            )
        )
    return averaged
