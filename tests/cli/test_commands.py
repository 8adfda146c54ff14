"""What commands print: results on stdout, progress on stderr, JSON with its documented keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segdistill.cli.listing import LISTS
from segdistill.config.load import bundled_recipes
from segdistill.data.phantom import write_phantom
from segdistill.records import EvaluationRecord, Interval, RunRecord, Summary
from tests.experiment.tiny import process, segdistill

METRICS = {"dice", "iou", "precision", "recall", "accuracy"}


def test_evaluate_as_json(run_folder: Path) -> None:
    answer = segdistill("evaluate", run_folder / "model.onnx", run_folder / "cases.csv", "--json")
    report = EvaluationRecord.from_json(answer.out, "stdout")
    scores = report.summary.all
    assert set(scores) == METRICS
    for score in scores.values():
        assert score.low <= score.mean <= score.high  # type: ignore[operator]
        assert score.n == 4
    assert set(report.summary.classes) == {"benign", "malignant"}
    assert set(report.summary.normal) == {"false_positive_rate", "area"}
    assert (report.model, report.split, report.cases, report.failed) == ("model.onnx", "test", 5, {})
    whole = segdistill("evaluate", run_folder / "model.onnx", run_folder / "cases.csv", "--split", "all")
    assert whole.code == 0
    assert "30 cases" in whole.out


def test_evaluate_takes_the_table_of_the_run_and_all_cases_of_one_without_test(
    run_folder: Path, tmp_path: Path
) -> None:
    own = segdistill("evaluate", run_folder, "--json")
    assert own.code == 0, own.err
    table = segdistill("evaluate", run_folder, run_folder / "cases.csv", "--json")
    assert json.loads(own.out) == json.loads(table.out)
    write_phantom(tmp_path / "own", 4, size=32)
    answer = segdistill("evaluate", run_folder, tmp_path / "own" / "cases.csv", "--json")
    assert json.loads(answer.out)["split"] == "all"
    assert "has no test case: every case is measured" in answer.err
    asked = segdistill("evaluate", run_folder, tmp_path / "own" / "cases.csv", "--split", "test")
    assert asked.line.endswith("has no case in split 'test' (its splits: none): use --split all")


def test_evaluate_lists_cases_that_fail(run_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_phantom(own, 4, size=32)
    (own / "images" / "phantom_0002.png").write_bytes(b"")
    answer = segdistill("evaluate", run_folder / "model.onnx", own / "cases.csv", "--json")
    assert answer.code == 4
    assert list(json.loads(answer.out)["failed"]) == ["phantom_0002"]
    assert answer.err.splitlines()[-1].startswith("segdistill: 1 of 4 cases failed")


def test_version() -> None:
    from segdistill import __version__

    assert segdistill("--version").out == f"segdistill {__version__}\n"


def test_a_stage_has_several_names(run_folder: Path) -> None:
    by_name = [
        segdistill("evaluate", *words, "--json")
        for words in ((run_folder, "--stage", "teacher"), (run_folder / "stages" / "teacher",))
    ]
    assert by_name[0].code == 0
    assert by_name[0].out == by_name[1].out
    unknown = segdistill("evaluate", run_folder, "--stage", "techer")
    assert unknown.code == 2
    assert unknown.line.endswith("has no trained stage 'techer': choose one with --stage: student, teacher")


def test_a_run_on_own_images_with_several_changes_after_one_set(tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_phantom(own, 24, size=32)
    (own / "cases.csv").unlink()
    words = ("run", "distill", "--data", own, "--device", "cpu", "--out", tmp_path / "runs" / "own", "--json")
    small = ("--set", "size=32", "epochs=1", "stages.teacher.model={name: simplified_unet, widths: [2, 4]}",
             "stages.student.model.widths=[2, 4]", "stages.baseline.model.widths=[2, 4]")  # fmt: skip
    answer = segdistill(*words, *small)
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert list(report["stages"]) == ["teacher", "baseline", "student"]
    assert set(report["stages"]["student"]) >= {"summary", "cost", "weights", "line"}
    assert set(report["stages"]["student"]["cost"]) >= {"parameters", "macs", "size_mb", "ms"}
    assert Path(report["model"]).is_file()
    assert Path(report["report"]).is_file()
    for line in answer.err.splitlines():
        assert line.split()[0].rstrip(":") in {
            "Your", "folder", "preparing", "plan", "stage", "evaluating",
            "exporting", "writing", "done", "not", "checking",
        } or "cases" in line, line  # fmt: skip


@pytest.mark.parametrize("kind", LISTS)
def test_lists(kind: str) -> None:
    found = json.loads(segdistill("list", kind, "--json").out)
    assert found
    assert all(about and "\n" not in about for about in found.values())
    lines = segdistill("list", kind).out.splitlines()
    assert len(lines) == len(found)
    assert [line.split()[0] for line in lines] == list(found)
    if kind == "recipes":
        assert set(found) == set(bundled_recipes())


def test_reproduce_before_and_after_a_run(tmp_path: Path) -> None:
    empty = segdistill("reproduce", "lightbtseg", "--runs", tmp_path, "--all")
    rows = empty.out.splitlines()
    assert empty.code == 0
    assert sum("segdistill run lightbtseg/" in row for row in rows) >= 6
    assert "U-Net dice 0.8545 not run not run" in [" ".join(row.split()) for row in rows]
    assert sum(row.startswith("note: the double teacher's recall is .8623") for row in rows) == 1
    run = tmp_path / "lightbtseg" / "busi"
    stage = run / "stages" / "student"
    RunRecord(recipe="lightbtseg/busi", data="BUSI, packed").write(run)
    (run / "recipe.yaml").write_text("data: {dataset: busi, size: 512}")
    scores = {name: Interval(0.8, None, None, 1) for name in METRICS} | {
        "dice": Interval(0.8459, None, None, 1)
    }
    EvaluationRecord(model="student", summary=Summary(scores)).write(stage)
    other = tmp_path / "other" / "run.json"
    other.parent.mkdir()
    other.write_text("{")
    assert f"{other} is damaged" in segdistill("reproduce", "lightbtseg", "--runs", tmp_path).line
    other.unlink()
    tables = json.loads(
        segdistill("reproduce", "lightbtseg", "--runs", tmp_path, "--table", "1", "--json").out
    )
    assert list(tables[0]["sizes"]["paper"]["runs"].values()) == ["lightbtseg/busi (512x512) on busi"]
    assert not tables[0]["sizes"]["cpu"]["runs"]
    by_name = {row["name"]: row for row in tables[0]["rows"]}
    assert by_name["Student"]["ours"]["paper"]["difference"]["dice"] == 0.01
    assert by_name["Student"]["published"]["dice"] == 0.8359
    assert by_name["U-Net"]["ours"]["paper"]["status"] == "not run"
    assert by_name["U-Net"]["ours"]["paper"]["hours"] > 0
    assert by_name["Baseline: the student without teachers (not in the paper)"]["published"] is None
    text = segdistill("reproduce", "lightbtseg", "--runs", tmp_path).out
    assert "+0.0100" in next(row for row in text.splitlines() if row.startswith("Student "))


def test_runs_of_a_derived_recipe_stand_beside_under_their_own_name(tmp_path: Path) -> None:
    for name in ("cpu", "busi"):
        run = tmp_path / "lightbtseg" / name
        scores = Summary({"dice": Interval(0.5, None, None, 1)})
        EvaluationRecord(model="student", summary=scores).write(run / "stages" / "student")
        RunRecord(recipe=f"lightbtseg/{name}", data="BUSI, packed").write(run)
        size = 128 if name == "cpu" else 512
        (run / "recipe.yaml").write_text(
            f"data: {{dataset: busi, size: {size}}}\nstages: {{student: {{}}, student_single: {{}}}}"
        )
    tables = json.loads(
        segdistill("reproduce", "lightbtseg", "--runs", tmp_path, "--table", "3", "--json").out
    )
    found = {size: list(one["runs"].values()) for size, one in tables[0]["sizes"].items()}
    assert found == {
        "paper": ["lightbtseg/busi (512x512) on busi"],
        "cpu": ["lightbtseg/cpu (128x128) on busi"],
    }


def test_a_moved_run_can_still_be_used(run_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "with:colon"
    shutil.copytree(run_folder, moved)
    answer = segdistill("evaluate", moved, moved / "cases.csv", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["cases"] == 5


def test_evaluate_leaves_a_report_of_its_own(run_folder: Path, tmp_path: Path) -> None:
    done = segdistill("evaluate", run_folder / "model.onnx", run_folder / "cases.csv", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.csv",
        "evaluation.json",
        "report.html",
    }
    assert "Evaluation of" in (tmp_path / "out" / "report.html").read_text()


def test_evaluate_without_any_lesion(run_folder: Path, tmp_path: Path) -> None:
    from segdistill.data.case import select
    from segdistill.data.table import read_cases, write_cases

    write_cases(select(read_cases(run_folder / "cases.csv"), labels=["normal"]), tmp_path / "normal.csv")
    done = segdistill("evaluate", run_folder / "model.onnx", tmp_path / "normal.csv", "--split", "all")
    assert done.code == 0, done.err
    assert "normal" in done.out


def test_evaluate_calibration_and_robustness(run_folder: Path, tmp_path: Path) -> None:
    words = ("evaluate", run_folder / "model.onnx", run_folder / "cases.csv", "--calibration", "--robustness")
    answer = segdistill(*words, "--json", "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["calibration"]["all"]["pixels"] == 5 * 32 * 32  # the normal image, too
    assert 0 < found["calibration"]["boundary"]["pixels"] < found["calibration"]["all"]["pixels"]
    assert [(one["kind"], one["score"]["n"]) for one in found["robustness"]] == [
        (kind, 4) for kind, count in (("gamma", 4), ("speckle", 3), ("blur", 3)) for _ in range(count)
    ]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "Reliability diagram" in report
    assert "Dice under speckle" in report
    plain = json.loads(segdistill(*words[:3], "--pooled", "--calibration", "--json").out)
    assert plain["calibration"] == found["calibration"]
    assert set(plain["pooled"]) >= {"auc", "miou"}


def test_help_has_one_whole_line_per_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the 80 columns of a plain terminal, and nothing is cut at 40 either."""
    from segdistill.cli import main

    names = [each.name or each.callback.__name__ for each in main.app.registered_commands if each.callback]
    lines = commands_in_help(monkeypatch, 80)
    assert sorted(line.split()[0] for line in lines) == sorted([*names, "data"])
    assert all(len(line) <= 80 and line.endswith(".") and not line.endswith("...") for line in lines)
    narrow = " ".join(commands_in_help(monkeypatch, 40))
    assert " ".join(narrow.split()) == " ".join(" ".join(lines).split())


def commands_in_help(monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    answer = process("--help")
    assert answer.code == 0, answer.err
    return answer.out.split("Commands:\n")[1].rstrip().splitlines()


def test_one_part_of_a_list() -> None:
    found = json.loads(segdistill("list", "networks", "u2net", "--json").out)
    assert found["source"] == "segdistill.models.u2net"
    assert found["options"]["scale"] == {"type": "full or small or tiny", "default": "full"}
    assert found["facts"]["presets"]["small"] == {"scale": "small"}
    text = segdistill("list", "networks", "u2net").out
    assert "source: segdistill.models.u2net" in text
    assert "  scale        full or small or tiny  default 'full'" in text
    assert "Qin et al. 2020" in text
    assert "437" in segdistill("list", "datasets", "busi").out
    assert segdistill("list", "networks", "u3net").line.startswith(
        "unknown network 'u3net': did you mean 'unet', 'u2net'"
    )
    assert "stages:" in segdistill("list", "recipes", "demo").out
    assert segdistill("list", "recipes", "demp").line == "unknown recipe 'demp': did you mean 'demo'?"
