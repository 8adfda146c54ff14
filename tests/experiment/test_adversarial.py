"""Stages with discriminators in a recipe: continued bit for bit, teachers of others, warned about or refused."""

from __future__ import annotations

import json
import random
import signal
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import Recipe
from segdistill.experiment.check import recipe_warnings
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.files import sha256_file
from segdistill.papers.reproduce import compare_with_paper
from segdistill.papers.tables import read_paper
from segdistill.records import EvaluationRecord, Interval, RunRecord, Summary
from segdistill.training.curves import read_curves
from segdistill.training.loop import STATE, WEIGHTS
from tests.experiment.test_kill import stop
from tests.experiment.tiny import RECIPE, process, segdistill, write_recipe

GENERATOR = {"name": "us_unet", "classes": 1, "widths": [4, 8, 8]}
ADVERSARIAL: dict[str, Any] = {"task": "adversarial", "model": GENERATOR, "adversarial": {"width": 2}}


def recipe(folder: Path, **changes: Any) -> Path:
    return write_recipe(
        folder, **{"stages": {"teacher": ADVERSARIAL, "student": RECIPE["stages"]["student"]}, **changes}
    )


@pytest.mark.slow
def test_a_us_seg_network_teaches_a_light_student(tmp_path: Path) -> None:
    """One logit teaches two classes; both are evaluated, reported, exported and can be used by name."""
    folder = tmp_path / "runs" / "tiny"
    answer = segdistill(
        "run", recipe(tmp_path, export="teacher"), "--device", "cpu", "--out", folder, "--json"
    )
    assert answer.code == 0, answer.err
    assert list(json.loads(answer.out)["stages"]) == ["teacher", "student"]
    row = read_curves(folder / "stages" / "teacher" / "curves.csv")[-1]
    parts = ("real", "predicted", "accuracy")
    assert {f"discriminators/{part}_{n}" for part in parts for n in (1, 2)} <= set(row)
    assert {"area", "area_spread", "dice_1", "dice_2", "adversarial_1", "adversarial_2", "val_dice"} <= set(
        row
    )
    student = read_curves(folder / "stages" / "student" / "curves.csv")[-1]
    assert student["teacher/soft_prediction"] > 0
    page = (folder / "report.html").read_text()
    for title in ("Judged to be a reference", "Accuracy of discriminators", "Predicted area"):
        assert title in page
    assert segdistill("evaluate", folder / "model.onnx", folder / "cases.csv").code == 0


@pytest.mark.slow
def test_a_generator_starts_from_another_stage(tmp_path: Path) -> None:
    """At a rate of next to nothing it stays where the first stage ended."""
    plain = {"model": GENERATOR | {"stages": 1}, "loss": {"name": "dice"}}
    second = ADVERSARIAL | {
        "model": plain["model"],
        "starts_from": "plain",
        "fit": {"epochs": 1, "optimizer": {"lr": 1e-12}},
    }
    folder = tmp_path / "runs" / "tiny"
    path = recipe(tmp_path, stages={"plain": plain, "second": second}, export=None)
    answer = segdistill("run", path, "--device", "cpu", "--out", folder)
    assert answer.code == 0, answer.err
    first, last = (load_file(folder / "stages" / stage / WEIGHTS) for stage in ("plain", "second"))
    learned = [name for name, value in first.items() if value.ndim == 4]
    assert learned
    for name in learned:
        torch.testing.assert_close(last[name], first[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_interrupted_between_any_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *_: None)
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *_: ([], {}))
    for accumulate in (1, 2):
        loaded = load_recipe(str(recipe(tmp_path)), [f"fit.accumulate={accumulate}"])
        whole, broken = tmp_path / f"{accumulate}" / "whole", tmp_path / f"{accumulate}" / "broken"
        list(run_recipe(loaded, None, whole, Machine("cpu")))
        chance = random.Random(accumulate)
        for _ in range(4):
            events = run_recipe(loaded, None, broken, Machine("cpu"))
            steps = 0
            for event in events:
                steps += event.total > 0
                if steps == chance.randrange(1, 5):
                    break
            events.close()  # type: ignore[attr-defined]
        list(run_recipe(loaded, None, broken, Machine("cpu")))
        for stage in ("teacher", "student"):
            expected, got = (sha256_file(run / "stages" / stage / WEIGHTS) for run in (whole, broken))
            assert expected == got


