"""What `segdistill evaluate -o` leaves: the report of one model on one table, checked against files of the run."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from segdistill.data.table import read_cases, write_cases
from segdistill.records import Weights
from segdistill.runtime.model_file import read_info
from segdistill.stats.text import amount, quantity
from tests.experiment.tiny import segdistill, snapshot, surroundings


def text(report: Path) -> str:
    """The words of a page, without pictures, charts, styles and script."""
    page = re.sub(r"<(style|script|svg).*?</\1>", " ", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def settings(report: Path) -> str:
    found = re.search(r"<pre>(.*?)</pre>", report.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found is not None
    return unescape(found[1])


def counted(table: Path, split: str) -> int:
    with open(table, newline="") as file:
        return sum(row["split"] == split for row in csv.DictReader(file))


def evaluate(model: object, table: Path, out: Path, *words: str) -> str:
    done = segdistill("evaluate", model, table, "-o", out, *words)
    assert done.code == 0, done.err
    return text(out / "report.html")


def test_a_model_file(run_folder: Path, tmp_path: Path) -> None:
    model, table = run_folder / "model.onnx", run_folder / "cases.csv"
    page = evaluate(model, table, tmp_path / "out")
    cost = json.loads((run_folder / "stages" / "student" / "evaluation.json").read_text())["cost"]
    assert f"{quantity(model.stat().st_size / 2**20, 'MB')} (of the model file)" in page
    assert f"Weights judged: {Weights(**read_info(model).provenance['weights'])}." in page
    assert f"{cost['parameters']:,}" in page
    assert f"{amount(cost['macs'], 'MAC')} at 1x32x32" in page
    assert re.search(r"[\d.]+ ms ONNX Runtime, batch 1", page)
    assert "stage student of recipe tiny, distilled from teacher" in page
    assert read_info(model).provenance["weights_sha256"] in settings(tmp_path / "out" / "report.html")
    assert "All cases " + " ".join(str(counted(table, s)) for s in ("train", "val", "test")) in page
    assert "Leaks between splits none found" in page
    assert "Network trained on this table" in page
    assert "onnxruntime" in page
    for absent in ("Training curves", "biased", "is not known.", "not checked"):
        assert absent not in page, absent


def test_a_stage_has_what_the_report_of_its_run_has(run_folder: Path, tmp_path: Path) -> None:
    page = evaluate(run_folder, run_folder / "cases.csv", tmp_path / "out", "--stage", "teacher")
    evaluated = json.loads((run_folder / "stages" / "teacher" / "evaluation.json").read_text())
    cost, dice = evaluated["cost"], evaluated["summary"]["all"]["dice"]["mean"]
    assert f"{cost['parameters']:,}" in page
    assert f"{quantity(cost['ms'], 'ms')} torch, float32, batch 1" in page
    assert f"{dice:.3f}" in page
    assert settings(tmp_path / "out" / "report.html") == settings(run_folder / "report.html")
    charts = (tmp_path / "out" / "report.html").read_text()
    for chart in ("Loss", "Validation Dice", "Learning rate"):
        assert f'aria-label="{chart} of teacher"' in charts
    assert f"Weights judged: {Weights(**evaluated['weights'])}." in page
    assert "lightning-fabric" in page
    assert "Did distillation help?" not in page


def test_a_run_without_its_recipe_can_still_be_evaluated(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (run / "recipe.yaml").unlink()
    facts = json.loads((run / "run.json").read_text())
    del facts["settings"]
    (run / "run.json").write_text(json.dumps(facts))
    assert "The recipe was not recorded." in evaluate(run, run / "cases.csv", tmp_path / "a")
    (run / "run.json").unlink()
    (run / "recipe.yaml").unlink(missing_ok=True)
    evaluate(run, run / "cases.csv", tmp_path / "b", "--stage", "student")


def test_leaks_and_near_duplicates_of_the_table(run_folder: Path, tmp_path: Path) -> None:
    cases = read_cases(run_folder / "cases.csv")
    tested, trained = (next(c for c in cases if c.split == split and c.masks) for split in ("test", "train"))
    copied = tmp_path / "copied.png"
    shutil.copy(tested.image, copied)
    leaking = [replace(c, image=copied, masks=tested.masks) if c is trained else c for c in cases]
    write_cases(leaking, tmp_path / "cases.csv")
    page = evaluate(run_folder / "model.onnx", tmp_path / "cases.csv", tmp_path / "out")
    assert "Leaks between splits: 1 identical pixels in" in page
    assert "copied.png" in page
    assert f"{tested.image}" in page
    assert "1 leaks between the splits: scores are optimistically biased." in page
    assert "Near-duplicates: 1" in page
    assert "another table, hash" in page
    assert "Whether the network was trained on any of these cases is not known." in page


def test_cases_that_were_trained_on_are_told_first(run_folder: Path, tmp_path: Path) -> None:
    words = "Cases that the network was trained on are among these"
    page = evaluate(run_folder / "model.onnx", run_folder / "cases.csv", tmp_path / "out", "--split", "all")
    assert page.index(words) < page.index("Results")
    assert "Evaluated on all cases" in page


def test_a_table_without_splits(run_folder: Path, tmp_path: Path) -> None:
    cases = [replace(case, split="") for case in read_cases(run_folder / "cases.csv")]
    write_cases(cases, tmp_path / "cases.csv")
    page = evaluate(run_folder / "model.onnx", tmp_path / "cases.csv", tmp_path / "out")
    assert "nothing to compare: all cases are of one split" in page
    assert "none in the case table" in page
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["split"] == "all"


def test_cases_without_a_mask_are_told(run_folder: Path, tmp_path: Path) -> None:
    test = [case for case in read_cases(run_folder / "cases.csv") if case.split == "test" and case.masks]
    write_cases(
        [*test[:-2], *(replace(case, masks=(), label="") for case in test[-2:])], tmp_path / "cases.csv"
    )
    done = segdistill("evaluate", run_folder / "model.onnx", tmp_path / "cases.csv", "--split", "all")
    assert done.code == 0, done.err
    assert "2 cases without mask are not evaluated" in done.err


def test_files_that_cannot_be_read_are_findings(run_folder: Path, tmp_path: Path) -> None:
    """A damaged test image fails; a training image that is not there does no harm."""
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    cases = read_cases(run / "cases.csv")
    chosen = {split: next(c for c in cases if c.split == split and c.masks) for split in ("train", "test")}
    for split, content in (("train", None), ("test", b"no picture")):
        moved = tmp_path / f"{split}.png"
        if content is not None:
            moved.write_bytes(content)
        cases[cases.index(chosen[split])] = replace(chosen[split], image=moved)
    write_cases(cases, run / "cases.csv")
    done = segdistill("evaluate", run / "model.onnx", run / "cases.csv", "-o", tmp_path / "out")
    assert done.code == 4
    page = text(tmp_path / "out" / "report.html")
    assert "Findings of the data check: 2" in page
    assert "train.png: no such file" in page
    assert "test.png: is not a PNG" in page
    assert "Cases that could not be evaluated: 1." in page


@pytest.mark.parametrize("place", ["", "stages/student"])
def test_results_of_a_run_are_never_replaced(place: str, run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    before = snapshot(tmp_path)
    done = segdistill("evaluate", run, run / "cases.csv", "-o", run / place)
    assert done.code == 2
    assert "would be replaced, and it is not of an evaluation" in done.line
    assert snapshot(tmp_path) == before
    for _ in range(2):  # its own results it may replace
        evaluate(run / "model.onnx", run / "cases.csv", tmp_path / "out")


def test_a_model_file_needs_no_torch(run_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from segdistill.cli.main import main\n"
        "sys.argv = ['segdistill', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'lightning_fabric', 'onnx'} & set(sys.modules)), file=sys.stderr)\n"
    )
    words = ["evaluate", run_folder / "model.onnx", run_folder / "cases.csv", "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=surroundings()
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert (tmp_path / "out" / "report.html").exists()
