"""Volumes of several hospitals, and vessels in patches, from the recipe to the report and the model file."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import yaml

from segdistill.config.load import load_recipe
from segdistill.data.table import read_cases
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.files import sha256_file
from segdistill.records import EvaluationRecord
from segdistill.training.loop import WEIGHTS
from tests.experiment.tiny import record_of, segdistill
from tests.experiment.volumes_and_vessels import vessel_recipe, vessels, volume_recipe, volumes

pytestmark = pytest.mark.slow


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / f"{recipe['name']}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def make(folder: Path, recipe: dict[str, Any], table: Path) -> Path:
    out = folder / "runs" / recipe["name"]
    answer = segdistill("run", write(folder, recipe), "--data", table, "--device", "cpu", "--out", out)
    assert answer.code == 0, answer.err
    return out


@pytest.fixture(scope="module")
def volume_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    return make(folder, volume_recipe(), volumes(folder / "data"))


@pytest.fixture(scope="module")
def vessel_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vessels")
    return make(folder, vessel_recipe(), vessels(folder / "data"))


def evaluation(run: Path, stage: str) -> EvaluationRecord:
    found = EvaluationRecord.read(run / "stages" / stage)
    assert found is not None
    return found


def rows(run: Path, stage: str) -> list[dict[str, str]]:
    with open(run / "stages" / stage / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_sites_train_apart_and_are_tested_together(volume_run: Path) -> None:
    assert record_of(volume_run / "stages/teacher_a").train_cases == 2
    assert record_of(volume_run / "stages/teacher_b").train_cases == 4
    assert record_of(volume_run / "stages/teacher_b").val_cases == 2
    assert record_of(volume_run / "stages/student").train_cases == 6
    for stage in ("teacher_a", "teacher_b", "student"):
        assert {row["site"] for row in rows(volume_run, stage)} == {"A", "B", "C"}
        summary = evaluation(volume_run, stage).summary
        assert list(summary.sites) == ["A", "B", "C"]
        one = next(row for row in rows(volume_run, stage) if row["site"] == "B")
        assert summary.sites["B"]["dice"].mean == float(one["dice"])


def test_a_volumes_numbers_follow_from_its_mask_file(volume_run: Path, tmp_path: Path) -> None:
    """The model file's mask, written and read back by SimpleITK, gives the very numbers of metrics.csv."""
    tested = [case for case in read_cases(volume_run / "cases.csv") if case.split == "test"]
    answer = segdistill(
        "predict", volume_run / "model.onnx", *[case.image for case in tested], "-o", tmp_path, "--json"
    )
    assert answer.code == 0, answer.err
    by_case = {row["case"]: row for row in rows(volume_run, "student")}
    for case, told in zip(tested, json.loads(answer.out)["predictions"], strict=True):
        mask = sitk.ReadImage(str(tmp_path / f"{case.id}.nii.gz"))
        truth = sitk.ReadImage(str(case.masks[0]))
        assert mask.GetSize() == truth.GetSize()
        assert mask.GetSpacing() == pytest.approx(truth.GetSpacing())
        assert mask.GetOrigin() == pytest.approx(truth.GetOrigin(), abs=1e-4)
        assert mask.GetDirection() == pytest.approx(truth.GetDirection(), abs=1e-6)
        p, r = sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(truth) > 0
        assert 2 * (p & r).sum() / (p.sum() + r.sum()) == pytest.approx(float(by_case[case.id]["dice"]))
        assert float(by_case[case.id]["voe_emkd"]) == pytest.approx(2 * (p & ~r).sum() / (p.sum() + r.sum()))
        assert told["voxels"] == p.sum()
        assert told["volume_ml"] == pytest.approx(p.sum() * 0.5 * 0.6 * 3 / 1000, abs=1e-3)
    with open(tmp_path / "predictions.csv", newline="") as file:
        assert {row["slices"] for row in csv.DictReader(file)} == {"5"}


