"""Tables from elsewhere: tested on, never trained on; in records, verdicts and reports. And tables without tests."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.table import write_cases
from segdistill.experiment.compare import compare
from segdistill.files import sha256_file
from segdistill.metrics.cases import write_metrics_csv
from segdistill.records import EvaluationRecord, RunRecord, TableRecord
from segdistill.training.loop import WEIGHTS
from tests.experiment.made_runs import scores, write_run
from tests.experiment.tiny import RECIPE, segdistill, snapshot, write_recipe

STAGES = RECIPE["stages"] | {"baseline": {"model": RECIPE["stages"]["student"]["model"]}}
DATA = {"size": 32, "channels": 1}
FIT = RECIPE["fit"] | {"epochs": 1}


def recipe(folder: Path, **changes: Any) -> Path:
    data = DATA | {"table": "home/cases.csv"}
    return write_recipe(folder, **{"stages": STAGES, "fit": FIT, "data": data, "export": None, **changes})


def run(path: Path, folder: Path, *words: object) -> Any:
    return segdistill("run", path, "--device", "cpu", "--out", folder, *words)


def write_home(folder: Path, tested: bool = True) -> list[Case]:
    """Twelve cases of which two are validated on, and three tested on."""
    cases = write_phantom(folder / "home", 12, size=32)
    splits = ["test" if tested else "train"] * 3 + ["val"] * 2 + ["train"] * 7
    divided = [replace(case, split=split) for case, split in zip(cases, splits, strict=True)]
    write_cases(divided, folder / "home" / "cases.csv")
    return divided


def write_clinic(folder: Path, copied: Case) -> Path:
    """Six cases of another size: one without a mask, one with a copy of `copied` instead of its own image."""
    cases = write_phantom(folder / "clinic", 6, size=48, seed=5)
    for mine, theirs in zip((cases[1].image, *cases[1].masks), (copied.image, *copied.masks), strict=True):
        shutil.copy(theirs, mine)
    cases[0] = replace(cases[0], masks=(), label="")
    write_cases(cases, folder / "clinic" / "cases.csv")
    return folder / "clinic" / "cases.csv"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any, dict[str, str]]:
    """A run, continued with a table from elsewhere: recipe, folder, what the second call told, first weights."""
    base = tmp_path_factory.mktemp("external")
    home = write_home(base)
    write_clinic(base, home[-1])
    folder = base / "runs" / "tiny"
    assert run(recipe(base), folder).code == 0
    weights = {name: sha256_file(folder / "stages" / name / WEIGHTS) for name in STAGES}
    answer = run(recipe(base, external={"clinic": "clinic/cases.csv"}), folder)
    assert answer.code == 0, answer.err
    return base / "tiny.yaml", folder, answer, weights


def test_every_stage_is_tested_on_it_and_none_is_trained_again(
    finished: tuple[Path, Path, Any, dict[str, str]],
) -> None:
    path, folder, answer, weights = finished
    assert {name: sha256_file(folder / "stages" / name / WEIGHTS) for name in STAGES} == weights
    assert answer.err.count("finished before, nothing changed") == 3
    assert "external table 'clinic': 6 cases, 1 without reference, which are skipped" in answer.err
    table = path.parent / "clinic" / "cases.csv"
    for name in STAGES:
        place = folder / "stages" / name / "external" / "clinic"
        record = EvaluationRecord.read(place)
        assert record is not None
        assert (record.cases, len(record.skipped)) == (5, 1)
        own = segdistill("evaluate", folder, table, "--stage", name, "--split", "all", "--json")
        assert json.loads(own.out)["summary"]["all"]["dice"]["mean"] == record.summary.all["dice"].mean
        assert f"{name} at clinic" in answer.out


def test_copies_of_training_images_are_told_and_counted(
    finished: tuple[Path, Path, Any, dict[str, str]],
) -> None:
    path, folder, answer, _ = finished
    record = RunRecord.read(folder)
    assert record is not None
    (copy,) = record.external["clinic"].copies
    assert copy.startswith("identical pixels: ")
    assert str(path.parent / "clinic") in copy
    assert "(train)" in copy
    assert "warning: external table 'clinic': 1 copies of training or validation images" in answer.err
    assert "copies of training or validation images" in (folder / "model_card.md").read_text()


def test_the_report_begins_with_the_gain_at_home_and_elsewhere(
    finished: tuple[Path, Path, Any, dict[str, str]],
) -> None:
    _, folder, _, _ = finished
    record, page = RunRecord.read(folder), (folder / "report.html").read_text()
    assert record is not None
    (verdict,) = record.external["clinic"].verdicts
    assert (verdict["variant"], verdict["baseline"], verdict["tested_on"]) == (
        "student",
        "baseline",
        "clinic",
    )
    rows = {}
    for name in ("student", "baseline"):
        with open(folder / "stages" / name / "external" / "clinic" / "metrics.csv", newline="") as file:
            rows[name] = {r["case"]: float(r["dice"]) for r in csv.DictReader(file) if r["label"] != "normal"}
    gains = [rows["student"][case] - rows["baseline"][case] for case in rows["student"]]
    assert verdict["difference"]["mean"] == pytest.approx(statistics.fmean(gains))
    head = page[: page.index("<nav>")]
    assert "At home “student” minus “baseline” is " in head
    assert "; at clinic “student” minus “baseline” is " in head
    assert "Against baseline at clinic" in page
    assert 'id="external"' in page
    assert all(verdict["tested_on"] == "" for verdict in record.verdicts)


def test_the_report_keeps_what_was_expected(finished: tuple[Path, Path, Any, dict[str, str]]) -> None:
    """All masks, and one teacher that has seen them: not likely to help."""
    page = (finished[1] / "report.html").read_text()
    lead = page[page.index('<p class="lead">') :]
    assert lead.startswith('<p class="lead">Distillation was not expected to help: ')
    assert "; outcome: " in lead[: lead.index("</p>")]
    assert "Expected before training" in page


@pytest.mark.slow
def test_evaluations_stand_and_workers_make_those_that_are_missing(
    finished: tuple[Path, Path, Any, dict[str, str]],
) -> None:
    path, folder, _, _ = finished
    places = [folder / "stages" / name / "external" / "clinic" / "evaluation.json" for name in STAGES]
    before = [(place.read_bytes(), place.stat().st_mtime_ns) for place in places]
    shutil.rmtree(places[0].parent)
    answer = run(path, folder, "--jobs", 2)
    assert answer.code == 0, answer.err
    assert "evaluating teacher at clinic" in answer.err
    assert "evaluating student at clinic" not in answer.err
    assert places[0].read_bytes() == before[0][0]
    assert [place.stat().st_mtime_ns for place in places[1:]] == [time for _, time in before[1:]]


def test_a_file_that_changes_is_refused_like_those_of_the_run(
    finished: tuple[Path, Path, Any, dict[str, str]],
) -> None:
    path, folder, _, _ = finished
    image, other = (path.parent / "clinic" / "images" / f"phantom_000{k}.png" for k in (3, 4))
    kept = image.read_bytes()
    image.write_bytes(other.read_bytes())
    try:
        answer = run(path, folder)
    finally:
        image.write_bytes(kept)
    assert answer.code == 2
    assert "have changed since this run began" in answer.line
    assert image.name in answer.line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("absent", "external table 'clinic': no such case table or folder: "),
        ("bare", "external table 'clinic': {table} has no case with a reference"),
        ("broken", "external table 'clinic': {image}"),
        ("name", "external: 'a/b' cannot name the folder of an external table"),
        ("list", "external: Input should be a valid dictionary"),
    ],
)
def test_bad_tables_are_refused_before_anything_is_trained(damage: str, message: str, tmp_path: Path) -> None:
    write_home(tmp_path)
    cases = write_phantom(tmp_path / "clinic", 3, size=32, seed=5)
    table = tmp_path / "clinic" / "cases.csv"
    external: Any = {"clinic": "clinic/cases.csv"}
    if damage == "absent":
        external = {"clinic": "nowhere.csv"}
    elif damage == "bare":
        write_cases([replace(case, masks=(), label="") for case in cases], table)
    elif damage == "broken":
        cases[1].image.write_bytes(b"no picture")
    else:
        external = {"a/b": "clinic/cases.csv"} if damage == "name" else ["clinic/cases.csv"]
    path = recipe(tmp_path, external=external)
    before = snapshot(tmp_path)
    for words in ((), ("--set", "folds=2")):
        answer = run(path, tmp_path / "run", *words)
        assert answer.code == 2
        assert message.format(table=table, image=cases[1].image) in answer.line
        assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_the_network_of_every_fold_is_tested_on_the_whole_table(tmp_path: Path) -> None:
    home = write_home(tmp_path)
    write_cases([replace(case, label="") for case in home if case.masks], tmp_path / "home" / "cases.csv")
    write_clinic(tmp_path, home[0])
    path = recipe(tmp_path, folds=2)
    folder = tmp_path / "runs" / "tiny"
    table = tmp_path / "clinic" / "cases.csv"
    answer = run(path, folder, "--set", f"external={{clinic: {table}}}", "--json")
    assert answer.code == 0, answer.err
    found = json.loads((folder / "folds.json").read_text())["external"]["clinic"]
    dice: dict[str, dict[str, list[float]]] = {}
    for fold in (1, 2):
        for name in STAGES:
            place = folder / f"fold-{fold}" / "stages" / name / "external" / "clinic" / "metrics.csv"
            with open(place, newline="") as file:
                for row in csv.DictReader(file):
                    if row["label"] != "normal":
                        by_case = dice.setdefault(name, {})
                        by_case.setdefault(row["case"], []).append(float(row["dice"]))
    assert {len(values) for by_case in dice.values() for values in by_case.values()} == {2}
    for name, by_case in dice.items():
        summary = found["stages"][name]["summary"]["all"]["dice"]
        assert summary["mean"] == pytest.approx(statistics.fmean(map(statistics.fmean, by_case.values())))
        assert summary["n"] == len(by_case)
    (verdict,) = found["verdicts"]
    gains = [
        statistics.fmean(dice["student"][case]) - statistics.fmean(dice["baseline"][case])
        for case in dice["student"]
    ]
    assert verdict["difference"]["mean"] == pytest.approx(statistics.fmean(gains))
    assert (verdict["difference"]["n"], verdict["seeds"], verdict["folds"]) == (len(gains), 2, 1)
    assert json.loads(answer.out)["external"]["clinic"]["stages"]["student"]["line"].startswith("Dice 0.")
    page = (folder / "report.html").read_text()
    assert "Tables from elsewhere, without fine-tuning" in page
    assert "Against baseline at clinic" in page


def test_a_table_without_test_cases_trains_and_the_report_says_so(tmp_path: Path) -> None:
    home = write_home(tmp_path, tested=False)
    write_clinic(tmp_path, home[-1])
    folder = tmp_path / "runs" / "tiny"
    path = recipe(tmp_path, external={"clinic": "clinic/cases.csv"}, export="student")
    answer = run(path, folder)
    assert answer.code == 0, answer.err
    assert "as given in the case table; it has no test cases: nothing is tested" in answer.err
    assert "nothing was tested: the case table has no test cases" in answer.out
    page = (folder / "report.html").read_text()
    head = page[: page.index("<nav>")]
    assert "Nothing was tested: the case table has no test cases." in head
    assert "At home nothing was tested; at clinic “student” minus “baseline” is " in head
    assert "No student without teachers was trained" not in page
    card = (folder / "model_card.md").read_text()
    assert "Nothing was tested: the case table has no test cases." in card
    record = EvaluationRecord.read(folder / "stages" / "student")
    assert record is not None
    assert (record.cases, record.summary.all["dice"].mean) == (0, None)
    kept = json.loads((folder / "model.json").read_text())["agreement"]
    assert kept["cases"] == 12  # compared with torch on other images
    assert kept["differing_pixels"] == 0
    alone = compare(folder)
    assert not alone.verdicts
    assert [verdict.tested_on for verdict in alone.external["clinic"]] == ["clinic"]


def write_elsewhere(folder: Path, name: str, content: str, lifts: dict[str, float]) -> None:
    """A table from elsewhere in a made run: results of its stages, and its hash."""
    for stage, lift in lifts.items():
        place = folder / "stages" / stage / "external" / name
        place.mkdir(parents=True)
        write_metrics_csv(scores(f"{stage} {folder.name}", lift, 10, prefix="e"), place / "metrics.csv")
    record = RunRecord.read(folder)
    assert record is not None
    replace(record, external={name: TableRecord(content, 10)}).write(folder)


@pytest.mark.parametrize("same", [True, False])
def test_runs_are_compared_where_they_have_the_same_table(same: bool, tmp_path: Path) -> None:
    lifts = {"student": 0.05, "baseline": 0.0}
    stages = {"student": {"lift": 0.0, "role": "student"}, "baseline": {"role": "baseline"}}
    for seed in (0, 1):
        folder = write_run(tmp_path / str(seed), stages, seed)
        # the same content under another name
        write_elsewhere(folder, f"clinic{seed}", "9f2" if same or not seed else "other", lifts)
    found = compare([tmp_path / "0", tmp_path / "1"], out=tmp_path / "out")
    assert len(found.verdicts) == 1
    assert list(found.external) == (["clinic0"] if same else [])
    with open(tmp_path / "out" / "comparison.csv", newline="") as file:
        assert [row["tested_on"] for row in csv.DictReader(file)] == (["", "clinic0"] if same else [""])
    if same:
        (verdict,) = found.external["clinic0"]
        assert verdict.seeds == 2
        assert verdict.difference.mean == pytest.approx(0.05, abs=0.01)
        assert "at clinic0:" in segdistill("compare", tmp_path / "0", tmp_path / "1").out
