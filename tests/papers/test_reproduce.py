"""The papers' tables beside ours: figures that fit themselves, and our numbers from the right place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import Recipe
from segdistill.errors import InputError
from segdistill.experiment.machine import Machine
from segdistill.experiment.results import external_folder
from segdistill.experiment.run import run_recipe
from segdistill.metrics.base import METRICS
from segdistill.metrics.cases import CaseResult, write_metrics_csv
from segdistill.papers.figures import draw_figures
from segdistill.papers.reproduce import SIZES, Command, commands, compare_with_paper, has_results, render
from segdistill.papers.tables import (
    Paper,
    PaperPart,
    PaperRow,
    Size,
    Source,
    published_papers,
    read_paper,
)
from segdistill.records import (
    Classification,
    EvaluationRecord,
    Interval,
    RunRecord,
    Scores,
    StageRecord,
    Summary,
)
from tests.experiment.synthetic import tiny_recipe, write_data
from tests.experiment.tiny import segdistill

MANY_ROWS = ("amtd", "lanet")


def parts(paper: str) -> list[PaperPart]:
    return [part for table in read_paper(paper).tables.values() for part in table]


@cache
def known(name: str, changes: tuple[tuple[str, int], ...] = ()) -> Recipe:
    return load_recipe(name, dict(changes))


def sources(part: PaperPart, row: PaperRow) -> Iterator[tuple[Size, Source]]:
    for size in SIZES:
        for source in row.sources(size, part.recipe if size == "paper" else part.cpu):
            if row.cpu is not None or size == "paper" or known(source.recipe).named(source.stage):
                yield size, source


@pytest.mark.parametrize("paper", published_papers())
def test_every_row_has_its_stage(paper: str) -> None:
    for part in parts(paper):
        for row in part.rows:
            for _, source in sources(part, row):
                recipe = known(source.recipe)
                found = recipe.named(source.stage)
                assert found, f"{part.title}: {row.name}: {source}"
                assert all(recipe.stages[name].task != "autoencoder" for name in found)
                sites = {site for stage in recipe.stages.values() for site in stage.sites or []}
                assert row.site is None or row.site in sites


@pytest.mark.parametrize("paper", published_papers())
def test_every_row_can_be_run_at_both_sizes(paper: str) -> None:
    """The metrics of a row are measured by the recipes that fill it, and the small one is smaller."""
    content = read_paper(paper)  # once: it takes a tenth of a second
    for part in parts(paper):
        for row in part.rows:
            found = list(sources(part, row))
            if row.not_run or not (row.stage or row.cpu):
                continue
            assert {size for size, _ in found} == ({"paper", "cpu"} if row.stage else {"cpu"}), row.name
            sides = {"paper": set[int](), "cpu": set[int]()}
            for size, source in found:
                changes = part.set if size == "paper" else part.cpu_set
                recipe = known(source.recipe, tuple(changes.items()))
                sides[size].add(recipe.data.height_width[0])
                for metric in content.metrics_of(part):
                    assert is_measured(metric, recipe, source.stage), (part.title, row.name, metric)
                assert row.label == "all" or recipe.data.labels
            if row.stage:
                assert max(sides["cpu"]) < min(sides["paper"])


def is_measured(metric: str, recipe: Recipe, stage: str) -> bool:
    where, _, name = metric.rpartition(".")
    if where == "training":
        return True
    if where == "pooled":
        return recipe.evaluation.pooled
    if where == "classification":
        return all(recipe.stages[one].joint_settings is not None for one in recipe.named(stage))
    always = ("dice", "iou", "precision", "recall", "accuracy")
    units = {"rmse_boundary_px": "rmse_boundary"}
    return name in always or units.get(name, name) in recipe.evaluation.metrics


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("paper", published_papers())
def test_the_commands_fill_every_row(paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All recipes of a paper's commands, with reduced networks on synthetic data: no cell is left empty.

    Without report and model file, which take most of the time of so small a run.
    """
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *given: ([], given[-1]))
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *given: None)
    tables = compare_with_paper(paper, tmp_path / "runs")
    for command in commands(tables):
        recipe = tiny_recipe(command.recipe)
        names = [name for stage in command.stages for name in recipe.named(stage)]
        data = write_data(recipe, tmp_path / "data" / command.recipe)
        external = dict.fromkeys(command.external, str(data))
        recipe = recipe.model_copy(update={"external": external})
        list(run_recipe(recipe, data, command.folder, Machine("cpu"), names))
        resize(command, tmp_path / "runs")
    require_filled(compare_with_paper(paper, tmp_path / "runs"))


def require_filled(tables: list[dict[str, Any]]) -> None:
    assert not commands(tables)
    for table in tables:
        for row in table["rows"]:
            for size, cell in row["ours"].items():
                assert cell["status"] in ("", "measured"), (table["title"], row["name"], size)
                assert cell["status"] or row["not_run"] or size == "paper" or not row["published"]