@pytest.mark.slow
def test_killed_then_finished(tmp_path: Path) -> None:
    path = recipe(tmp_path, fit=RECIPE["fit"] | {"epochs": 8})
    whole, broken = tmp_path / "whole" / "tiny", tmp_path / "broken" / "tiny"
    assert process("run", path, "--device", "cpu", "--out", whole).code == 0
    for wait in (0.05, 0.2):
        code, err = stop(path, broken, signal.SIGKILL, broken / "stages" / "teacher" / STATE, wait)
        assert code == -9, err
    assert process("run", path, "--device", "cpu", "--out", broken).code == 0
    for stage in ("teacher", "student"):
        assert sha256_file(whole / "stages" / stage / WEIGHTS) == sha256_file(
            broken / "stages" / stage / WEIGHTS
        )


@pytest.mark.slow
def test_two_processes_train_against_each_other(tmp_path: Path) -> None:
    """Both players exchange gradients; the frozen one does not wait for what never comes."""
    for accumulate in (1, 2):
        path = recipe(tmp_path, fit=RECIPE["fit"] | {"accumulate": accumulate})
        folder = tmp_path / f"runs-{accumulate}" / "two"
        answer = process("run", path, "--device", "cpu", "--devices", 2, "--out", folder)
        assert answer.code == 0, answer.err
        row = read_curves(folder / "stages" / "teacher" / "curves.csv")[-1]
        assert row["discriminators/loss"] > 0


@pytest.mark.slow
def test_a_sure_discriminator_is_told_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.training.saturation.PERFECT", 0.0)
    path = recipe(tmp_path, fit=RECIPE["fit"] | {"epochs": 4}, stages={"teacher": ADVERSARIAL}, export=None)
    folder = tmp_path / "runs" / "tiny"
    answer = segdistill("run", path, "--device", "cpu", "--out", folder)
    assert answer.code == 0, answer.err
    line = "warning: stage teacher: discriminator 1 is perfect in epochs 1 to 3: "
    assert answer.err.count(line) == 1
    assert "teacher: discriminator 2 is perfect in epochs 1 to 4: " in (folder / "report.html").read_text()


def first_warnings(loaded: Recipe, folder: Path) -> list[str]:
    """What a run says before it looks at its data."""
    texts = (event.text for event in run_recipe(loaded, None, folder, Machine("cpu")))
    return list(takewhile(lambda text: text.startswith("warning: "), texts))


