"""Who teaches which case, where teachers speak only of cases that they never saw."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from segdistill.data.case import Case
from segdistill.files import write_text
from segdistill.recipes.inputs import stage_cases
from segdistill.recipes.out_of_fold import speaks
from segdistill.recipes.schema import Recipe

TEACHERS_FILE = "teachers.csv"


def write_teachers(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case], path: Path) -> None:
    """Writes which teacher taught each training case of the stages, and which teachers had seen it.

    One row per stage and case; several teachers are joined by spaces. Stages without out-of-fold teachers are left
    out, and without any of these there is no file.
    """
    rows = []
    for name in stages:
        teachers = recipe.stages[name].teachers
        if not any(teacher.unseen for teacher in teachers):
            continue
        own = stage_cases(recipe, name, list(cases), "train")
        seen = {
            teacher.stage: {case.id for case in stage_cases(recipe, teacher.stage, list(cases), "train")}
            for teacher in teachers
        }
        for case, allowed in zip(own, speaks(recipe, name, own, cases), strict=True):
            taught = [each.stage for each, may in zip(teachers, allowed, strict=True) if may]
            knew = [each.stage for each in teachers if case.id in seen[each.stage]]
            rows.append((name, case.id, " ".join(taught), " ".join(knew)))
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("stage", "case", "taught_by", "seen_by"))
    writer.writerows(rows)
    write_text(path, text.getvalue())
