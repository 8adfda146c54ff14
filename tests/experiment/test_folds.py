"""Cross-validation as one recipe: folds that are runs, a summary worked out again by hand, and refusals."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from segdistill.config.load import load_recipe
from segdistill.data.phantom import write_phantom
from segdistill.data.table import read_cases, write_cases
from segdistill.files import sha256_file
from segdistill.training.loop import WEIGHTS
from tests.experiment.tiny import RECIPE, process, segdistill, snapshot, write_recipe

STAGES = {"net": RECIPE["stages"]["teacher"]}
FIT = RECIPE["fit"] | {"epochs": 1}


def recipe(folder: Path, **changes: Any) -> Path:
    return write_recipe(folder, **{"stages": STAGES, "fit": FIT, "export": None, "folds": 3, **changes})


def run(path: Path, folder: Path, *words: object) -> Any:
    return segdistill("run", path, "--device", "cpu", "--out", folder, *words)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished cross-validation and what it printed; do not change its files."""
    base = tmp_path_factory.mktemp("folds")
    answer = run(recipe(base), base / "runs" / "tiny", "--json")
    assert answer.code == 0, answer.err
    return base / "runs" / "tiny", json.loads(answer.out)


def test_every_case_is_tested_once(crossed: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = crossed
    tested: list[str] = []
    for fold in (1, 2, 3):
        cases = read_cases(folder / f"fold-{fold}" / "cases.csv")
        here = {case.id for case in cases if case.split == "test"}
        with open(folder / f"fold-{fold}" / "stages" / "net" / "metrics.csv", newline="") as file:
            assert {row["case"] for row in csv.DictReader(file)} == here
        assert {"benign", "malignant"} <= {case.label for case in cases if case.id in here}
        tested += sorted(here)
    assert len(tested) == len(set(tested)) == 30


def test_the_summary_is_mean_and_standard_deviation_over_folds(crossed: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = crossed
    means = []
    for fold in (1, 2, 3):
        with open(folder / f"fold-{fold}" / "stages" / "net" / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["reference_area"]) > 0]
        means.append([statistics.fmean(float(row[name]) for row in rows) for name in ("dice", "recall")])
    kept = json.loads((folder / "folds.json").read_text())
    assert (kept["folds"], kept["finished"]) == (3, [1, 2, 3])
    for name, values in zip(("dice", "recall"), zip(*means, strict=True), strict=True):
        found = kept["stages"]["net"]["summary"]["all"][name]
        assert found["mean"] == pytest.approx(sum(values) / 3)
        centre = sum(values) / 3
        assert found["sd"] == pytest.approx((sum((v - centre) ** 2 for v in values) / 2) ** 0.5)
        assert list(found["folds"].values()) == pytest.approx(list(values))
    assert set(kept["stages"]["net"]["summary"]) >= {"all", "benign", "malignant"}
    assert printed["stages"]["net"]["summary"] == kept["stages"]["net"]["summary"]
    assert " ± " in printed["stages"]["net"]["line"]
    assert "over 3 folds" in printed["stages"]["net"]["line"]
    page = (folder / "report.html").read_text()
    assert all(f'href="fold-{fold}/report.html"' in page for fold in (1, 2, 3))
    assert f"{kept['stages']['net']['summary']['all']['dice']['mean']:.3f} ± " in page


def test_folds_share_one_store_and_are_ordinary_runs(crossed: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = crossed
    assert len(list((folder / ".store").glob("store-*"))) == 1
    one = folder / "fold-2"
    assert segdistill("evaluate", one, one / "cases.csv").code == 0
    refused = segdistill("evaluate", folder, one / "cases.csv")
    assert refused.code == 2
    assert "give one of them, such as" in refused.line


@pytest.mark.slow
def test_nothing_is_done_twice_and_some_folds_can_go_elsewhere(
    crossed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Fold 2 alone, then the rest: the same weights as in one go, and the summary says what is missing."""
    whole, _ = crossed
    path, folder = recipe(tmp_path), tmp_path / "runs" / "tiny"
    answer = run(path, folder, "--set", "only_folds=[2]")
    assert answer.code == 0, answer.err
    assert "over 1 of 3 folds" in answer.out
    assert "1 of 3 folds are finished" in (folder / "report.html").read_text()
    answer = run(path, folder)
    assert answer.code == 0, answer.err
    assert "fold 2 of 3: stage net: finished before, nothing changed" in answer.err
    assert "over 3 folds" in answer.out
    for fold in (1, 2, 3):
        place = Path(f"fold-{fold}") / "stages" / "net" / WEIGHTS
        assert sha256_file(whole / place) == sha256_file(folder / place)


@pytest.mark.slow
def test_a_failed_training_does_not_stop_the_other_folds(tmp_path: Path) -> None:
    wild = STAGES["net"] | {"may_fail": True, "fit": {"optimizer": {"name": "sgd", "lr": 1e30}}}
    folder = tmp_path / "runs" / "tiny"
    answer = run(recipe(tmp_path, folds=2, stages=STAGES | {"wild": wild}), folder)
    assert answer.code == 4
    assert answer.line.startswith(
        "trainings failed in 2 of 2 folds (1, 2): fold 1: 1 trainings failed (wild): wild: "
    )
    assert answer.line.endswith("run the same command again to repeat these")
    kept = json.loads((folder / "folds.json").read_text())
    assert kept["finished"] == [1, 2]
    assert list(kept["stages"]) == ["net"]
    assert "over 2 folds" in answer.out
    # mended for one fold: what the other lacks is said
    words = ("--set", "only_folds=[2]", "stages.wild.fit.optimizer.lr=0.01")
    assert run(tmp_path / "tiny.yaml", folder, *words).code == 0
    answer = run(tmp_path / "tiny.yaml", folder, "--set", "only_folds=[1]")
    assert answer.code == 4
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert "over 2 folds" in lines["net"]
    assert "over 1 of 2 folds" in lines["wild"]


def test_one_fold_by_hand_is_the_same_run(crossed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "by-hand"
    words = ("--set", "folds=null", "data.split.method=k_fold", "data.split.folds=3", "data.split.fold=2")
    assert run(recipe(tmp_path), folder, *words).code == 0
    same = Path("stages") / "net" / WEIGHTS
    assert sha256_file(folder / same) == sha256_file(crossed[0] / "fold-2" / same)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda case, n: case.label != "malignant" or n < 2, "label 'malignant' has"),
        (lambda case, n: case.label == "benign", "label 'malignant'"),
    ],
)
def test_a_fold_without_a_class_is_refused_before_anything_is_written(
    keep: Any, message: str, tmp_path: Path
) -> None:
    table = tmp_path / "data" / "cases.csv"
    write_phantom(table.parent, 30, size=32)
    seen: dict[str, int] = {}
    kept = []
    for case in read_cases(table):
        if keep(case, seen.get(case.label, 0)):
            kept.append(case)
        seen[case.label] = seen.get(case.label, 0) + 1
    write_cases(kept, table)
    path = recipe(tmp_path, data={"size": 32, "channels": 1, "labels": ["benign", "malignant"]})
    before = snapshot(tmp_path)
    answer = run(path, tmp_path / "run", "--data", table)
    assert answer.code == 2
    assert message in answer.line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("folds=1",), "greater than or equal to 2"),
        (("only_folds=[4]",), "no fold 4: with folds: 3 they are 1 to 3"),
        (("folds=40",), "for 40 splits"),
    ],
)
def test_folds_that_do_not_exist(changes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    answer = run(recipe(tmp_path), tmp_path / "run", "--set", *changes)
    assert answer.code == 2
    assert message in answer.line
    assert not (tmp_path / "run").exists()


def test_a_folder_holds_either_folds_or_a_run(run_folder: Path, tmp_path: Path) -> None:
    answer = run(recipe(tmp_path), run_folder)
    assert answer.code == 2
    assert "holds a run without folds: choose another --out" in answer.line


def test_any_recipe_can_be_cross_validated() -> None:
    assert load_recipe("lightbtseg/cpu", ["folds=5"]).folds == 5


@pytest.mark.slow
def test_folds_on_two_processes(tmp_path: Path) -> None:
    """The processes are connected once; from the second fold on a barrier lets the first one prepare."""
    folder = tmp_path / "runs" / "two"
    answer = process("run", recipe(tmp_path), "--device", "cpu", "--devices", 2, "--out", folder)
    assert answer.code == 0, answer.err
    assert answer.err.count("writing the report") == 3
    assert json.loads((folder / "folds.json").read_text())["finished"] == [1, 2, 3]
