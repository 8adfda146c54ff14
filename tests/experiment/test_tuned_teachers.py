"""Teachers that train on together with their student (LightBTSeg): kept, and evaluated as stages of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdistill.config.schema import parse_recipe
from segdistill.errors import InputError
from segdistill.records import EvaluationRecord
from tests.experiment.tiny import RECIPE, record_of, segdistill, write_recipe

TEACHER = RECIPE["stages"]["teacher"]
STUDENT = RECIPE["stages"]["student"] | {"finetune_teachers": True}
TUNED = {"model": TEACHER["model"], "starts_from": "teacher", "tuned_by": "student"}


@pytest.mark.usefixtures("brief")
def test_tuned_teachers_are_stages(tmp_path: Path) -> None:
    stages = {"teacher": TEACHER, "student": STUDENT, "tuned": TUNED}
    recipe, out = write_recipe(tmp_path, stages=stages), tmp_path / "r"
    answer = segdistill("run", recipe, "--device", "cpu", "--out", out)
    assert answer.code == 0, answer.err
    before, after = (load_file(out / "stages" / n / "weights.safetensors") for n in ("teacher", "tuned"))
    kept = load_file(out / "stages" / "student" / "tuned" / "teacher.safetensors")
    assert all(torch.equal(after[name], kept[name]) for name in kept)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    evaluated = EvaluationRecord.read(out / "stages" / "tuned")
    assert evaluated is not None
    assert evaluated.cases > 0
    assert record_of(out / "stages" / "tuned").is_finished
    again = segdistill("run", recipe, "--device", "cpu", "--out", out)
    assert "stage tuned: finished before, nothing changed" in again.err
    changed = segdistill(
        "run", recipe, "--device", "cpu", "--out", out, "--set", "stages.student.fit.epochs=1"
    )
    assert "stage tuned: recipe, data or weights have changed" in changed.err
    assert (out / "stages" / "student" / "previous-1" / "tuned" / "teacher.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tuned_by": "teacher"}, "no stage 'teacher' with finetune_teachers is defined before it"),
        ({"starts_from": None}, "starts_from names the teacher that 'student' tunes"),
    ],
)
def test_a_tuned_stage_names_its_teacher_and_its_student(changes: dict[str, Any], words: str) -> None:
    stages = {"teacher": TEACHER, "student": STUDENT, "tuned": TUNED | changes}
    with pytest.raises(InputError, match=words):
        parse_recipe(RECIPE | {"stages": stages}, "r")
