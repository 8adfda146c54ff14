"""A run from recipe to report: what it leaves, what it skips, what it refuses."""

from __future__ import annotations

import csv
import html
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from safetensors.torch import load_file, save_file

from segdistill.config.load import load_recipe
from segdistill.data.phantom import write_phantom
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.environment import differences, environment
from segdistill.experiment.events import Event
from segdistill.experiment.folder import LOCK
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.experiment.stage import load_stage
from segdistill.files import sha256_file
from segdistill.training.curves import read_curves
from segdistill.training.loop import STATE, WEIGHTS
from tests.experiment.tiny import RECIPE, record_of, segdistill, snapshot, write_recipe

LEFT = (
    "report.html",
    "model.onnx",
    "model_card.md",
    "applied_model_card.xml",
    "environment.json",
    "recipe.yaml",
    "cases.csv",
    "files.json",
    "run.json",
    *(f"stages/{stage}/{name}" for stage in ("teacher", "student")
      for name in ("metrics.csv", "curves.csv", "evaluation.json", "stage.json", WEIGHTS)),
)  # fmt: skip


def run(folder: Path, recipe: Path, *changes: str, data: Path | None = None) -> list[str]:
    """Texts of the messages of a run in this process."""
    events = run_recipe(load_recipe(str(recipe), list(changes)), data, folder, Machine("cpu"))
    return [event.text for event in events if event.finished]


def trained(texts: list[str]) -> list[str]:
    """Stages that were trained, not skipped."""
    return [text.removeprefix("stage ") for text in texts if text.startswith("stage ") and ":" not in text]


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    shutil.copytree(run_folder.parent, tmp_path / "runs")
    write_recipe(tmp_path)
    return tmp_path / "runs" / run_folder.name


def test_the_plan_counts_what_another_setting_trains_again(copy: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, plan=True)

    def planned(*changes: str) -> list[str]:
        return [
            text.split()[2].rstrip(":")
            for text in run(copy, recipe, *changes)
            if text.startswith("plan: stage")
        ]

    assert planned() == []
    assert planned("stages.student.fit.epochs=1") == ["student"]
    assert planned("stages.teacher.fit.epochs=1") == ["teacher", "student"]


def test_what_a_run_leaves(run_folder: Path) -> None:
    assert [name for name in LEFT if not (run_folder / name).is_file()] == []
    assert not list(run_folder.rglob(f"*/{STATE}"))
    assert [path.name for path in run_folder.rglob(".*")] in ([], [".lock"]), "temporary files are left"
    for stage in ("teacher", "student"):
        assert list((run_folder / "stages" / stage / "tensorboard").glob("events.*"))
        with open(run_folder / "stages" / stage / "metrics.csv", newline="") as file:
            tested = {row["case"] for row in csv.DictReader(file)}
        assert tested == {case.id for case in read_cases(run_folder / "cases.csv") if case.split == "test"}
    assert json.loads((run_folder / "run.json").read_text())["stages"] == ["teacher", "student"]
    assert json.loads((run_folder / "environment.json").read_text())["precision"] == "32-true"
    assert "<html" in (run_folder / "report.html").read_text()
    assert load_recipe(str(run_folder / "recipe.yaml")) == load_recipe(
        str(run_folder.parent.parent / "tiny.yaml")
    )


def test_the_report_shows_what_the_recipe_sets_and_names_the_file_with_all(run_folder: Path) -> None:
    report, whole = (run_folder / "report.html").read_text(), (run_folder / "recipe.yaml").read_text()
    shown = yaml.safe_load(html.unescape(report.split("<pre>")[1].split("</pre>")[0]))
    assert shown == RECIPE
    for default in ("warm_up", "hard_weight", "clip_norm"):
        assert default in whole
        assert f"{default}:" not in report
    assert "<code>recipe.yaml</code>" in report


