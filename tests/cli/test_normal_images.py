"""Images labelled normal need no mask: index, check, run and evaluate take them as images with nothing to find."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.data.case import Case, reference_mask
from segdistill.data.check import check_cases
from segdistill.data.phantom import write_phantom
from segdistill.errors import InputError
from segdistill.experiment.cases import training_cases
from tests.experiment.tiny import segdistill, write_recipe

NOTE = "normal images without mask: 4, taken as images with nothing to find"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """40 images in sub-folders of their class, 4 of them `Normal`, which have no folder of masks."""
    cases = write_phantom(tmp_path / "drawn", 40, size=32)
    for case in cases:
        label = case.label.capitalize() if case.label == "normal" else case.label
        for kind, file in (("images", case.image), *(("masks", m) for m in case.masks)):
            if kind == "images" or label != "Normal":
                (tmp_path / "own" / kind / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / "own" / kind / label / file.name)
    return tmp_path / "own"


@pytest.mark.slow
def test_index_check_run_and_evaluate_agree(own: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "cases.csv", tmp_path / "runs" / "r"
    indexed = segdistill("data", "index", "folder", own, "-o", table)
    assert indexed.code == 0, indexed.err
    assert f"note: {NOTE}" in indexed.out
    assert segdistill("data", "check", table).code == 0
    recipe = write_recipe(tmp_path, data={"size": 32, "channels": 1})
    trained = []
    for source in (own, table):
        done = segdistill("run", recipe, "--data", source, "--device", "cpu", "--out", out)
        assert done.code == 0, done.err
        assert NOTE in done.err
        trained.append(json.loads((out / "stages" / "student" / "stage.json").read_text())["train_cases"])
    divided = (out / "cases.csv").read_text().splitlines()
    assert trained == [sum(row.endswith(",train") for row in divided)] * 2  # none is left out
    evaluated = segdistill("evaluate", out / "model.onnx", table, "--split", "all", "--json")
    found = json.loads(evaluated.out)
    assert found["summary"]["normal"]["false_positive_rate"]["n"] == 4
    assert found["skipped"] == []


def test_another_image_without_mask_is_refused_alike(own: Path, tmp_path: Path) -> None:
    mask = next((own / "masks" / "benign").iterdir())
    mask.unlink()
    indexed = segdistill("data", "index", "folder", own, "-o", tmp_path / "t.csv")
    recipe = write_recipe(tmp_path, data={"size": 32, "channels": 1})
    done = segdistill("run", recipe, "--data", own, "--device", "cpu", "--out", tmp_path / "r")
    for answer in (indexed, done):
        assert answer.code == 2
        told = next(line for line in answer.err.splitlines() if mask.name in line)
        assert "image without mask" in told
        assert "label it normal if there is nothing to find" in told
    assert not (tmp_path / "t.csv").exists()


def test_the_reference_of_a_normal_case_is_empty(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    marked = np.zeros((16, 16), np.uint8)
    marked[4:9, 4:9] = 255
    Image.fromarray(marked).save(tmp_path / "m.png")
    bare = Case("a", tmp_path / "a.png", label="Normal")
    assert not reference_mask(bare, (16, 16)).any()
    assert [f.message for f in check_cases([bare]) if f.level != "note"] == []
    wrong = Case("a", tmp_path / "a.png", (tmp_path / "m.png",), label="normal")
    warned = [f.message for f in check_cases([wrong]) if f.level == "warning"]
    assert len(warned) == 1
    assert "a normal case with something marked" in warned[0]


def test_normal_cases_alone_teach_nothing() -> None:
    cases = [Case(str(k), Path("a.png"), label="normal", split="train") for k in range(3)]
    with pytest.raises(InputError, match="no training case has a mask"):
        training_cases(cases, "train", None, "stage net")
    lesion = Case("b", Path("b.png"), (Path("m.png"),), label="benign", split="train")
    assert len(training_cases([*cases, lesion], "train", None, "stage net")) == 4
