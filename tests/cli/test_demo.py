from __future__ import annotations

from dataclasses import replace

from segdistill.cli.demo import ladder
from segdistill.config.load import load_recipe
from segdistill.records import Cost, EvaluationRecord, Interval, Summary


def evaluated(dice: float) -> EvaluationRecord:
    summary = replace(Summary(), all={"dice": Interval(dice, None, None, 9)})
    return EvaluationRecord(model="m", summary=summary, cost=Cost(parameters=64786, ms=1.25))


def test_a_student_below_its_baseline_is_told() -> None:
    found = {
        "teacher_1": evaluated(0.8),
        "student_small": evaluated(0.75),
        "baseline_small": evaluated(0.70),
        "student_tiny": evaluated(0.60),
        "baseline_tiny": evaluated(0.65),
    }
    lines = list(ladder(found))
    assert lines[1].split() == ["teacher_1", "0.06", "M", "1.2", "0.800"]
    assert lines[2].split() == ["small", "0.06", "M", "1.2", "0.750", "0.700", "+0.050"]
    assert lines[3].split() == ["tiny", "0.06", "M", "1.2", "0.600", "0.650", "-0.050"]
    assert lines[4] == "The student is below its baseline here: tiny. Distillation did not help there."
    assert "One seed" in lines[5]
    assert "no claim" in lines[5]
    better = {name: one for name, one in found.items() if "tiny" not in name}
    assert not any("below" in line for line in ladder(better))


def test_the_recipe_is_few_masks_a_teacher_and_three_sizes() -> None:
    recipe = load_recipe("demo")
    students = [name for name in recipe.stages if name.startswith("student_")]
    assert len(students) == 3
    assert recipe.export in students
    assert recipe.data.locations < 0.5
    for name in students:
        student = recipe.stages[name]
        assert student.targets == "case"
        assert len(student.taught_by) > 1
        baseline = recipe.stages[name.replace("student", "baseline")]
        assert baseline.model == student.model
        assert not baseline.taught_by
        assert (
            recipe.fit_settings(name).steps == recipe.fit_settings(name.replace("student", "baseline")).steps
        )