@pytest.mark.parametrize(
    "paper", [pytest.param(p, marks=pytest.mark.slow) if p in MANY_ROWS else p for p in published_papers()]
)
def test_the_commands_name_every_row(paper: str, tmp_path: Path) -> None:
    """The same with records in place of trainings: what a command trains is found, and no cell is left empty."""
    tables = compare_with_paper(paper, tmp_path)
    metrics = {metric for table in tables for metric in table["metrics"]}
    for command in commands(tables):
        write_trained(command, metrics)
    require_filled(compare_with_paper(paper, tmp_path))


def write_trained(command: Command, metrics: set[str]) -> None:
    """The records of a command's stages, all seeds of each, in its folder."""
    recipe = known(command.recipe, tuple(command.changes.items()))
    measured = dict.fromkeys(metrics, 0.5)
    scores = summary(**measured)
    whole = {metric.rpartition(".")[2]: score for metric, score in scores.items()}
    sites = {site for stage in recipe.stages.values() for site in stage.sites or []}
    found = Summary(scores, dict.fromkeys(recipe.data.labels or [], scores), dict.fromkeys(sites, scores))
    for name in (name for stage in command.stages for name in recipe.named(stage)):
        stage = command.folder / "stages" / name
        trained_record(name, steps=30, epochs=3).write(stage)
        pooled = {metric.rpartition(".")[2]: value for metric, value in measured.items()}
        classes = Classification(scores=whole, classes=["a", "b"], confusion=[[1, 0], [0, 1]])
        record = EvaluationRecord(model=name, cases=1, summary=found, pooled=pooled, classification=classes)
        for place in (stage, *(external_folder(stage, table) for table in command.external)):
            record.write(place)
    RunRecord(recipe=command.recipe, data="synthetic, by hand").write(command.folder)
    content = {
        "data": {"dataset": recipe.data.dataset, "size": recipe.data.height_width[0]},
        "stages": {name: {"variant": stage.variant} for name, stage in recipe.stages.items()},
    }
    (command.folder / "recipe.yaml").write_text(yaml.safe_dump(content))


def trained_record(name: str, **results: Any) -> StageRecord:
    facts: dict[str, Any] = {"role": "teacher", "task": "supervised", "network": {}, "classes": [], "seed": 0}
    facts |= {"preprocess": {}, "postprocess": {}, "fingerprint": "", "weights_sha256": "abc"}
    return StageRecord(name=name, variant=name, **facts | results)


def resize(command: Command, runs: Path) -> None:
    """Lets a tiny run look as if it had the size of its recipe."""
    path = command.folder / "recipe.yaml"
    content = yaml.safe_load(path.read_text())
    whole = load_recipe(command.recipe, command.changes)
    content["data"] |= {"size": whole.data.height_width[0], "dataset": whole.data.dataset}
    path.write_text(yaml.safe_dump(content))


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
            if "(not in the paper)" in row.name:
                continue
            assert row.values is not None
            accuracy, _, _, miou, f1 = (value or 0.0 for value in row.values)
            iou, wrong = f1 / (2 - f1), 1 - accuracy
            found = wrong * iou / (1 - iou)  # true positives, as a share of all pixels
            implied = (iou + 1 - wrong / (1 - found)) / 2
            assert abs(implied - miou) == pytest.approx(0.02 if row.name == "SKD" else 0, abs=3e-4), row.name


def write_run(
    folder: Path, recipe: str, dataset: str, size: int = 0, like: str = "", **stages: dict[str, Any]
) -> None:
    """The records of a run, by default at its recipe's size; `like` is the bundled recipe that has its stages too."""
    folder.mkdir(parents=True)
    for stage, evaluated in stages.items():
        groups = dict(evaluated.get("summary", {}))
        sites = {name: groups.pop(f"site {name}") for name in ("RUNMC", "UCL") if f"site {name}" in groups}
        found = Summary(groups.pop("all", {}), groups, sites)
        record = EvaluationRecord(model=stage, cases=1, summary=found, pooled=evaluated.get("pooled", {}))
        record.write(folder / "stages" / stage)
    RunRecord(recipe=recipe, data="synthetic, by hand").write(folder)
    whole = known(like or recipe) if (like or recipe) in bundled_recipes() else None
    found = {} if whole is None else whole.stages
    declared = {
        name: stage.model_dump(mode="json") for name, stage in found.items() if not like or name in stages
    }
    own = [96, 80] if whole is None else whole.data.size
    content = {
        "data": {"dataset": dataset, "size": size or own},
        "stages": declared or {name: {} for name in stages},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))


def summary(n: int = 1, **values: float) -> Scores:
    return {name: Interval(value, None, None, n) for name, value in values.items()}


