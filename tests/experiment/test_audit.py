from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill.data.table import read_cases, write_cases
from segdistill.errors import InputError
from segdistill.experiment.audit import audit, disagreement, looks_like
from tests.experiment.tiny import segdistill, write_recipe

SIZE = 40


def disc(row: int, column: int, radius: int = 6) -> np.ndarray:
    y, x = np.indices((SIZE, SIZE))
    return np.asarray((y - row) ** 2 + (x - column) ** 2 <= radius**2)


SEEN = disc(20, 14)
SURE = np.where(SEEN, 0.98, 0.02).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros_like(SEEN), "empty mask"),
        (~SEEN, "inverted"),
        (disc(20, 30), "foreground elsewhere"),
        (disc(20, 18), "shifted outline"),
        (disc(20, 14, 10), "much larger than predicted"),
        (disc(20, 14, 4), "much smaller than predicted"),
        (SEEN, "other outline"),
    ],
)
def test_what_a_mask_looks_like(mask: np.ndarray, words: str) -> None:
    assert looks_like(mask, SEEN) == words


def test_wrong_masks_score_above_hard_cases() -> None:
    wrong = {
        "empty": disagreement(np.zeros_like(SEEN), SURE),
        "inverted": disagreement(~SEEN, SURE),
        "elsewhere": disagreement(disc(20, 30), SURE),
    }
    unsure = np.where(SEEN, 0.6, 0.4).astype(np.float32)
    hard = {
        "overlooked": disagreement(SEEN, np.full_like(SURE, 0.02)),
        "unsure": disagreement(disc(20, 30), unsure),
        "rim": disagreement(disc(20, 15), SURE),
    }
    assert min(wrong.values()) > 0.9 > 0.35 > max(hard.values())
    assert disagreement(SEEN, SURE) == 0
    volume = np.stack([SEEN, SEEN]), np.stack([SURE, SURE])
    assert disagreement(*volume) == disagreement(SEEN, SURE)