def test_nothing_is_done_twice(copy: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns
        for path in copy.rglob("*")
        if path.suffix in (".onnx", ".safetensors", ".csv")
    }
    texts = run(copy, copy.parent.parent / "tiny.yaml")
    assert trained(texts) == []
    assert not any(text.startswith("evaluating") for text in texts)
    unchanged = [path for path, time in before.items() if path.stat().st_mtime_ns == time]
    assert copy / "model.onnx" in unchanged
    assert len([path for path in unchanged if path.suffix == ".safetensors"]) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("stages.student.about=other words", "stages.teacher.role=baseline"), []),
        (("fit.workers=1", "fit.checkpoint_seconds=9"), []),
        (("stages.student.hard_weight=0.5",), ["student"]),
        (("stages.teacher.fit={epochs: 1}",), ["teacher", "student"]),
        (("seed=3",), ["teacher", "student"]),
    ],
)
@pytest.mark.usefixtures("brief")
def test_what_changed_is_trained_again(copy: Path, changes: tuple[str, ...], expected: list[str]) -> None:
    assert trained(run(copy, copy.parent.parent / "tiny.yaml", *changes)) == expected
    assert trained(run(copy, copy.parent.parent / "tiny.yaml", *changes)) == []


@pytest.mark.usefixtures("brief")
def test_other_pixels_or_a_damaged_teacher_are_trained_again(copy: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    table = tmp_path / "own" / "cases.csv"
    write_phantom(table.parent, 30, size=32)
    assert trained(run(copy, recipe, data=table)) == []  # the same pixels and references, from elsewhere
    test_case = next(
        case for case in read_cases(copy / "cases.csv") if case.split == "test" and case.label == "benign"
    )
    mask = table.parent / "masks" / test_case.masks[0].name
    shutil.copy(table.parent / "masks" / "phantom_0002.png", mask)
    before = (copy / "stages" / "student" / "metrics.csv").read_bytes()
    with pytest.raises(
        InputError, match=rf"changed since this run began: 1: {re.escape(str(mask))}: .*--out"
    ):
        run(copy, recipe, data=table)
    assert (copy / "stages" / "student" / "metrics.csv").read_bytes() == before
    shutil.copytree(table.parent, tmp_path / "other")
    table = tmp_path / "other" / "cases.csv"
    assert trained(run(copy, recipe, data=table)) == ["teacher", "student"]
    assert (copy / "stages" / "student" / "metrics.csv").read_bytes() != before
    weights = copy / "stages" / "teacher" / WEIGHTS
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-8] + b"\0" * 8)
    assert trained(run(copy, recipe, data=table)) == ["teacher"]  # and as the same weights come out, no more
    assert weights.read_bytes() == sound


def test_pictures_that_change_while_it_trains_end_the_run_before_it_evaluates(tmp_path: Path) -> None:
    recipe, folder = write_recipe(tmp_path), tmp_path / "r"
    cases = write_phantom(tmp_path / "own", 30, size=32)
    picture = cases[0].image
    before, status = picture.read_bytes(), picture.stat()
    events = run_recipe(load_recipe(str(recipe)), tmp_path / "own" / "cases.csv", folder, Machine("cpu"))
    for event in events:
        if event.text.startswith("stage teacher"):
            break
    stated = json.loads((folder / "run.json").read_text())["data_hash"]
    other = bytearray(before)
    other[-1] ^= 1  # neither its size nor its time tells
    picture.write_bytes(other)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    cases[1].masks[0].unlink()
    words = rf"changed since this run began: 2: .*{re.escape(picture.name)}, .*: restore them"
    with pytest.raises(InputError, match=words):
        list(events)
    assert json.loads((folder / "run.json").read_text())["data_hash"] == stated
    assert not (folder / "model.onnx").exists()
    assert not list(folder.rglob("evaluation.json"))


@pytest.mark.usefixtures("brief")
def test_earlier_stages_stay_in_the_report_while_they_answer_the_recipe(copy: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tmp_path / "tiny.yaml"))
    list(run_recipe(recipe, None, copy, Machine("cpu"), ["teacher"]))
    assert json.loads((copy / "run.json").read_text())["stages"] == ["teacher", "student"]
    other = load_recipe(str(tmp_path / "tiny.yaml"), ["stages.teacher.fit={epochs: 1}"])
    list(run_recipe(other, None, copy, Machine("cpu"), ["teacher"]))
    assert json.loads((copy / "run.json").read_text())["stages"] == ["teacher"]


@pytest.mark.usefixtures("brief")
def test_a_kill_between_the_last_step_and_its_record_costs_nothing(copy: Path, tmp_path: Path) -> None:
    stage = copy / "stages" / "teacher"
    expected = sha256_file(stage / WEIGHTS)
    replace(record_of(stage), weights_sha256="", weights=None).write(stage)
    (stage / ".training_state.pt.abcd_123.pt").write_bytes(b"half")
    assert trained(run(copy, tmp_path / "tiny.yaml")) == []
    assert record_of(stage).weights_sha256 == expected
    assert not list(stage.glob(".*"))


