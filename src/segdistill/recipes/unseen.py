"""Who teaches which case, where teachers speak only of cases that they never saw."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from segdistill.data.case import Case
from segdistill.evaluation.report_teachers import Taught
from segdistill.files import write_text
from segdistill.recipes.inputs import stage_cases
from segdistill.recipes.out_of_fold import speaks
from segdistill.recipes.schema import Recipe

TEACHERS_FILE = "teachers.csv"

Row = tuple[str, str, list[str], list[str]]
"""A stage, one of its training cases, the teachers that taught it, and those that had seen it."""


def write_teachers(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case], path: Path) -> None:
    """Writes which teacher taught each training case of the stages, and which teachers had seen it.

    One row per stage and case; several teachers are joined by spaces. Stages without out-of-fold teachers are left
    out, and without any of these there is no file.
    """
    rows = list(_rows(recipe, stages, cases))
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("stage", "case", "taught_by", "seen_by"))
    writer.writerows((stage, case, " ".join(taught), " ".join(knew)) for stage, case, taught, knew in rows)
    write_text(path, text.getvalue())


def count_taught(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case]) -> list[Taught]:
    """The same, counted for each teacher of each stage."""
    rows = list(_rows(recipe, stages, cases))
    counted = []
    for name in dict.fromkeys(stage for stage, *_ in rows):
        for each in recipe.stages[name].teachers:
            told = [knew for stage, _, taught, knew in rows if stage == name and each.stage in taught]
            learned = len(stage_cases(recipe, each.stage, list(cases), "train"))
            overlap = sum(each.stage in knew for knew in told)
            counted.append(Taught(name, each.stage, learned, len(told), overlap))
    return counted


def _rows(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case]) -> Iterator[Row]:
    for name in stages:
        stage = recipe.stages[name]
        if not any(teacher.unseen for teacher in stage.teachers):
            continue
        own = stage_cases(recipe, name, list(cases), "train")
        seen = {
            teacher.stage: {case.id for case in stage_cases(recipe, teacher.stage, list(cases), "train")}
            for teacher in stage.teachers
        }
        for case, allowed in zip(own, speaks(recipe, name, own, cases), strict=True):
            taught = [
                each.stage
                for each, may in zip(stage.teachers, allowed, strict=True)
                if may and (stage.routing != "by_class" or not each.labels or case.label in each.labels)
            ]
            yield name, case.id, taught, [t.stage for t in stage.teachers if case.id in seen[t.stage]]
