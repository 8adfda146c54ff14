"""The papers' tables beside ours: figures that fit themselves, and our numbers from the right place."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.errors import InputError
from segdistill.papers.reproduce import compare_with_paper, render
from segdistill.papers.tables import Paper, PaperPart, PaperRow, published_papers, read_paper
from segdistill.records import EvaluationRecord, Interval, RunRecord, Scores, Summary
from tests.experiment.tiny import segdistill


def parts(paper: str) -> list[PaperPart]:
    return [part for table in read_paper(paper).tables.values() for part in table]


@pytest.mark.parametrize("paper", published_papers())
def test_every_row_has_its_stage(paper: str) -> None:
    for part in parts(paper):
        recipe = load_recipe(part.recipe)
        sites = {site for stage in recipe.stages.values() for site in stage.sites or []}
        for row in part.rows:
            if row.stage is None:
                continue
            found = recipe.named(row.stage)
            assert found, f"{part.title}: {row.name}"
            assert all(recipe.stages[name].task != "autoencoder" for name in found)
            assert row.site is None or row.site in sites


def test_amtds_figures_fit_the_overlap_error_that_is_said_to_be_theirs() -> None:
    """2 FP / (2 TP + FP + FN) is between 0 and 2 (1 - Dice); rounding adds at most 0.0015."""
    rows = {
        (*row.values,) for part in parts("amtd") for row in part.rows if row.values and len(row.values) == 2
    }
    standard = 0
    for dice, voe in rows:
        assert dice is not None
        assert voe is not None
        assert 0 < voe <= 2 * (1 - dice) + 0.0015
        standard += abs(voe - (1 - dice / (2 - dice))) <= 0.03
    assert (len(rows), standard) == (49, 5)


def test_lightvessels_figures_fit_each_other() -> None:
    """Accuracy and F1 decide the two-class mIoU, whatever the size of the set; SKD's is the known misprint."""
    for part in parts("lightvessel"):
        for row in part.rows:
            assert row.values is not None
            accuracy, _, _, miou, f1 = (value or 0.0 for value in row.values)
            iou, wrong = f1 / (2 - f1), 1 - accuracy
            found = wrong * iou / (1 - iou)  # true positives, as a share of all pixels
            implied = (iou + 1 - wrong / (1 - found)) / 2
            assert abs(implied - miou) == pytest.approx(0.02 if row.name == "SKD" else 0, abs=3e-4), row.name


def write_run(folder: Path, recipe: str, dataset: str, **stages: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    for stage, evaluated in stages.items():
        groups = dict(evaluated.get("summary", {}))
        sites = {name: groups.pop(f"site {name}") for name in ("RUNMC", "UCL") if f"site {name}" in groups}
        found = Summary(groups.pop("all", {}), groups, sites)
        record = EvaluationRecord(model=stage, cases=1, summary=found, pooled=evaluated.get("pooled", {}))
        record.write(folder / "stages" / stage)
    RunRecord(recipe=recipe, data="synthetic, by hand").write(folder)
    known = load_recipe(recipe).stages if recipe in bundled_recipes() else {}
    declared = {name: {"variant": stage.variant} for name, stage in known.items()}
    content = {
        "data": {"dataset": dataset, "size": [96, 80]},
        "stages": declared or {name: {} for name in stages},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))


def summary(n: int = 1, **values: float) -> Scores:
    return {name: Interval(value, None, None, n) for name, value in values.items()}


def row_of(tables: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in tables[0]["rows"] if row["name"] == name)


def test_pooled_numbers_and_rows_without_a_stage(tmp_path: Path) -> None:
    pooled = {"accuracy": 0.9, "sensitivity": 0.8, "f1": 0.7, "miou": 0.75, "auc": None}
    evaluated = {"pooled": pooled, "summary": {"all": summary(accuracy=0.1)}}
    write_run(tmp_path / "small", "lightvessel/cpu", "coronary", teacher=evaluated)
    tables = compare_with_paper("lightvessel", tmp_path, "1")
    assert [table["run"] for table in tables] == ["lightvessel/cpu (96x80) on coronary", None]
    assert [table["folder"] for table in tables] == [str(tmp_path / "small"), None]
    assert f"[lightvessel/cpu (96x80) on coronary, {tmp_path / 'small'}]" in render(tables)
    teacher = row_of(tables, "Teacher")
    assert teacher["ours"]["pooled.accuracy"] == 0.9
    assert teacher["difference"]["pooled.accuracy"] == -0.0835
    assert teacher["ours"]["pooled.auc"] is None
    assert teacher["difference"]["pooled.auc"] is None
    skd = row_of(tables, "SKD")
    assert (skd["ours"], skd["difference"]) == (None, None)
    assert skd["not_run"]
    text = render(tables).splitlines()
    assert next(line for line in text if line.startswith("SKD")).endswith(f"({skd['not_run']})")
    assert "0.9000 -0.0835" in next(line for line in text if line.startswith("Teacher"))