@pytest.mark.parametrize(("skip", "steps"), [(True, 2), (False, 3)])
def test_slices_without_foreground_are_left_out_of_training_alone(
    skip: bool, steps: int, volume_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two volumes of five slices, three of them with the ball, in batches of four: 6 or 10 slices."""
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *_: None)
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *_: ([], {}))
    seen: list[int] = []
    validate = "segdistill.training.loop.validate"
    monkeypatch.setattr(validate, lambda *words: seen.append(len(words[2])) or {"val_dice": 0.5})
    recipe = load_recipe(
        str(write(tmp_path, volume_recipe())), [f"data.skip_empty={str(skip).lower()}", "epochs=1"]
    )
    table = volume_run / "cases.csv"
    events = list(run_recipe(recipe, table, tmp_path / "runs" / "r", Machine("cpu"), ["teacher_a"]))
    assert {event.total for event in events if event.text == "stage teacher_a"} == {steps}
    assert seen == [5]  # one volume to validate, whole


def test_threshold_and_intensity_are_in_the_model_file(volume_run: Path) -> None:
    from segdistill.runtime.model_file import read_info as read_model

    info = read_model(volume_run / "model.onnx")
    assert info.postprocess.threshold == 0.4
    assert info.preprocess.intensity is not None
    assert (info.preprocess.intensity.kind, info.preprocess.mean, info.preprocess.std) == (
        "z_score",
        (3 / 8,),
        (1 / 8,),
    )


def test_evaluate_repeats_the_runs_numbers(volume_run: Path, tmp_path: Path) -> None:
    table = volume_run / "cases.csv"
    options = ("--metrics", "voe_emkd,hd95", "--pooled", "--json")
    of_file = segdistill("evaluate", volume_run / "model.onnx", table, "-o", tmp_path, *options)
    of_stage = segdistill("evaluate", volume_run, table, *options)
    assert (of_file.code, of_stage.code) == (0, 0), of_file.err + of_stage.err
    kept = evaluation(volume_run, "student")
    of_file, of_stage = (EvaluationRecord.from_json(done.out, "stdout") for done in (of_file, of_stage))
    assert of_stage.pooled == kept.pooled
    assert of_file.pooled == pytest.approx(kept.pooled, abs=1e-3)  # AUC ranks by the last digits
    assert of_stage.summary == of_file.summary == kept.summary
    assert "hd95_mm" in kept.summary.all
    assert kept.summary.classes == {}
    assert (tmp_path / "metrics.csv").read_bytes() == (volume_run / "stages/student/metrics.csv").read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert "Site by site" in page
    assert "Worst slices" in page
    shown = segdistill("evaluate", volume_run, table, *options[:-1])
    assert "pooled      accuracy" in shown.out
    assert "site A" in shown.out


def test_the_report_shows_volumes_and_sites(volume_run: Path) -> None:
    page = re.sub(r"<[^>]+>", " ", (volume_run / "report.html").read_text())
    page = " ".join(page.split())
    for words in (
        "HD95, mm",
        "VOE (EMKD)",
        "Site by site",
        "Worst slices",
        "Pooled over all pixels of the set",
        "volumes, each measured as a whole",
        "slice 3 of 5",
        "What the networks were trained on",
    ):
        assert words in page, words


def test_another_threshold_measures_anew_and_trains_nothing(volume_run: Path, tmp_path: Path) -> None:
    shutil.copytree(volume_run.parent, tmp_path / "runs")
    run = tmp_path / "runs" / volume_run.name
    before = {path: sha256_file(path) for path in run.rglob(WEIGHTS)}
    old = evaluation(run, "student")
    recipe = load_recipe(
        str(write(tmp_path, volume_recipe())), ["evaluation.threshold=0.7", "evaluation.pooled=false"]
    )
    events = [event.text for event in run_recipe(recipe, volume_run / "cases.csv", run, Machine("cpu"))]
    assert [text for text in events if "finished before" in text] == [
        f"stage {name}: finished before, nothing changed" for name in ("teacher_a", "teacher_b", "student")
    ]
    assert {path: sha256_file(path) for path in run.rglob(WEIGHTS)} == before
    new = evaluation(run, "student")
    assert new.pooled == {}
    assert new.summary.all["dice"] != old.summary.all["dice"]
    from segdistill.runtime.model_file import read_info as read_model

    assert read_model(run / "model.onnx").postprocess.threshold == 0.7


def test_what_a_stage_was_trained_on_is_kept_with_it(volume_run: Path, tmp_path: Path) -> None:
    shutil.copytree(volume_run.parent, tmp_path / "runs")
    run = tmp_path / "runs" / volume_run.name
    kept = run / "stages/teacher_a/environment.json"
    assert json.loads(kept.read_text())["precision"] == "32-true"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"torch": "1.0"}))
    recipe = load_recipe(str(write(tmp_path, volume_recipe())))
    events = [event.text for event in run_recipe(recipe, volume_run / "cases.csv", run, Machine("cpu"))]
    assert not any("bit-identical" in text for text in events)  # nothing was continued
    assert json.loads(kept.read_text())["torch"] == "1.0"
    page = " ".join(re.sub(r"<[^>]+>", " ", (run / "report.html").read_text()).split())
    assert "Network torch teacher_a 1.0 teacher_b" in page


def test_vessels_are_learnt_and_answered_in_patches(vessel_run: Path, tmp_path: Path) -> None:
    preprocess = record_of(vessel_run / "stages/net").preprocess
    assert preprocess["patches"] == {"count": 3, "size": 48}
    assert preprocess["size"] == [48, 48]
    case = next(case for case in read_cases(vessel_run / "cases.csv") if case.split == "test")
    answer = segdistill("predict", vessel_run / "model.onnx", case.image, "-o", tmp_path)
    assert answer.code == 0, answer.err
    from PIL import Image

    p, r = (np.asarray(Image.open(path)) > 0 for path in (tmp_path / f"{case.id}.png", case.masks[0]))
    row = next(row for row in rows(vessel_run, "net") if row["case"] == case.id)
    assert p.shape == (120, 120)
    assert float(row["accuracy"]) == pytest.approx((p == r).mean())
    pooled = evaluation(vessel_run, "net").pooled
    assert set(pooled) == {"accuracy", "sensitivity", "f1", "miou", "auc"}
    assert pooled["accuracy"] == pytest.approx(
        np.mean([float(r["accuracy"]) for r in rows(vessel_run, "net")])
    )
    page = (vessel_run / "report.html").read_text()
    assert 'class="panels large"' in page  # thin lines
    assert "one of 9 patches" in page
    exported = segdistill("export", vessel_run, "-o", tmp_path / "again.onnx", "--json")
    assert exported.code == 0, exported.err
    assert json.loads(exported.out)["differing_pixels"] == 0


def test_volumes_of_unknown_spacing_are_measured_in_voxels(volume_run: Path, tmp_path: Path) -> None:
    table = volumes(tmp_path / "unit", spacing=(1.0, 1.0, 1.0))
    answer = segdistill("evaluate", volume_run, table, "--metrics", "hd95", "--json")
    assert answer.code == 0, answer.err
    assert {"hd95_px", "hd95_mm"} & set(EvaluationRecord.from_json(answer.out, "stdout").summary.all) == {
        "hd95_px"
    }
    case = read_cases(table)[0]
    answer = segdistill("predict", volume_run / "model.onnx", case.image, "-o", tmp_path / "p", "--json")
    (row,) = json.loads(answer.out)["predictions"]
    assert row["volume_ml"] is None
    assert nibabel.load(tmp_path / "p" / "Case00.nii.gz").header.get_xyzt_units()[0] == "unknown"
