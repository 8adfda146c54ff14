"""A report with a row per method: the trainings that differ by their seed alone (NAME@0, NAME@1, ...) are one stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from segdistill.metrics.cases import CaseResult
from segdistill.report.data import Report, StageReport
from segdistill.stats.comparison import split_name
from segdistill.stats.summary import Summary, summarise

Trainings = list[StageReport]


def cells_of(report: Report) -> list[Trainings]:
    """The stages, those of one name but for their seeds together, in order of appearance.

    >>> made = Report("r", [StageReport(name, "student") for name in ("kd@0", "at@0", "kd@1")])
    >>> [[stage.name for stage in trainings] for trainings in cells_of(made)]
    [['kd@0', 'kd@1'], ['at@0']]
    """
    cells: dict[object, Trainings] = {}
    for place, stage in enumerate(report.stages):
        cell, seed = split_name(stage.name)
        cells.setdefault(place if seed is None else (cell, stage.role), []).append(stage)
    return list(cells.values())


def is_repeated(report: Report) -> bool:
    """Whether something was trained with several seeds.

    >>> is_repeated(Report("none"))
    False
    """
    return any(len(trainings) > 1 for trainings in cells_of(report))


def over_seeds(report: Report) -> Report:
    """The report with one stage per method, named without its seed; the very same report where nothing was repeated.

    A method's score of a case is the mean over its trainings, and so are its pooled scores, its time per image and its
    training time. Pictures are those of one training; curves and calibration belong to trainings, and are left out.

    >>> over_seeds(Report("r", [StageReport("kd@0", "student"), StageReport("kd@1", "student")])).stages[0].name
    'kd'
    """
    if not is_repeated(report):
        return report
    headline = report.headline()
    known = {stage.name for stage in report.stages}
    name_of = {stage.name: _method_name(stage.name, known) for stage in report.stages}
    stages = [_together(trainings, name_of, report.seed) for trainings in cells_of(report)]
    return replace(report, stages=stages, student=name_of[headline.name] if headline else "")


def _method_name(stage: str, known: set[str]) -> str:
    """Without its seed; a stage without a seed may be called so already."""
    cell, seed = split_name(stage)
    if seed is None:
        return stage
    return f"{cell} over seeds" if cell in known else cell


def _together(trainings: Trainings, name_of: Mapping[str, str], seed: int) -> StageReport:
    first = trainings[0]
    taught = dict.fromkeys(name_of.get(teacher, teacher) for teacher in first.teachers)
    method = replace(first, name=name_of[first.name], teachers=tuple(taught))
    if len(trainings) == 1:
        return method
    return replace(
        method,
        summary=_summary(trainings, seed),
        results=_averaged(trainings),
        curves=(),
        cost={**first.cost, **_means([t.cost for t in trainings], ["ms"])},
        training=_training(trainings),
        examples=next((t.examples for t in trainings if t.examples), ()),
        worst_slices=next((t.worst_slices for t in trainings if t.worst_slices), ()),
        pooled=_means([t.pooled for t in trainings], first.pooled),
        calibration={},
        robustness=(),
    )


def _means(found: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """The mean of each of the named values, where all have it."""
    means: dict[str, Any] = {}
    for name in names:
        known = [float(each[name]) for each in found if each.get(name) is not None]
        means[name] = fmean(known) if len(known) == len(found) else None
    return means


def _summary(trainings: Trainings, seed: int) -> Summary:
    """Means over cases and trainings; the bootstrap draws whole groups, each case with all of its trainings."""
    summary = summarise([result for t in trainings for result in t.results], seed)
    for scores in summary.values():
        for value in scores.values():
            value["n"] = round(value["n"] / len(trainings))
    return summary


def _averaged(trainings: Trainings) -> list[CaseResult]:
    """Each case that all trainings were tested on, with the means of what was measured."""
    found = [{r.case: r for r in t.results} for t in trainings]
    averaged = []
    for case, first in found[0].items():
        rows = [by_case[case] for by_case in found if case in by_case]
        if len(rows) < len(found):
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


def _training(trainings: Trainings) -> dict[str, Any]:
    """What the trainings took: what is the same in all once, the mean time, and all else one after the other."""
    told = [t.training for t in trainings]
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for each in told for key in each):
        values = [each.get(key) for each in told]
        if key == "seconds":
            found |= _means(told, [key])
        elif key == "warnings":
            found[key] = [f"{t.name}: {line}" for t in trainings for line in t.training.get(key, ())]
        elif all(value == values[0] for value in values):
            found[key] = values[0]
        else:
            found[key] = ", ".join("—" if value is None else str(value) for value in values)
    return found
