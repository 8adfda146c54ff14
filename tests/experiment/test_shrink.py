"""How small can it get: a ladder on phantoms from table to model file, its budget, and bad options."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segdistill
from segdistill.config.schema import DataRecipe
from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.rungs import measure_rungs, over_budget
from segdistill.experiment.shrink import DEVELOPMENT, TABLE, ShrinkResult, _outside
from segdistill.records import ShrinkRecord
from tests.data.pictures import noise, save
from tests.experiment.tiny import segdistill as command
from tests.experiment.tiny import tiny_run

LADDER = {
    "wide": {"name": "simplified_unet", "widths": [16, 32, 32]},
    "narrow": {"name": "simplified_unet", "widths": [2, 4, 4]},
}
FIT = {
    "fit.epochs": 1,
    "fit.batch_size": 4,
    "fit.precision": "fp32",
    "fit.checkpoint_seconds": 0.0,
    "fit.workers": 0,
    "data.size": 32,
    "data.channels": 1,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms with a lesion, and beside them predictions that are their masks."""
    base = tmp_path_factory.mktemp("phantoms")
    cases = [case for case in write_phantom(base / "images", 34, size=32) if not case.is_normal]
    write_cases(cases, base / "cases.csv")
    (base / "predicted").mkdir()
    for case in cases:
        mask = np.array(Image.open(case.masks[0]).convert("L")) > 0
        Image.fromarray((255 * mask).astype(np.uint8)).save(base / "predicted" / f"{case.id}.png")
    return base / "cases.csv"


def shrink(table: Path, out: Path, **options: Any) -> ShrinkResult:
    stated: dict[str, Any] = {"rungs": LADDER, "teacher": table.parent / "predicted", "trained_on": "none"}
    stated |= {"folds": 3, "effort": "quick", "set": FIT, "device": "cpu", "progress": False}
    return segdistill.shrink(table, out=out, **(stated | options))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_ladder_from_table_to_model_file(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ladder"
    found = shrink(table, out, margin=0.9)
    record = found.record
    assert ShrinkRecord.read(out) == record
    assert [rung.name for rung in record.rungs] == ["wide", "narrow"]
    assert record.rungs[0].ms >= record.rungs[1].ms
    assert record.reference == "wide"
    assert record.chosen == "narrow"  # a loss of 0.9 is no loss
    assert all(rung.outcome == "not worse" for rung in record.rungs)

    split = {case.id: case.split for case in read_cases(out / TABLE)}
    inner = {case.id for case in read_cases(out / DEVELOPMENT)}
    tested = {name for name, part in split.items() if part == "test"}
    assert tested
    assert inner == split.keys() - tested
    for stage in ("narrow", "narrow_distilled", "wide", "wide_distilled"):
        rows = [
            row
            for fold in (1, 2, 3)
            for row in csv.DictReader((out / f"folds/fold-{fold}/stages/{stage}@0/metrics.csv").open())
        ]
        assert sorted(row["case"] for row in rows) == sorted(inner)  # every case once, no test case
        dice = [float(row["dice"]) for row in rows if float(row["reference_area"]) > 0]
        rung = record.rung(stage.removesuffix("_distilled"))
        score = rung.distilled if stage.endswith("_distilled") else rung.plain
        assert score is not None
        assert score.mean == pytest.approx(np.mean(dice))
    assert record.teacher_score is not None
    assert record.teacher_score.mean == pytest.approx(1.0, abs=0.02)  # its predictions are the masks

    final = read_cases(out / "final" / "cases.csv")
    assert {case.id: case.split for case in final} == split
    assert (found.failed, found.model_file) == ("", out / "model.onnx")
    with (out / "final/stages/narrow_distilled/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == tested
    assert record.test is not None
    assert record.test.mean == pytest.approx(
        np.mean([float(row["dice"]) for row in rows if float(row["reference_area"]) > 0])
    )
    assert (out / "model.onnx").read_bytes() == (out / "final" / "model.onnx").read_bytes()
    page = found.report.read_text()
    assert record.sentence in page.replace("&#39;", "'")
    assert page.count("<svg") == 3

    # nothing is trained again, the milliseconds stay, and a margin that is changed afterwards is told; where no rung
    # passes (students of the masks may do by any margin) the model file goes
    before = {path: path.stat().st_mtime_ns for path in out.rglob("weights.safetensors")}
    monkeypatch.setattr("segdistill.experiment.shrink.claimed_rung", lambda _: None)
    refused = shrink(table, out, margin=1e-6)
    assert "was changed afterwards, so this is exploratory. What was trained stays in" in refused.failed
    assert refused.model_file is None
    assert not (out / "model.onnx").exists()
    again = ShrinkRecord.read(out)
    assert again == refused.record
    assert [rung.ms for rung in again.rungs] == [rung.ms for rung in record.rungs]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match="other networks, images or effort"):
        shrink(table, out, set=FIT | {"data.size": 48})


@pytest.mark.slow
def test_a_budget_leaves_the_others_or_is_refused_before_training(table: Path, tmp_path: Path) -> None:
    measured = measure_rungs(LADDER, DataRecipe(size=32, channels=1))
    assert {rung.name for rung in measured} == {"wide", "narrow"}
    assert measured[0].ms >= measured[1].ms
    sizes = {rung.name: rung.mb for rung in measured}
    assert sizes["narrow"] < sizes["wide"]
    limit = (sizes["narrow"] + sizes["wide"]) / 2
    assert {rung.name: bool(over_budget(rung, None, limit)) for rung in measured} == {
        "wide": True,
        "narrow": False,
    }
    with pytest.raises(InputError, match=r"no network meets --max-ms 1e-06: the fastest, \w+, takes \d"):
        shrink(table, tmp_path / "out", max_ms=1e-6)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--margin", "0"),
            "margin is 0: it is the accepted loss in Dice: give a number above 0 and below 1",
        ),
        (("--max-mb", "-1"), "max_mb is -1: give a number above 0, or leave it out"),
        (("--test", "2"), "test is 2: it is a share of the cases: give a number above 0 and below 1"),
        (("--folds", "1"), "folds is 1: use at least 2"),
        (("--effort", "quik"), "effort is 'quik': did you mean 'quick'?"),
        (("--rungs", "enet"), "rungs: enet: a ladder needs at least two networks"),
        (("--rungs", "enet,enet"), "rungs: enet is there twice: give each network once"),
        (("--rungs", "enet,unett"), "unknown network 'unett': did you mean 'unet'"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, table: Path, words: tuple[str, ...], line: str) -> None:
    out = tmp_path / "out"
    answer = command("shrink", "--data", table, "--out", out, *words, "--set", "size=32")
    assert answer.code == 2
    assert line in answer.line
    assert not out.exists()