def row_of(tables: list[dict[str, Any]], name: str, title: str = "") -> dict[str, Any]:
    return next(
        row
        for table in tables
        for row in table["rows"]
        if row["name"] == name and table["title"].startswith(title)
    )


def ours(tables: list[dict[str, Any]], name: str, size: Size = "cpu", title: str = "") -> dict[str, Any]:
    found: dict[str, Any] = row_of(tables, name, title)["ours"][size]
    return found


def test_pooled_numbers_and_rows_that_are_not_run(tmp_path: Path) -> None:
    pooled = {"accuracy": 0.9, "sensitivity": 0.8, "f1": 0.7, "miou": 0.75, "auc": None}
    evaluated = {"pooled": pooled, "summary": {"all": summary(accuracy=0.1)}}
    write_run(tmp_path / "small", "lightvessel/cpu", "coronary", teacher=evaluated)
    (table,) = compare_with_paper("lightvessel", tmp_path, "2")
    label = "lightvessel/cpu (160x160) on coronary"
    assert table["sizes"]["cpu"]["runs"] == {str(tmp_path / "small"): label}
    assert table["sizes"]["paper"]["runs"] == {}
    teacher = ours([table], "Teacher")
    assert (teacher["status"], teacher["recipe"], teacher["stage"]) == (
        "measured",
        "lightvessel/cpu",
        "teacher",
    )
    assert teacher["values"]["pooled.accuracy"] == 0.9
    assert teacher["difference"]["pooled.accuracy"] == -0.0835
    assert teacher["values"]["pooled.auc"] is None
    assert teacher["difference"]["pooled.auc"] is None
    assert (teacher["command"], teacher["hours"]) == ("", None)
    large = ours([table], "Teacher", "paper")
    assert large["status"] == "not run"
    assert large["command"].startswith("segdistill run lightvessel/coronary --stages teacher --out ")
    assert large["hours"] > 0
    text = render([table])
    assert f"ours, CPU size (160): {label}, {tmp_path / 'small'}" in text.splitlines()
    first = next(line for line in text.splitlines() if line.startswith("Teacher"))
    assert first.split() == ["Teacher", "pooled", "accuracy", "0.9835", "not", "run", "0.9000", "-0.0835"]
    json.dumps(table, default=str)


def test_a_stage_without_results_is_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "lightbtseg/cpu", "busi", student={"summary": {"all": summary(dice=0.7)}})
    for name, weights in (("benign_teacher", "abc"), ("unet", "")):
        trained_record(name, weights_sha256=weights).write(tmp_path / "r" / "stages" / name)
    tables = compare_with_paper("lightbtseg", tmp_path, "1")
    status = {
        name: ours(tables, name)["status"] for name in ("Student", "Benign teacher", "U-Net", "U-Net++")
    }
    assert list(status.values()) == ["measured", "trained, not evaluated", "not run", "not run"]
    assert "trained, not evaluated" in render(tables)
    first = next(one for one in tables[0]["commands"] if one["size"] == "cpu")
    assert "student" not in first["stages"]
    assert "benign_teacher" in first["stages"]


def test_seeds_of_a_matrix_are_taken_together(tmp_path: Path) -> None:
    seeds = {f"soft_kd@{k}": {"pooled": {"f1": 0.75 + 0.01 * k}} for k in range(3)}
    write_run(tmp_path / "m", "lightvessel/methods", "coronary", size=256, **seeds)
    cell = ours(compare_with_paper("lightvessel", tmp_path, "1"), "SoftKD", "paper")
    assert cell["values"]["pooled.f1"] == pytest.approx(0.76)
    assert cell["spread"]["pooled.f1"] == pytest.approx(0.01)
    assert (cell["done"], cell["planned"], cell["incomplete"]) == (3, 3, False)
    (tmp_path / "m" / "stages" / "soft_kd@1" / "evaluation.json").unlink()
    tables = compare_with_paper("lightvessel", tmp_path, "1")
    cell = ours(tables, "SoftKD", "paper")
    assert (cell["done"], cell["planned"], cell["incomplete"]) == (2, 3, True)
    assert "(2 of 3 trainings)" in render(tables)
    assert "soft_kd" in next(one for one in tables[0]["commands"] if one["size"] == "paper")["stages"]


def test_cross_entropy_and_rmse_without_a_teacher_are_a_row_of_their_own(tmp_path: Path) -> None:
    """What LightVessel's adversarial similarity is without its teacher."""
    name = "CE + RMSE, no teacher (not in the paper)"
    evaluated = {"pooled": {"f1": 0.7}}
    write_run(tmp_path / "c", "lightvessel/cpu", "coronary", rmse=evaluated)
    tables = compare_with_paper("lightvessel", tmp_path, "2")
    assert row_of(tables, name)["published"] is None
    assert ours(tables, name)["values"]["pooled.f1"] == 0.7
    missing = ours(tables, name, "paper")
    assert missing["command"].startswith("segdistill run lightvessel/coronary --stages rmse ")
    assert "rmse" in next(one["stages"] for one in tables[0]["commands"] if one["size"] == "paper")
    assert name in render(tables)