@pytest.mark.usefixtures("brief")
def test_an_interrupted_run_goes_on(run_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path)))
    folder = tmp_path / "runs" / "tiny"
    for stop in (3, 4, 5):  # steps of each attempt; a checkpoint is written after every step
        taken = 0
        events = run_recipe(recipe, None, folder, Machine("cpu"))
        for event in events:
            taken += event.total > 0
            if taken == stop:
                break
        events.close()  # type: ignore[attr-defined]
    list(run_recipe(recipe, None, folder, Machine("cpu")))
    for stage in ("teacher", "student"):
        assert sha256_file(folder / "stages" / stage / WEIGHTS) == sha256_file(
            run_folder / "stages" / stage / WEIGHTS
        )


@pytest.mark.usefixtures("brief")
def test_curves_are_read_once_a_stage_and_hold_what_an_earlier_call_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[list[float]] = []
    read: list[Path] = []

    def look(rows: list[dict[str, float]]) -> list[str]:
        looked.append([row["epoch"] for row in rows])
        return []

    def read_once(path: Path) -> list[dict[str, float]]:
        read.append(path)
        return read_curves(path)

    monkeypatch.setattr("segdistill.experiment.work.new_warnings", look)
    monkeypatch.setattr("segdistill.experiment.work.read_curves", read_once)
    fit = RECIPE["fit"] | {"epochs": 4}
    recipe = load_recipe(str(write_recipe(tmp_path, fit=fit, export=None)))
    events = run_recipe(recipe, None, tmp_path / "r", Machine("cpu"), ["teacher"])
    for event in events:
        if "epoch 2/4" in event.detail:
            break
    events.close()  # type: ignore[attr-defined]
    assert looked == [[1.0]]
    list(run_recipe(recipe, None, tmp_path / "r", Machine("cpu"), ["teacher"]))
    assert looked[1:] == [[1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]
    assert len(read) == 2


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    with FileLock(folder / LOCK):
        before = snapshot(tmp_path)
        with pytest.raises(InputError, match="another run is writing to"):
            run(folder, recipe)
        assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("brief")
def test_cases_are_looked_at_before_anything_is_trained(tmp_path: Path) -> None:
    table = tmp_path / "data" / "cases.csv"
    write_phantom(table.parent, 30, size=32)
    stages = RECIPE["stages"]
    cyst = stages["student"] | {"labels": ["benign", "cyst"]}
    student = stages["student"] | {
        "routing": "by_class",
        "teachers": {"teacher": {"labels": ["bening"]}},
    }
    recipes: list[tuple[str, Callable[[], Path]]] = [
        ("stage student: no training case with label 'cyst'",
         lambda: write_recipe(tmp_path, stages={**stages, "student": cyst})),
        ("stage student: teacher 'teacher' teaches images labelled bening",
         lambda: write_recipe(tmp_path, stages={**stages, "student": student})),
        ("no case has split 'train'",
         lambda: write_recipe(tmp_path, data=RECIPE["data"] | {"split": {"method": "given"}})),
        ("unknown dataset 'phantm': did you mean 'phantom'",
         lambda: write_recipe(tmp_path, data=RECIPE["data"] | {"dataset": "phantm"})),
    ]  # fmt: skip
    for message, write in recipes:
        recipe = write()
        with pytest.raises(InputError, match=message):
            run(tmp_path / "runs" / "tiny", recipe, data=table)
        left = (
            {path.name for path in (tmp_path / "runs").rglob("*")} if (tmp_path / "runs").exists() else set()
        )
        assert "tiny" not in left
    cases = [case for case in read_cases(table) if case.label == "benign"]
    write_cases(cases, table)
    with pytest.raises(InputError, match="no training case with label 'malignant'"):
        run(tmp_path / "runs" / "tiny", write_recipe(tmp_path), data=table)


def test_weights_of_another_architecture_are_named(copy: Path) -> None:
    weights = copy / "stages" / "student" / WEIGHTS
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    save_file({**tensors, name: tensors[name][:1].contiguous()}, weights)
    with pytest.raises(InputError, match=f"weights of another architecture: 1 tensors differ .{name}"):
        load_stage(weights.parent)
    shutil.copy(copy / "stages" / "teacher" / WEIGHTS, weights)
    with pytest.raises(InputError, match="weights of another architecture"):
        load_stage(weights.parent)
    weights.write_bytes(b"no weights")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_stage(weights.parent)
    for text in ("{}", "[1]", '{"schema_version": 1, "weights_sha256": 1}'):
        (weights.parent / "stage.json").write_text(text)
        with pytest.raises(InputError, match=r"student/stage\.json"):
            load_stage(weights.parent)


def test_a_machine_that_is_not_there() -> None:
    for words in (("tpu",), ("cpu", 0), ("cpu", 1, 0)):
        with pytest.raises(InputError):
            Machine(*words)  # type: ignore[arg-type]


def test_an_event_of_no_length_is_a_message() -> None:
    assert Event("x").finished
    assert not Event("x", 1, 2).finished


def test_evaluation_of_the_model_file_equals_that_of_the_stage(run_folder: Path, tmp_path: Path) -> None:
    table = run_folder / "cases.csv"
    of_stage = segdistill("evaluate", run_folder, table, "--json")
    of_file = segdistill("evaluate", run_folder / "model.onnx", table, "-o", tmp_path / "e", "--json")
    assert (of_stage.code, of_file.code) == (0, 0), of_stage.err + of_file.err
    stage, file = json.loads(of_stage.out), json.loads(of_file.out)
    of_the_stage = {"model": "student", "variant": "student", "seed": 0}
    assert stage == {**file, **of_the_stage}
    kept = json.loads((run_folder / "stages" / "student" / "evaluation.json").read_text())
    assert {"cost", "inputs"} == {name for name, value in kept.items() if stage[name] != value}
    assert (tmp_path / "e" / "metrics.csv").read_bytes() == (
        run_folder / "stages/student/metrics.csv"
    ).read_bytes()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("text", ["{[", "[]", '{"schema_version": 1, "summary": 3}', ""])
def test_a_damaged_evaluation_is_told_and_measured_again(copy: Path, tmp_path: Path, text: str) -> None:
    path = copy / "stages" / "student" / "evaluation.json"
    before = json.loads(path.read_text())
    path.write_text(text)
    texts = run(copy, tmp_path / "tiny.yaml")
    (told,) = [line for line in texts if "evaluation.json" in line]
    assert told.startswith("warning: ")
    assert told.endswith("student is evaluated again")
    assert trained(texts) == []
    after = json.loads(path.read_text())
    assert {name for name in before if after[name] != before[name]} <= {"cost"}


def test_evaluating_a_run_whose_files_have_changed_is_refused(copy: Path) -> None:
    record, table = copy / "files.json", copy / "cases.csv"
    case = next(case for case in read_cases(table) if case.split == "test")
    other = next(case for case in read_cases(table) if case.split == "train")
    known = json.loads(record.read_text())
    record.write_text(json.dumps(known | {"files": known["files"] | {str(other.image): "0" * 64}}))
    assert segdistill("evaluate", copy, "--json").code == 0  # no test case
    record.write_text(json.dumps(known | {"files": known["files"] | {str(case.image): "0" * 64}}))
    refused = segdistill("evaluate", copy)
    assert refused.code == 2
    assert f"changed since this run began: 1: {case.image}: restore" in refused.line
    assert refused.line.endswith(str(table))
    assert segdistill("evaluate", copy, table, "--json").code == 0
    record.write_text("{[")
    damaged = segdistill("evaluate", copy)
    assert damaged.code == 2
    assert "files.json is damaged" in damaged.line


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("changes", [(), ("fit.workers=2",)])
def test_the_same_recipe_twice_is_identical(
    run_folder: Path, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    again = tmp_path / "again"
    assert trained(run(again, write_recipe(tmp_path), *changes)) == ["teacher", "student"]
    for stage in ("teacher", "student"):
        weights = Path("stages", stage, WEIGHTS)
        assert (again / weights).read_bytes() == (run_folder / weights).read_bytes()
        metrics = weights.with_name("metrics.csv")
        assert (again / metrics).read_bytes() == (run_folder / metrics).read_bytes()


def test_threads_stand_in_the_environment(run_folder: Path) -> None:
    before = torch.get_num_threads()
    for place in (run_folder, run_folder / "stages" / "student"):
        assert json.loads((place / "environment.json").read_text())["threads"] == str(before)
    known = environment(torch.device("cpu"), "32-true")
    try:
        torch.set_num_threads(before + 1)
        now = environment(torch.device("cpu"), "32-true")
    finally:
        torch.set_num_threads(before)
    assert differences(known, now) == [f"threads was {before}, is {before + 1}"]
