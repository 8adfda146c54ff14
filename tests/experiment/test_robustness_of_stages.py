"""`evaluation.robustness`: which stages are measured on disturbed images, and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from segdistill.config.load import load_recipe
from segdistill.config.schema import EvaluationRecipe
from segdistill.errors import InputError
from segdistill.metrics.robustness import STRENGTHS
from segdistill.records import Disturbance, EvaluationRecord
from tests.experiment.tiny import RECIPE, segdistill, write_recipe


def disturbed(run: Path, stage: str) -> list[Disturbance]:
    record = EvaluationRecord.read(run / "stages" / stage)
    assert record is not None
    return record.robustness


@pytest.mark.slow
def test_a_listed_stage_is_measured_on_disturbed_images(tmp_path: Path) -> None:
    stages = {"net": RECIPE["stages"]["teacher"], "other": RECIPE["stages"]["teacher"] | {"role": "baseline"}}
    path = write_recipe(tmp_path, stages=stages, export=None, evaluation={"robustness": ["net"]})
    run = tmp_path / "run"
    answer = segdistill("run", path, "--out", run, "--device", "cpu", "--set", "epochs=1")
    assert answer.code == 0, answer.err
    found = disturbed(run, "net")
    strengths = [(one.kind, one.strength) for one in found]
    assert strengths == [(kind, value) for kind, values in STRENGTHS.items() for value in values]
    assert disturbed(run, "other") == []
    assert "<h3>Robustness</h3>" in (run / "report.html").read_text()
    words = ("evaluate", run, run / "cases.csv", "--stage", "net", "--robustness", "--json")
    assert EvaluationRecord.from_json(segdistill(*words).out, "stdout").robustness == found
    # asked for later it is measured, and stages that are not asked keep their results
    before = (run / "stages" / "other" / "evaluation.json").stat().st_mtime_ns
    again = segdistill(
        "run",
        path,
        "--out",
        run,
        "--device",
        "cpu",
        "--set",
        "epochs=1",
        "--set",
        "evaluation.robustness=false",
    )
    assert again.code == 0, again.err
    assert disturbed(run, "net") == []
    assert (run / "stages" / "other" / "evaluation.json").stat().st_mtime_ns == before


def test_results_without_it_stay_valid() -> None:
    assert EvaluationRecipe(robustness=["a"]).facts() == EvaluationRecipe().facts()
    assert [EvaluationRecipe(robustness=targets).disturbs("a") for targets in (True, False, ["a"], ["b"])] == [
        True, False, True, False,
    ]  # fmt: skip


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, evaluation={"robustness": ["studnt"]})
    with pytest.raises(
        InputError, match=r"evaluation\.robustness: no stage 'studnt': did you mean 'student'"
    ):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["verdict/busi", "verdict/coronary"])
def test_the_verdicts_disturb_their_method_and_its_baseline(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.evaluation.robustness == ["baseline@0", recipe.export]
    assert recipe.evaluation.calibration


def test_the_student_at_equal_time_trains_where_it_is_named() -> None:
    recipe = load_recipe("distill")
    assert recipe.with_teachers(recipe.run) == ["teacher", "baseline", "student"]
    assert recipe.stages["baseline_equal_time"].equal_time_to == "student"