def test_score_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    mask, probability = rng.random((9, 9)) < 0.4, rng.random((9, 9)).astype(np.float32)
    extra = missed = 0.0
    for p, m in zip(probability.ravel().astype(float), mask.ravel(), strict=True):
        extra += (2 * p - 1) / (probability > 0.5).sum() if p > 0.5 and not m else 0
        missed += (1 - 2 * p) / mask.sum() if p <= 0.5 and m else 0
    assert disagreement(mask, probability) == pytest.approx(0.7 * extra + 0.3 * missed)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of a short training, in whose table one mask was emptied and one turned round afterwards."""
    folder = tmp_path_factory.mktemp("audit")
    stage = {
        "model": {"name": "simplified_unet", "widths": [4, 8, 8]},
        "loss": {"name": "cross_entropy_dice"},
    }
    fit = {"epochs": 8, "batch_size": 4, "precision": "fp32", "workers": 0, "optimizer": {"lr": 0.02}}
    recipe = write_recipe(folder, stages={"net": stage}, export="net", fit=fit)
    answer = segdistill("run", recipe, "--set", "folds=2", "--device", "cpu", "--out", folder / "run")
    assert answer.code == 0, answer.err
    return folder / "run"


def spoil(run: Path, folder: Path) -> dict[str, str]:
    """Empties one tested mask of each fold, and turns another round; gives case -> what was done."""
    done = {}
    for fold in (1, 2):
        table = run / f"fold-{fold}" / "cases.csv"
        cases = read_cases(table)
        tested = [case for case in cases if case.split == "test"]
        for case, kind in zip(tested, ("empty mask", "inverted"), strict=False):
            mask = np.asarray(Image.open(case.masks[0])) > 0
            path = folder / f"{case.id}.png"
            Image.fromarray((~mask if kind == "inverted" else mask & False).astype(np.uint8) * 255).save(path)
            done[case.id] = kind
            cases[cases.index(case)] = replace(case, masks=(path,), foreground=(255,))
        write_cases(cases, table)
    return done


def test_spoiled_masks_of_a_cross_validated_run_come_first(crossed: Path, tmp_path: Path) -> None:
    whole = audit(crossed)
    tested = [c.id for f in (1, 2) for c in read_cases(crossed / f"fold-{f}/cases.csv") if c.split == "test"]
    assert sorted(row.case.id for row in whole.findings) == sorted(tested)
    assert {row.networks for row in whole.findings} == {1}
    assert whole.unseen == 0
    kept = {f: (crossed / f"fold-{f}" / "cases.csv").read_text() for f in (1, 2)}
    try:
        done = spoil(crossed, tmp_path)
        answer = segdistill("data", "audit", crossed, "-o", tmp_path / "out", "--top", 6)
        assert answer.code == 0, answer.err
        with (tmp_path / "out" / "audit.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = {row["case"]: row["looks_like"] for row in rows[:6]}
        assert set(done) <= set(found)
        assert {case: found[case] for case in done} == done
        assert [row["rank"] for row in rows] == [str(k) for k in range(1, len(tested) + 1)]
        scores = [float(row["score"]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert Path(rows[0]["mask"]).is_file()
        assert Path(rows[0]["image"]).is_file()
        with Image.open(tmp_path / "out" / "sheet.png") as sheet:
            blue = (np.asarray(sheet.convert("RGB")) == (0, 176, 255)).all(axis=-1)
            assert sheet.size == (6 * 164 + 4, 160 + 14 + 8)
            assert blue.sum() > 100
        found_json = json.loads(
            segdistill("data", "audit", crossed, "--json", "--top", 2, "-o", tmp_path / "j").out
        )
        assert [row["rank"] for row in found_json["findings"]] == [1, 2]
        assert found_json["masks"] == len(tested)
    finally:
        for fold, text in kept.items():
            (crossed / f"fold-{fold}" / "cases.csv").write_text(text)


def test_a_plain_run_is_audited_outside_its_training(run_folder: Path) -> None:
    found = audit(run_folder, "teacher")
    cases = read_cases(run_folder / "cases.csv")
    assert {row.case.id for row in found.findings} == {case.id for case in cases if case.split != "train"}
    assert found.unseen == sum(case.split == "train" for case in cases)
    assert found.notes == [f"teacher: {len(found.findings)} cases with a mask that it did not train on"]


def test_out_of_fold_stages_audit_every_case(tmp_path: Path) -> None:
    teacher = {"model": {"name": "simplified_unet", "widths": [2, 4]}, "out_of_fold": 2}
    recipe = write_recipe(tmp_path, stages={"teacher": teacher}, export=None)
    content = yaml.safe_load(recipe.read_text())
    content["fit"]["epochs"] = 1
    recipe.write_text(yaml.safe_dump(content))
    answer = segdistill("run", recipe, "--device", "cpu", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    found, named = audit(tmp_path / "run"), audit(tmp_path / "run", "teacher")
    cases = {case.id: case for case in read_cases(tmp_path / "run" / "cases.csv")}
    assert found.unseen == 0
    assert len(found.findings) == len(cases)
    for row in found.findings:  # of a test case both did not see it
        assert row.networks == (1 if cases[row.case.id].split == "train" else 2)
    assert [row.score for row in named.findings] == [row.score for row in found.findings]
    alone = audit(tmp_path / "run", "teacher-fold-1")
    assert 0 < alone.unseen < len(cases)


def test_bad_input(run_folder: Path, tmp_path: Path) -> None:
    assert "is not the folder of a run" in segdistill("data", "audit", tmp_path).line
    assert "did you mean 'student'" in segdistill("data", "audit", run_folder, "--stage", "studnet").line
    assert "--top must be at least 1" in segdistill("data", "audit", run_folder, "--top", 0).line
    (tmp_path / "recipe.yaml").write_text("stages: {a: {model: 3}}")
    (tmp_path / "cases.csv").write_text("id,image\n")
    with pytest.raises(InputError, match=r"recipe\.yaml is damaged"):
        audit(tmp_path)