def test_intervals_stand_beside_intervals(tmp_path: Path) -> None:
    """LA-Net prints t-intervals of three trainings: 4.303 sd / sqrt(3), and a one-sided t-test."""
    values = {"lanet_r50": [0.43, 0.44, 0.45], "rmtl_r50": [0.38, 0.39, 0.40]}
    stages = {
        f"{stage}@{k}": {"summary": {"all": summary(iou=value, dice=value)}}
        for stage, found in values.items()
        for k, value in enumerate(found)
    }
    write_run(tmp_path / "r", "lanet/repeated_cpu", "busi", **stages)
    tables = compare_with_paper("lanet", tmp_path, "6")
    assert tables[0]["spread_kind"] == "t_interval"
    cell = ours(tables, "RMTL ResNet-50")
    assert cell["spread"]["iou"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    pooled = 0.01 * (2 / 3) ** 0.5
    assert cell["p"]["iou"] == pytest.approx(ttest(0.05 / pooled, 4), rel=1e-6)
    assert ours(tables, "LA-Net ResNet-50")["p"] == {}
    assert row_of(tables, "LA-Net ResNet-50")["published_spread"]["iou"] == 0.016


def ttest(t: float, freedom: int) -> float:
    from scipy.stats import t as student

    return float(student.sf(t, freedom))


F1 = {"pooled": {"f1": 0.7}}


@pytest.mark.parametrize(
    ("recipe", "dataset", "stages", "filled"),
    [
        ("verdict/coronary", "coronary", ("teacher@0", "baseline@0", "baseline@1"), [1]),
        ("lightvessel/methods", "coronary", ("teacher", "at@2"), [1]),
        ("lightvessel/cpu", "coronary", ("teacher",), [1, 2, 3]),
        ("lightvessel/cpu", "folder", ("teacher",), [1, 2, 3]),  # by its recipe
        ("verdict/coronary", "coronary", (), []),  # nothing is evaluated yet
        ("mine", "coronary", ("teacher", "student", "baseline", "student_fsd"), [1, 2]),
        ("mine", "folder", ("teacher", "student", "baseline", "student_fsd"), []),  # other pictures
        ("mine", "coronary", ("teacher",), []),  # a name that anything may have
    ],
)
def test_runs_are_found_by_their_stages(
    recipe: str, dataset: str, stages: tuple[str, ...], filled: list[int], tmp_path: Path
) -> None:
    like = "lightvessel/cpu" if recipe == "mine" else ""
    write_run(tmp_path / "any" / "name", recipe, dataset, like=like, **dict.fromkeys(stages, F1))
    tables = compare_with_paper("lightvessel", tmp_path)
    assert [int(table["table"]) for table in tables if has_results(table)] == filled
    assert len(tables) == 3


def test_other_networks_on_the_same_data_fill_what_they_can(tmp_path: Path) -> None:
    one = {"summary": {"all": summary(dice=0.5, precision=0.5, recall=0.5, iou=0.5, accuracy=0.5)}}
    write_run(tmp_path / "n", "networks/busi", "busi", size=128, unet=one)
    write_run(tmp_path / "l", "lanet/cpu", "busi", student=one)  # another student under the same name
    tables = compare_with_paper("lightbtseg", tmp_path)
    (found,) = [table for table in tables if has_results(table)]
    assert found["title"] == "Table I, BUSI"
    assert ours([found], "U-Net")["values"]["dice"] == 0.5
    assert ours([found], "Student")["status"] == "not run"


def test_stages_with_other_settings_are_not_the_papers(tmp_path: Path) -> None:
    """lightbtseg/adaptive leaves its teachers as they are; the paper tunes them together with the student."""
    one = {"summary": {"all": summary(dice=0.5, precision=0.5, recall=0.5, iou=0.5, accuracy=0.5)}}
    names = ("student", "student_single", "benign_teacher", "malignant_teacher", "unet")
    write_run(tmp_path / "a", "lightbtseg/adaptive", "busi", **dict.fromkeys(names, one))
    tables = compare_with_paper("lightbtseg", tmp_path)
    missing = {"Student": "student", "Benign teacher": "benign_teacher_tuned", "double teacher": "student"}
    for name, stage in missing.items():
        cell = ours(tables, name, "paper")
        assert (cell["status"], cell["stage"]) == ("not run", stage), name
        assert cell["command"].startswith(f"segdistill run lightbtseg/busi --stages {stage} ")
    assert ours(tables, "U-Net", "paper")["folder"] == str(tmp_path / "a")


def test_a_smaller_run_of_the_papers_recipe_stands_in_the_small_column(tmp_path: Path) -> None:
    evaluated = {"summary": {"all": summary(dice=0.7)}}
    write_run(tmp_path / "a", "lightbtseg/busi", "busi", size=512, student=evaluated)
    write_run(tmp_path / "b", "lightbtseg/busi", "busi", size=128, unet=evaluated)
    tables = compare_with_paper("lightbtseg", tmp_path, "1")
    assert ours(tables, "Student", "paper")["status"] == ours(tables, "U-Net", "cpu")["status"] == "measured"
    assert ours(tables, "Student", "cpu")["status"] == ours(tables, "U-Net", "paper")["status"] == "not run"


def test_runs_of_larger_images_and_of_small_recipes_are_not_the_papers(tmp_path: Path) -> None:
    """LA-Net has two sizes: its Table 6 is of 256x256, its Fig. 11 of 512x512 too."""
    evaluated = {"summary": {"all": summary(dice=0.7, iou=0.6)}}
    write_run(tmp_path / "a", "lanet/repeated", "busi", size=512, **{"lanet_r50@0": evaluated})
    write_run(tmp_path / "b", "lanet/repeated_cpu", "busi", size=256, **{"lanet_r50@0": evaluated})
    small = compare_with_paper("lanet", tmp_path, "6")
    assert [ours(small, "LA-Net ResNet-50", size)["status"] for size in SIZES] == ["not run"] * 2
    name = "LA-Net ResNet-50, 512x512 (CPU: 256x256)"
    tables = compare_with_paper("lanet", tmp_path, "figures 10 and 11")
    assert {size: ours(tables, name, size)["folder"] for size in SIZES} == {
        "paper": str(tmp_path / "a"),
        "cpu": str(tmp_path / "b"),
    }
    write_run(tmp_path / "c", "lanet/repeated_cpu", "busi", size=128, **{"lanet_r50@0": evaluated})
    again = ours(compare_with_paper("lanet", tmp_path, "6"), "LA-Net ResNet-50")
    assert again["folder"] == str(tmp_path / "c")


ONCE, TWICE = (f"LA-Net ResNet-50, {sizes}" for sizes in ("256x256 (CPU: 128x128)", "512x512 (CPU: 256x256)"))


@pytest.mark.parametrize(
    ("recipe", "size", "filled"),
    [
        ("lanet/repeated", 128, {(ONCE, "cpu")}),
        ("lanet/repeated", 256, {(ONCE, "paper")}),
        ("lanet/repeated", 512, {(TWICE, "paper")}),
        ("lanet/repeated", [256, 192], set()),
        ("lanet/repeated_cpu", 96, set()),
        ("lanet/repeated_cpu", 128, {(ONCE, "cpu")}),
        ("lanet/repeated_cpu", 256, {(TWICE, "cpu")}),
        ("lanet/repeated_cpu", 512, set()),
    ],
)
def test_a_row_takes_runs_of_exactly_its_size(
    recipe: str, size: Any, filled: set[tuple[str, Size]], tmp_path: Path
) -> None:
    """What another size fills is not run, with its command, so that --run trains it."""
    evaluated = {"summary": {"all": summary(dice=0.7, iou=0.6)}}
    write_run(tmp_path / "r", recipe, "busi", size=size, **{f"lanet_r50@{k}": evaluated for k in range(3)})
    tables = compare_with_paper("lanet", tmp_path, "figures 10 and 11")
    for name in (ONCE, TWICE):
        for column in SIZES:
            cell = ours(tables, name, column)
            measured = (name, column) in filled
            assert cell["status"] == ("measured" if measured else "not run"), (name, column)
            assert bool(cell["command"]) != measured
            twice = {"paper": "--set size=512", "cpu": "--set size=256"}[column] in cell["command"]
            assert twice == (not measured and name == TWICE)
    table_6 = compare_with_paper("lanet", tmp_path, "6")
    expected = ["measured" if (ONCE, size) in filled else "not run" for size in SIZES]
    assert [ours(table_6, "LA-Net ResNet-50", size)["status"] for size in SIZES] == expected


def test_what_no_run_fills_is_answered_with_commands(tmp_path: Path) -> None:
    nothing = segdistill("reproduce", "lightvessel", "--runs", tmp_path).out
    lines = nothing.splitlines()
    assert lines[:2] == ["Tables without a run of ours:", "  Table 1, methods"]
    told = [line.split(" --stages")[0] for line in lines if line.startswith("segdistill run ")]
    names = ["lightvessel/methods", "verdict/coronary", "lightvessel/coronary", "lightvessel/cpu"]
    assert told == [f"segdistill run {name}" for name in names]
    assert "on two processor cores)" in nothing
    assert "0.9835" not in nothing
    write_run(tmp_path / "m", "verdict/coronary", "coronary", **{"teacher@0": F1})
    some = segdistill("reproduce", "lightvessel", "--runs", tmp_path).out
    assert f"verdict/coronary (160x160) on coronary, {tmp_path / 'm'}" in some
    assert "segdistill run lightvessel/methods" in some
    everything = segdistill("reproduce", "lightvessel", "--runs", tmp_path, "--all").out
    assert everything.count("0.9835") > some.count("0.9835") > 0
    private = segdistill("reproduce", "lanet", "--runs", tmp_path).out
    assert "Table 3, classification, MBUD with few locations: private data" in private


def test_columns_do_not_run_together(tmp_path: Path) -> None:
    evaluated = {"summary": {"all": summary(dice=0.7, iou=0.6)}}
    write_run(tmp_path / "r", "lanet/repeated_cpu", "busi", **{"lanet_r18@0": evaluated, "unet@1": evaluated})
    lines = render(compare_with_paper("lanet", tmp_path, "6")).splitlines()
    numbers = next(line for line in lines if line.startswith("U-Net "))
    assert numbers.split("  ")[0] == "U-Net"
    row = [cell for cell in numbers.split("  ") if cell.strip()]
    assert [cell.strip() for cell in row] == [
        "U-Net", "iou", "0.4680±0.0320", "not run", "0.6000 (1 of 3 trainings)", "+0.1320",
    ]  # fmt: skip


def test_overlap_errors_and_the_cases_of_one_site(tmp_path: Path) -> None:
    evaluated = {
        "summary": {
            "all": summary(3, dice=0.6, voe_emkd=0.2),
            "site RUNMC": summary(1, dice=0.9, voe_emkd=0.1),
            "site UCL": summary(3, dice=0.5, voe_emkd=0.5),
        }
    }
    write_run(tmp_path / "r", "amtd/cpu", "promise12", t1=evaluated)
    tables = compare_with_paper("amtd", tmp_path, "4")
    first = ours(tables, "T1: DeepLabV3+ of its source", title="Table 4, prostate")
    assert first["difference"] == {"dice": -0.299, "voe_emkd": 0.081}
    assert ours(tables, "T1 on RUNMC's own test cases")["values"] == {"dice": 0.9, "voe_emkd": 0.1}
    assert ours(tables, "ENet baseline", title="Table 4, prostate")["status"] == "not run"


def test_costs_stand_beside_the_printed_ones() -> None:
    """Counts of LightBTSeg's Table I: 2.2 M and 16.59 G of the student, as printed."""
    tables = compare_with_paper("lightbtseg", Path("nowhere"), "1")
    cost = row_of(tables, "Student")["cost"]
    assert cost["parameters"] == {"published": 2.2e6, "counted": 2_162_146}
    assert cost["operations"]["counted"] == pytest.approx(cost["operations"]["published"], rel=1e-3)
    assert cost["mb"]["counted"] == pytest.approx(2_162_146 * 4 / 2**20, rel=1e-2)


def test_amtds_first_tables(tmp_path: Path) -> None:
    """The second is counted, not trained: 2 operations for each multiply-accumulate, near what is printed."""
    tables = compare_with_paper("amtd", tmp_path, "2")
    assert len(tables[0]["rows"]) == 7
    for row in tables[0]["rows"]:
        assert row["cost"]["parameters"]["counted"] == pytest.approx(
            row["cost"]["parameters"]["published"], rel=0.005
        )
        assert row["cost"]["operations"]["counted"] == pytest.approx(
            row["cost"]["operations"]["published"], rel=0.04
        )
    assert "0.184 counted" in next(line for line in render(tables).splitlines() if line.startswith("ESPNet"))
    write_run(tmp_path / "r", "amtd/cpu", "promise12", t1={"summary": {"all": summary(dice=0.5)}})
    trained_record("t1", steps=600, epochs=60).write(tmp_path / "r" / "stages" / "t1")
    path = tmp_path / "r" / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"fit": {"batch_size": 8}}))
    cell = ours(compare_with_paper("amtd", tmp_path, "1"), "T1", title="Table 1, prostate")
    assert cell["values"] == {"training.slices": 80}
    assert cell["difference"] == {"training.slices": 80 - 1095}