def test_another_folder_is_not_touched(table: Path, tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="holds a run of another command"):
        shrink(table, tmp_path)


def test_a_teacher_that_cannot_be_used_is_refused_before_networks_are_measured(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdistill.experiment.shrink.measure_rungs", None)
    (tmp_path / "text.onnx").write_text("no network")
    save(tmp_path / "others" / "x.png", noise(0))
    for teacher, words in (
        (tmp_path / "others", "holds no prediction of any of the"),
        (tmp_path / "text.onnx", "text.onnx"),
        ({"onnx": "none.onnx"}, "onnx: no such file"),
    ):
        with pytest.raises(InputError, match=words):
            shrink(table, tmp_path / "out", teacher=teacher)
    assert not (tmp_path / "out").exists()


def test_of_a_teacher_with_several_classes_the_call_chooses(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `outside` of distill: what an entry of teachers states."""

    def measure(*_: object) -> None:
        raise InputError("the teacher can be used")

    monkeypatch.setattr("segdistill.experiment.shrink.measure_rungs", measure)
    (tmp_path / "classes").mkdir()
    for path in (table.parent / "predicted").iterdir():
        labels = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        labels[::2] *= 2
        Image.fromarray(labels).save(tmp_path / "classes" / path.name)
    words = ("shrink", "--data", table, "--rungs", "simplified_unet,lite_unet/tiny", "--set", "size=32")
    refused = command(*words, "--out", tmp_path / "out", "--teacher", tmp_path / "classes")
    assert refused.code == 2
    assert "foreground: [1]" in refused.line
    stated = f"{{predictions: {tmp_path / 'classes'}, foreground: [1, 2]}}"
    taken = command(*words, "--out", tmp_path / "out", "--teacher", stated)
    assert taken.line == "the teacher can be used"


def test_a_run_of_other_data_has_trained_on_none_of_the_cases(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = tiny_run(tmp_path_factory)
    own = read_cases(run / "cases.csv")
    call: Any = SimpleNamespace(teacher=run, folder=tmp_path / "out", plugins=())
    call.folder.mkdir()

    def outside(cases: list[Case]) -> tuple[str, set[str], list[str]]:
        told: list[str] = []
        entry, seen = _outside(call, cases, told.append)
        assert entry is not None
        return entry["trained_on"], set(seen), told

    others = [
        Case(case.id, save(tmp_path / f"{k}.png", noise(k)), split="train") for k, case in enumerate(own)
    ]
    line = f"the teacher's run was trained on none of the {len(own)} cases: trained_on: none"
    assert outside(others) == ("none", set(), [line])  # one id is not one image

    trained = {case.id for case in own if case.split in ("train", "val")}
    ids, seen, told = outside(own)
    assert (set(Path(ids).read_text().split()), told) == (trained, [])
    assert trained <= seen
    renamed = [replace(case, id=f"new-{case.id}") for case in own]
    assert {f"new-{name}" for name in trained} <= outside(renamed)[1]  # one image under another id
    lost = [replace(case, image=tmp_path / "lost.png") for case in own]
    assert outside(lost)[1] == trained  # ids alone, where images cannot be compared
    assert outside([replace(case, split="test") for case in own])[0] == "none"