def test_seeds_of_a_matrix_are_taken_together(tmp_path: Path) -> None:
    seeds = {f"soft_kd@{k}": {"pooled": {"f1": 0.75 + 0.01 * k}} for k in range(3)}
    write_run(tmp_path / "m", "lightvessel/methods", "coronary", **seeds)
    (matrix,) = [
        table
        for table in compare_with_paper("lightvessel", tmp_path, "1")
        if table["recipe"] == "lightvessel/methods"
    ]
    row = row_of([matrix], "SoftKD")
    assert row["ours"]["pooled.f1"] == pytest.approx(0.76)
    assert row["ours_spread"]["pooled.f1"] == pytest.approx(0.01)
    assert row["published"]["pooled.f1"] == 0.762


F1 = {"pooled": {"f1": 0.7}}


@pytest.mark.parametrize(
    ("recipe", "dataset", "stages", "filled"),
    [
        ("verdict/coronary", "coronary", ("teacher", "baseline@0", "baseline@1"), ["lightvessel/methods"]),
        ("lightvessel/methods", "coronary", ("teacher", "at@2"), ["lightvessel/methods"]),
        ("lightvessel/cpu", "coronary", ("teacher",), ["lightvessel/coronary"] * 3),
        ("lightvessel/cpu", "folder", ("teacher",), []),  # other pictures
        ("verdict/coronary", "coronary", (), []),  # nothing is evaluated yet
        (
            "mine",
            "coronary",
            ("teacher", "student", "baseline", "student_fsd"),
            ["lightvessel/coronary"] * 2,
        ),
        ("mine", "coronary", ("teacher",), []),  # a name that anything may have
    ],
)
def test_runs_are_found_by_their_stages(
    recipe: str, dataset: str, stages: tuple[str, ...], filled: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path / "any" / "name", recipe, dataset, **dict.fromkeys(stages, F1))
    tables = compare_with_paper("lightvessel", tmp_path)
    assert [table["recipe"] for table in tables if table["run"]] == filled
    assert len(tables) == 4


def test_other_networks_on_the_same_data_fill_what_they_can(tmp_path: Path) -> None:
    one = {"summary": {"all": summary(dice=0.5, precision=0.5, recall=0.5, iou=0.5, accuracy=0.5)}}
    write_run(tmp_path / "n", "networks/busi", "busi", unet=one)
    write_run(tmp_path / "l", "lanet/cpu", "busi", student=one)  # another student under the same name
    tables = compare_with_paper("lightbtseg", tmp_path)
    (found,) = [table for table in tables if table["run"]]
    assert found["title"] == "Table I, BUSI"
    assert row_of([found], "U-Net")["ours"]["dice"] == 0.5
    assert row_of([found], "Student")["ours"] is None


def test_what_no_run_fills_is_answered_with_commands(tmp_path: Path) -> None:
    nothing = segdistill("reproduce", "lightvessel", "--runs", tmp_path).out
    lines = nothing.splitlines()
    place = lines.index("  segdistill run lightvessel/methods")
    assert lines[place + 1].strip() == "Table 1, methods, as a matrix of three seeds"
    assert lines[place + 2].endswith(": verdict/coronary")
    assert "0.9835" not in nothing
    write_run(tmp_path / "m", "verdict/coronary", "coronary", teacher=F1)
    some = segdistill("reproduce", "lightvessel", "--runs", tmp_path).out
    source = f"verdict/coronary (96x80) on coronary, {tmp_path / 'm'}"
    assert f"Table 1, methods, as a matrix of three seeds   [{source}]" in some
    assert "segdistill run lightvessel/coronary" in some
    assert "segdistill run lightvessel/methods" not in some
    everything = segdistill("reproduce", "lightvessel", "--runs", tmp_path, "--all").out
    assert everything.count("0.9835") > some.count("0.9835") > 0
    assert "not run: segdistill run lightvessel/coronary" in everything
    private = segdistill("reproduce", "lanet", "--runs", tmp_path).out
    assert "Table 3, classification, MBUD with few locations: private data" in private