OWN = Paper(
    title="synthetic",
    metrics=["dice"],
    tables={
        "1": [
            PaperPart(
                title="T",
                recipe="own/busi",
                rows=[
                    PaperRow(name="both", stage=["s"], label=["a", "b"], values=[0.5], spreads=[0.02]),
                    PaperRow(name="bare", stage=["s"], values=[None]),
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
    assert tables[0]["sizes"]["paper"]["runs"] == {str(tmp_path / "own"): "own/busi (96x80) on busi, 3 folds"}
    both = ours(tables, "both", "paper")
    assert both["values"]["dice"] == pytest.approx(fmean(means) - 0.075)
    assert both["spread"]["dice"] == pytest.approx(0.07**0.5)  # (.2² + .1² + .3²) / 2
    assert row_of(tables, "bare")["published"] == {"dice": None}
    assert ours(tables, "bare", "paper")["difference"] == {"dice": None}
    assert "0.5000±0.0200" in render(tables)
    assert "0.5250±0.2646" in render(tables)
    (tmp_path / "own" / "fold-2" / "stages" / "s" / "evaluation.json").unlink()
    tables = compare_with_paper("own", tmp_path)
    both = ours(tables, "both", "paper")
    assert (both["done"], both["planned"], both["unit"], both["incomplete"]) == (2, 3, "folds", True)
    assert "0.5750±0.3536 (2 of 3 folds)" in render(tables)


def test_other_datasets_are_of_all_folds(tmp_path: Path) -> None:
    """US-SEG's Table 3: the network of every fold, tested on the whole of the other dataset."""
    for k, mean in enumerate([0.6, 0.8], 1):
        fold = tmp_path / "us" / f"fold-{k}"
        write_run(
            fold, f"usseg/busi/fold-{k}", "busi", size=512, us_seg={"summary": {"all": summary(dice=0.1)}}
        )
        found = EvaluationRecord(
            model="us_seg", cases=42, summary=Summary(summary(42, dice=mean), {}, {}), pooled={}
        )
        found.write(external_folder(fold / "stages" / "us_seg", "stu"))
    (tmp_path / "us" / "folds.json").write_text(json.dumps({"recipe": "usseg/busi", "folds": 2}))
    tables = compare_with_paper("usseg", tmp_path, "3")
    cell = ours(tables, "Dataset 1 (STU)", "paper")
    assert cell["values"]["dice"] == pytest.approx(0.7)
    assert cell["spread"]["dice"] == pytest.approx(0.2 / 2**0.5)
    assert (cell["done"], cell["planned"], cell["unit"]) == (2, 2, "folds")
    missing = ours(tables, "Dataset 2 (SYU)", "paper")
    assert missing["status"] == "not run"
    assert "--set external.sysu=SYSU_TABLE" in missing["command"]


def test_missing_rows_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, dict[str, Any]]] = []

    def run(recipe: str, **named: Any) -> Any:
        called.append((recipe, named))
        if recipe == "lightbtseg/dataset_b_cpu":
            raise InputError("no such data")
        return SimpleNamespace(failed="")

    monkeypatch.setattr("segdistill.experiment.run.run", run)
    words = ("--runs", tmp_path, "--run", "--table", "3", "--jobs", "2", "--set", "epochs=1", "size=64")
    answer = segdistill("reproduce", "lightbtseg", *words)
    assert answer.code == 4
    assert "1 of 2 runs failed: lightbtseg/dataset_b_cpu: no such data" in answer.err
    assert [recipe for recipe, _ in called] == ["lightbtseg/cpu", "lightbtseg/dataset_b_cpu"]
    assert called[0][1] == {
        "out": tmp_path / "lightbtseg" / "cpu",
        "set": {"epochs": 1, "size": 64},
        "stages": ("student_single", "student"),
        "data": None,
        "jobs": 2,
        "device": "auto",
    }
    assert "Table III, BUSI" in answer.out
    called.clear()
    segdistill("reproduce", "lanet", *words[:3], "--size", "paper", "--table", "figures 10 and 11")
    assert [recipe for recipe, _ in called] == ["lanet/repeated"] * 2
    assert [named["set"] for _, named in called] == [{}, {"size": 512}]
    assert (
        segdistill("reproduce", "lanet", "--run", "--size", "big").line == "--size big: choose paper or cpu"
    )


def test_a_missing_row_is_run_for_real(tmp_path: Path) -> None:
    """The command of the small recipe, at a size and on data that take seconds; then its row is filled."""
    words = ["reproduce", "lightbtseg", "--table", "1", "--runs", tmp_path / "runs"]
    recipe = tiny_recipe("lightbtseg/cpu")
    data = write_data(recipe, tmp_path / "data")
    folder = tmp_path / "runs" / "lightbtseg" / "cpu"
    list(run_recipe(recipe, data, folder, Machine("cpu"), ["baseline"]))
    resize(Command("lightbtseg/cpu", ("baseline",), {}, folder, "cpu"), tmp_path / "runs")
    (first, _) = json.loads(segdistill(*words, "--json").out)
    name = "Baseline: the student without teachers (not in the paper)"
    assert ours([first], name)["status"] == "measured"
    assert 0 <= ours([first], name)["values"]["dice"] <= 1
    assert ours([first], name)["cost"]["parameters"] > 0
    drawn = segdistill(*words, "--figures", tmp_path / "figures").err.split()
    assert drawn == [str(tmp_path / "figures" / "fig-7-table-i-busi-cpu-size.png")]
    sheet = Image.open(drawn[0])
    assert sheet.width == 2 * 240 + 4  # the image, and the one stage that is trained
    assert sheet.height > 3 * 100
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 50


def test_bars_have_the_papers_numbers_and_ours(tmp_path: Path) -> None:
    evaluated = {"summary": {"all": summary(dice=0.6, voe_emkd=0.2)}}
    write_run(tmp_path / "r", "amtd/prostate_cpu", "promise12", enet_fcn=evaluated)
    drawn = list(draw_figures(compare_with_paper("amtd", tmp_path, "3"), tmp_path / "figures"))
    assert [path.name for path in drawn] == ["fig-2-dice.svg", "fig-3-dice.svg"]
    ours, theirs = (path.read_text() for path in drawn)
    for number in ("0.859", "0.600"):  # the paper's number of ENet with T2, and ours
        assert f">{number}<" in ours
    assert "ours, CPU size" in ours
    assert "ours" not in theirs


def test_lines_have_the_papers_points_and_ours_with_intervals(tmp_path: Path) -> None:
    """LA-Net's Fig. 9: four shares of locations; Fig. 8 has no printed points but those of all locations."""
    stages = {
        f"lanet_r50_{share}@{k}": {"summary": {"all": summary(iou=value, dice=value)}}
        for share in (25, 50)
        for k, value in enumerate([0.40, 0.41, 0.42])
    }
    write_run(tmp_path / "r", "lanet/partial", "busi", size=256, **stages)
    tables = compare_with_paper("lanet", tmp_path, "figures 8 and 9")
    drawn = {path.name: path.read_text() for path in draw_figures(tables, tmp_path / "figures")}
    assert list(drawn) == [
        "fig-8-classification-accuracy-paper.svg",
        "fig-8-classification-auc-paper.svg",
        "fig-9-iou-paper-s-size.svg",
        "fig-9-dice-paper-s-size.svg",
    ]
    assert "IoU, with 95 % interval" in drawn["fig-9-iou-paper-s-size.svg"]
    labels = {f"{line}, {whose}" for line in ("LA-Net ResNet-50", "U-Net") for whose in ("paper",)}
    assert all(f">{label}<" in drawn["fig-9-iou-paper-s-size.svg"] for label in labels)
    assert ">LA-Net ResNet-50, ours, paper's size<" in drawn["fig-9-iou-paper-s-size.svg"]
    assert ">U-Net, ours, paper's size<" not in drawn["fig-9-iou-paper-s-size.svg"]


def test_cases_are_dots_beside_the_papers_mean(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "usseg/cpu", "busi", stage_1={"summary": {"all": summary(dice=0.6)}})
    stage = tmp_path / "r" / "stages" / "stage_1"
    write_metrics_csv(
        [
            CaseResult(
                str(k),
                str(k),
                metrics=dict.fromkeys(METRICS.always(), k / 2) | {"rmse_boundary": 3.0},
                unit="px",
            )
            for k in range(3)
        ],
        stage / "metrics.csv",
    )
    drawn = list(draw_figures(compare_with_paper("usseg", tmp_path, "2"), tmp_path / "figures"))
    names = ["dice", "precision", "recall", "iou", "rmse-boundary-px"]
    assert [path.name for path in drawn] == [f"fig-3-{name}-cpu-size.svg" for name in names]
    assert "mean in the paper" in drawn[0].read_text()
    assert "RMSE of the boundary, px" in drawn[-1].read_text()


@pytest.mark.parametrize("paper", published_papers())
def test_rows_of_one_chart_have_names_and_places_of_their_own(paper: str) -> None:
    charts: dict[tuple[str, str], list[PaperPart]] = {}
    for part in parts(paper):
        for figure in part.figures:
            if figure.kind != "overlay":
                charts.setdefault((figure.name, figure.kind), []).append(part)
    for (_, kind), found in charts.items():
        rows = [row for part in found for row in part.rows]
        names = [(row.line, row.at) if kind == "lines" else row.name for row in rows]
        assert len(set(names)) == len(names)
        assert kind != "lines" or all(row.line and row.at is not None for row in rows)


def test_the_command_lists_and_prints_papers(tmp_path: Path) -> None:
    listed = segdistill("reproduce")
    assert (listed.code, listed.out.split("\n")[0][:4]) == (0, "amtd")
    assert set(json.loads(segdistill("reproduce", "--json").out)) == set(published_papers())
    for paper in published_papers():
        for words, told in (((), "segdistill run "), (("--all",), "empty here: segdistill run ")):
            printed = segdistill("reproduce", paper, "--runs", tmp_path, *words)
            assert (printed.code, printed.err) == (0, "")
            assert told in printed.out
    assert "--set 3: write key=value" in segdistill("reproduce", "amtd", "3").line  # a table needs --table
    assert segdistill("reproduce", "amtd", "--table", "9").line == "amtd has no table 9: it has 1, 2, 3, 4, 5"


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
