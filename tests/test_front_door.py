"""`import segdistill`: what the functions give, and that they agree with each other and with the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segdistill
from segdistill.config.load import load_recipe
from segdistill.data.case import select
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.experiment.result import RunResult
from segdistill.imaging.read import read_picture
from segdistill.models.network import Output
from segdistill.runtime.predictor import Prediction, Predictor
from tests.experiment.made_runs import seeded, write_run
from tests.experiment.tiny import RECIPE
from tests.experiment.tiny import segdistill as command


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A run of a recipe given as a dict, with a change by a short name and one by a dotted key."""
    out = tmp_path_factory.mktemp("front") / "run"
    return segdistill.run(
        RECIPE, out=out, epochs=1, set={"stages.student.about": "small"}, device="cpu", progress=False
    )


def test_a_run_gives_stages_files_and_metrics(result: RunResult) -> None:
    assert result.report.is_file()
    assert result.model_file is not None
    assert result.model_file.is_file()
    assert result.failed == ""
    assert list(result.records) == ["teacher", "student"]
    assert result.records["student"][0].about == "small"
    assert result.records["student"][0].epochs == 1
    assert result.student.name == "student"
    rows = [row for row in result.metrics if row["stage"] == "student"]
    assert len(rows) == 5
    assert {"role", "case", "group", "label", "site", "dice", "iou"} <= set(rows[0])
    assert json.loads(json.dumps(result.summary()))["stages"].keys() == {"teacher", "student"}
    with pytest.raises(InputError, match="has no stage 'studnt': did you mean 'student'"):
        result.stage("studnt")


def test_stage_and_model_file_predict_the_same(result: RunResult) -> None:
    case = select(read_cases(result.folder / "cases.csv"), split="test")[0]
    pixels = read_picture(case.image).pixels
    student, exported = result.student, segdistill.load_model(result.model_file or "")
    assert isinstance(exported, Predictor)
    by_array, by_path, by_file = (
        student.predict(pixels),
        student.predict(case.image),
        exported.predict(pixels),
    )
    for other in (by_path, by_file):
        assert isinstance(other, Prediction)
        assert np.array_equal(other.mask, by_array.mask)
        assert np.allclose(other.probability, by_array.probability, atol=1e-5)
    several = student.predict([pixels, case.image])
    assert [one.mask.shape for one in several] == [pixels.shape[:2]] * 2
    again = segdistill.load_model(result.folder)
    assert np.array_equal(again.predict(pixels).mask, by_array.mask)
    import torch

    assert isinstance(student.network()(torch.zeros(1, 1, 32, 32)), Output)
    for wrong in (pixels.astype(float), pixels[None, None]):
        with pytest.raises(InputError, match=r"an image is uint8 \(height, width\)"):
            student.predict(wrong)


def test_no_verdict_says_why(result: RunResult, tmp_path: Path) -> None:
    assert result.verdict is None
    assert result.verdict_reason.startswith("no stage is a baseline")
    page = result._repr_html_()
    assert "<td>student</td>" in page
    assert result.report.absolute().as_uri() in page
    assert result.verdict_reason in page


def test_changes_are_checked_as_on_the_command_line(tmp_path: Path) -> None:
    for wrong, message in (
        ({"sise": 32}, "unknown key: did you mean 'size'"),
        ({"set": {"stages.studnt.about": "x"}}, "no such stage: did you mean 'student'"),
        ({"stages": ["studnt"]}, "has no stage 'studnt'"),
        ({"epochs": 0}, "fit.epochs"),
    ):
        with pytest.raises(InputError, match=message):
            segdistill.run(RECIPE, out=tmp_path / "never", device="cpu", progress=False, **wrong)
    assert not (tmp_path / "never").exists()
    with pytest.raises(InputError, match="unknown recipe 'distil': did you mean 'distill'"):
        segdistill.run("distil")


def test_a_recipe_object_and_its_content_are_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    assert load_recipe(recipe.model_dump(mode="json", exclude_unset=True)) == recipe
    with pytest.raises(InputError, match="unknown dataset 'no_such_dataset'"):
        segdistill.run(recipe, out=tmp_path / "r", dataset="no_such_dataset", progress=False)


def test_predict_evaluate_and_compare(result: RunResult, tmp_path: Path) -> None:
    cases = select(read_cases(result.folder / "cases.csv"), split="test")
    calls: list[tuple[int, int]] = []
    found = segdistill.predict(
        result.folder,
        [case.image for case in cases],
        tmp_path / "p",
        progress=lambda *done: calls.append(done),
    )
    assert (len(found.rows), found.failed, found.table.is_file()) == (5, [], True)
    assert calls[-1] == (5, 5)
    measured = segdistill.evaluate(result.folder, out=tmp_path / "e", metrics=["voe"])
    own = {row["case"]: row["dice"] for row in result.metrics if row["stage"] == "student"}
    assert {row["case"]: row["dice"] for row in measured.metrics} == pytest.approx(own)
    assert all("voe" in row for row in measured.metrics if "dice" in row)
    assert measured.report is not None
    told = command("evaluate", result.folder, "--metrics", "voe", "--json")
    assert json.loads(told.out)["summary"] == json.loads(measured.record.to_json())["summary"]
    stages: dict[str, Any] = {**seeded("baseline", role="baseline"), **seeded("kd", 0.08)}
    compared = segdistill.compare(write_run(tmp_path / "run", stages), out=tmp_path / "c")
    assert [verdict.outcome for verdict in compared.verdicts] == ["helps"]
    assert compared.report is not None
    assert compared.report.is_file()


def test_the_verdict_of_a_run_is_that_of_its_report(tmp_path: Path) -> None:
    from dataclasses import replace

    from segdistill.records import RunRecord

    stages: dict[str, Any] = {**seeded("baseline", role="baseline"), **seeded("kd", 0.08)}
    run = write_run(tmp_path / "run", stages)
    (verdict,) = segdistill.compare(run).verdicts
    record = RunRecord.read(run)
    assert record is not None
    replace(record, verdicts=[verdict.to_dict()], export=next(name for name in stages if "kd" in name)).write(
        run
    )
    found = RunResult(run)
    assert found.verdict == verdict
    assert found.verdict_reason == ""
    assert str(verdict).split(".")[0] in found._repr_html_()