def test_overlap_errors_and_the_cases_of_one_site(tmp_path: Path) -> None:
    evaluated = {
        "summary": {
            "all": summary(3, dice=0.6, voe_emkd=0.2),
            "site RUNMC": summary(1, dice=0.9, voe_emkd=0.1),
            "site UCL": summary(3, dice=0.5, voe_emkd=0.5),
        }
    }
    write_run(tmp_path / "r", "amtd/cpu", "promise12", t1=evaluated)
    tables = [table for table in compare_with_paper("amtd", tmp_path, "4") if table["recipe"] == "amtd/cpu"]
    assert row_of(tables, "T1 of RUNMC")["difference"] == {"dice": -0.299, "voe_emkd": 0.081}
    assert row_of(tables, "T1 on RUNMC's own test cases")["ours"] == {"dice": 0.9, "voe_emkd": 0.1}
    assert row_of(tables, "ENet baseline")["ours"] is None


OWN = Paper(
    title="synthetic",
    metrics=["dice"],
    tables={
        "1": [
            PaperPart(
                title="T",
                recipe="own/busi",
                rows=[
                    PaperRow(name="both", stage="s", label=["a", "b"], values=[0.5], spreads=[0.02]),
                    PaperRow(name="bare", stage="s", values=[None]),
                ],
            )
        ]
    },
)


@pytest.fixture
def own_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.papers.reproduce.read_paper", lambda name: OWN)


@pytest.mark.usefixtures("own_paper")
def test_folds_are_one_run_with_a_spread(tmp_path: Path) -> None:
    means = [0.4, 0.5, 0.9]
    for k, mean in enumerate(means, 1):
        groups = {"a": summary(1, dice=mean), "b": summary(3, dice=mean - 0.1), "all": summary(4, dice=mean)}
        write_run(tmp_path / "own" / f"fold-{k}", "own/busi/fold-{k}", "busi", s={"summary": groups})
    (tmp_path / "own" / "folds.json").write_text(json.dumps({"recipe": "own/busi", "folds": 3}))
    tables = compare_with_paper("own", tmp_path)
    assert [table["run"] for table in tables] == ["own/busi (96x80) on busi, 3 folds"]
    both = row_of(tables, "both")
    assert both["ours"]["dice"] == pytest.approx(fmean(means) - 0.075)
    assert both["ours_spread"]["dice"] == pytest.approx(0.07**0.5)  # (.2² + .1² + .3²) / 2
    assert row_of(tables, "bare")["published"] == {"dice": None}
    assert row_of(tables, "bare")["difference"] == {"dice": None}
    assert "0.5000±0.0200" in render(tables)
    assert "0.5250±0.2646" in render(tables)
    (tmp_path / "own" / "fold-2" / "stages" / "s" / "evaluation.json").unlink()
    assert row_of(compare_with_paper("own", tmp_path), "both")["ours"] is None  # not the mean of other folds


def test_the_command_lists_and_prints_papers(tmp_path: Path) -> None:
    listed = segdistill("reproduce")
    assert (listed.code, listed.out.split("\n")[0][:4]) == (0, "amtd")
    assert set(json.loads(segdistill("reproduce", "--json").out)) == set(published_papers())
    for paper in published_papers():
        for words, told in (((), "  segdistill run "), (("--all",), "not run: segdistill run ")):
            printed = segdistill("reproduce", paper, "--runs", tmp_path, *words)
            assert (printed.code, printed.err) == (0, "")
            assert told in printed.out
    assert segdistill("reproduce", "amtd", "--table", "9").line == "amtd has no table 9: it has 3, 4, 5"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"name": "x", "values": [1.0]}], "row 'x' needs a stage, or not_run with the reason"),
        ([{"name": "x", "stage": "s", "values": [1.0, 2.0]}], "T, row 'x': 1 values are needed"),
    ],
)
def test_tables_that_say_too_little_are_refused(
    rows: list[dict[str, Any]], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {
        "title": "t",
        "metrics": ["dice"],
        "tables": {"1": [{"title": "T", "recipe": "r", "rows": rows}]},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("segdistill.papers.tables._folder", lambda: tmp_path)
    with pytest.raises(InputError, match=words):
        read_paper("own")