@pytest.mark.slow
def test_maps_smaller_than_what_a_logit_looks_at_are_told_once(tmp_path: Path) -> None:
    """32 px for both discriminators; at 99 px and more nothing is said, but native maps are half as large."""
    path, folder = recipe(tmp_path, folds=2), tmp_path / "run"
    (line,) = first_warnings(load_recipe(str(path)), folder)
    assert line.startswith(
        "warning: stage teacher: discriminators see maps of 32x32, smaller than the 99x99 pixels"
    )
    for size, native, seen in ((96, False, "96x96"), (100, False, None), (100, True, "50x50")):
        changes = [f"data.size={size}", f"stages.teacher.adversarial.native_size={str(native).lower()}"]
        loaded = load_recipe(str(path), changes)
        lines = recipe_warnings(loaded, list(loaded.stages))
        assert [seen in line for line in lines if seen] == ([True] if seen else [])
        assert len(lines) == (seen is not None)
    assert recipe_warnings(loaded, ["student"]) == []


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"task": "supervised"}, "adversarial belongs to a stage with task: adversarial"),
        (
            {"teachers": {"x": {}}},
            "teachers belongs to a stage with task: distillation or autoencoder, not adversarial",
        ),
        ({"loss": {"name": "dice"}}, "set its weights under adversarial"),
        ({"adversarial": {"gan": "wasserstein"}}, "gan: Input should be 'minimax' or 'non_saturating'"),
        ({"adversarial": {"alpha": [1.0, -0.1]}}, "alpha has a negative weight"),
        ({"adversarial": {"stages": 2}}, "unknown key"),
        ({"hard_weight": 0.5}, "hard_weight belongs to a stage with task: distillation"),
        ({"routing": "by_class"}, "routing belongs to a stage with task: distillation"),
    ],
)
def test_what_a_recipe_must_not_say(stage: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, stages={"teacher": ADVERSARIAL | stage}, export=None)
    answer = segdistill("run", path, "--out", tmp_path / "run")
    assert answer.code == 2
    assert message in answer.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("data.size=16",),
            "stage teacher: the maps of discriminator 1 are 16x16, but must be at least 32x32",
        ),
        (("stages.teacher.adversarial.native_size=true",), "the maps of discriminator 2 are 16x16"),
        (
            ("stages.teacher.adversarial.adv_stages=3",),
            "uses 3 stages, but the network has 2 supervised ones",
        ),
        (("stages.teacher.model.stages=1", "stages.teacher.adversarial.alpha=[]"), "alpha"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    changes: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    words = [word for change in changes for word in ("--set", change)]
    answer = segdistill("run", recipe(tmp_path), "--out", tmp_path / "run", *words)
    assert answer.code == 2
    assert message in answer.line
    assert not (tmp_path / "run").exists()


def test_the_recipes_are_the_papers() -> None:
    """Training settings and weights as printed, and the ablation's stages."""
    names = [name for name in bundled_recipes() if name.startswith("usseg/")]
    assert names == [
        f"usseg/{name}" for name in ("ablation", "busi", "cpu", "distill", "distill_cpu", "networks")
    ]
    paper = load_recipe("usseg/busi")
    fit, used = paper.fit, paper.stages["us_seg"].adversarial_settings
    assert (fit.epochs, fit.batch_size, fit.optimizer.name, fit.optimizer.lr) == (100, 4, "adam", 1e-4)
    assert (fit.schedule.name, paper.data.size, paper.data.channels, paper.folds) == ("constant", 512, 1, 5)
    assert (used.alpha, used.beta) == ([1, 0.1, 0.1, 0.1], [0.05] * 4)
    assert (used.gan, used.condition, used.native_size) == ("minimax", "map", False)
    ablation = load_recipe("usseg/ablation")
    stages = [ablation.stages[name].model.options.get("stages", 4) for name in ablation.run]
    assert stages == [4, 1, 2, 3]
    assert load_recipe("usseg/cpu").folds is None


def test_table_3_reads_evaluations_on_other_datasets(tmp_path: Path) -> None:
    """As `external` of a recipe leaves them in the stages' folders; the published numbers are the paper's."""
    for fold, dice in ((1, 0.70), (2, 0.74)):
        run = tmp_path / "usseg" / f"fold-{fold}"
        RunRecord(recipe=f"usseg/busi/fold-{fold}", data="BUSI").write(run)
        (run / "recipe.yaml").write_text("data: {dataset: busi, size: 512}")
        scores = {name: Interval(mean, None, None, 42) for name, mean in (("dice", dice), ("rmse_map", 0.2))}
        place = run / "stages" / "us_seg" / "external" / "stu"
        EvaluationRecord(model="us_seg", summary=Summary(scores)).write(place)
    (tmp_path / "usseg" / "folds.json").write_text(json.dumps({"recipe": "usseg/busi", "folds": 2}))
    (table,) = compare_with_paper("usseg", tmp_path, "3")
    first, second = table["rows"]
    assert first["published"]["dice"] == 0.8135
    ours = first["ours"]["paper"]
    assert ours["values"]["dice"] == pytest.approx(0.72)
    assert ours["difference"]["dice"] == pytest.approx(-0.0935)
    assert ours["spread"]["dice"] == pytest.approx(0.04 / 2**0.5)  # over folds
    assert ours["values"]["precision"] is None
    assert second["ours"]["paper"]["status"] == "not run"


def test_the_published_tables_are_those_of_the_paper() -> None:
    """Jaccard of one case is Dice / (2 - Dice); of means it cannot be far above it, and never below."""
    paper = read_paper("usseg")
    rows = [row for parts in paper.tables.values() for part in parts for row in part.rows if row.values]
    assert len(rows) == 14
    for row in rows:
        assert row.values is not None
        dice, _, _, jaccard = row.values[:4]
        assert dice is not None
        assert jaccard is not None
        assert 0 <= jaccard - dice / (2 - dice) < 0.03, row.name
        assert set(row.stage) <= set(load_recipe("usseg/busi").stages)
