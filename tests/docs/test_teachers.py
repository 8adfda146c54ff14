"""The pages on teachers from elsewhere: their recipes read files laid out as the tools of the page write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.data import layouts
from tests.docs.pages import ROOT, examples
from tests.runtime import small_model

import segdistill
from segdistill.config.effort import DataFacts
from segdistill.config.load import load_recipe
from segdistill.data.case import Case
from segdistill.data.plan import VolumePlan
from segdistill.data.predictions import PredictionSource, open_predictions, read_trained_on
from segdistill.data.table import write_cases

SOFT = layouts.softmax_of(layouts.two_organs(), 3)
NAMES = {1: "anterior", 2: "posterior"}
NNUNET = {"background": 0, "anterior": 1, "posterior": 2}
PLAN = VolumePlan(None, (8, 16, 16), (8, 16, 12), 3, (0.0, 9.0))


def nnunet(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        layouts.nnunet(folder, case.id, SOFT, SOFT.argmax(0), case.image, np.float16)
    layouts.dataset_json(folder, NNUNET)


def nnunet_folds(folder: Path, cases: list[Case]) -> None:
    for k, case in enumerate(cases):
        layouts.nnunet(folder / f"fold_{k}/validation", case.id, SOFT, SOFT.argmax(0), case.image)
    layouts.dataset_json(folder, NNUNET)


def one_organ_folds(folder: Path, cases: list[Case]) -> None:
    soft = np.stack([SOFT[0], 1 - SOFT[0]])
    for k, case in enumerate(cases):
        layouts.nnunet(folder / f"fold_{k}/validation", case.id, soft, soft.argmax(0), case.image)
    layouts.dataset_json(folder, {"background": 0, "organ": 1})


def one_organ(folder: Path, cases: list[Case]) -> None:
    soft = np.stack([SOFT[0], 1 - SOFT[0]])
    for case in cases:
        layouts.nnunet(folder, case.id, soft, soft.argmax(0), case.image)
    layouts.dataset_json(folder, {"background": 0, "organ": 1})


def total(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        layouts.totalsegmentator(folder, case, layouts.two_organs(), {1: "liver", 2: "spleen"})


def total_in_one_file(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        table = layouts.label_table({1: "liver", 2: "spleen"})
        layouts.nifti_like(case.image, layouts.two_organs(), folder / f"{case.id}.nii.gz", table)


def monai(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        layouts.monai(folder, case, (layouts.two_organs() > 0).astype(np.uint8))


def monai_maps(folder: Path, cases: list[Case]) -> None:
    for case in cases:
        layouts.monai(folder, case, SOFT)


TEACHERS = pytest.mark.parametrize(
    ("page", "recipe", "teacher", "lay_out"),
    [
        ("teacher-nnunet", "from-nnunet", "nnunet", nnunet),
        ("teacher-nnunet", "from-folds", "nnunet", nnunet_folds),
        ("teacher-totalsegmentator", "from-totalsegmentator", "total", total),
        ("teacher-totalsegmentator", "from-totalsegmentator", "total", total_in_one_file),
        ("teacher-monai", "from-monai", "bundle", monai),
        ("teacher-monai", "from-monai", "bundle", monai_maps),
        ("five-folds-into-one", "nnunet-folds", "folds", one_organ_folds),
        ("five-folds-into-one", "nnunet-folds", "ensemble", one_organ),
        ("predictions-of-other-tools", "outside", "big", total),
    ],
)


def recipe_of(page: str, recipe: str) -> str:
    blocks = [each.text for each in examples(ROOT / f"docs/how-to/{page}.md")]
    return next(text for text in blocks if text.startswith(f"# {recipe}.yaml"))


@TEACHERS
def test_page(
    tmp_path: Path, page: str, recipe: str, teacher: str, lay_out: Callable[[Path, list[Case]], None]
) -> None:
    blocks = [
        each.text for each in examples(ROOT / f"docs/how-to/{page}.md") if f"# {recipe}.yaml" in each.text
    ]
    entry = yaml.safe_load(blocks[0])["stages"]["student"]["teachers"][teacher]
    cases = layouts.volume_cases(tmp_path, ["c1", "c2"])
    lay_out(tmp_path / entry["predictions"], cases)
    source = PredictionSource(tmp_path / entry["predictions"], tuple(entry.get("foreground", ())) or None)
    found = open_predictions(source, cases)
    assert found.note == "predictions of 2 of 2 cases"
    assert read_trained_on(entry["trained_on"], cases) == (
        {"c1", "c2"} if entry["trained_on"] == "all" else set()
    )
    assert bool(found.folds) == ("folds" in lay_out.__name__)
    for case in cases:
        assert 0.01 < (found.map(case) >= 0.5).mean() < 0.5


def masked(folder: Path, count: int = 6) -> list[Case]:
    """Cases, all but the last with a mask, whose table lies in the folder."""
    cases = []
    for k, case in enumerate(layouts.volume_cases(folder, [f"c{k}" for k in range(count)])):
        mask = layouts.nifti_like(
            case.image, (layouts.two_organs() > 0).astype(np.uint8), folder / f"labels/{case.id}.nii.gz"
        )
        split = "val" if k == 0 else "test" if k == 1 else "train"
        cases.append(replace(case, masks=(mask,) if k < count - 1 else (), split=split))
    write_cases(cases, folder / "cases.csv")
    return cases


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "recipe", "lay_out"),
    [
        ("teacher-nnunet", "from-nnunet", nnunet),
        ("teacher-nnunet", "from-folds", nnunet_folds),
        ("teacher-totalsegmentator", "from-totalsegmentator", total),
        ("teacher-monai", "from-monai", monai_maps),
        ("teacher-onnx", "from-model", None),
        ("five-folds-into-one", "nnunet-folds", one_organ_folds),
    ],
)
def test_page_trains(
    tmp_path: Path, page: str, recipe: str, lay_out: Callable[[Path, list[Case]], None] | None
) -> None:
    """The student of the page, small and short."""
    text = recipe_of(page, recipe)
    (tmp_path / "page.yaml").write_text(text)
    cases = masked(tmp_path)
    teachers = {name: t for name, t in yaml.safe_load(text)["stages"]["student"]["teachers"].items() if t}
    for entry in teachers.values():
        if lay_out is None:
            small_model.save(tmp_path / entry["onnx"])
        else:
            (one_organ if entry["predictions"] == "ensemble" else lay_out)(
                tmp_path / entry["predictions"], cases
            )
    done = segdistill.run(
        tmp_path / "page.yaml",
        data=tmp_path / "cases.csv",
        out=tmp_path / "run",
        stages=["student"],
        set={
            **{"data.size": 32, "fit.epochs": 1, "fit.workers": 0, "fit.precision": "fp32"},
            "stages.student.model.widths": [2, 4, 4],
        },
        device="cpu",
        progress=False,
    )
    assert (done.folder / "stages/student/weights.safetensors").is_file()
    trained = yaml.safe_load((done.folder / "recipe.yaml").read_text())["stages"]["student"]
    assert set(trained["teachers"]) == set(teachers)


@pytest.mark.parametrize(
    ("page", "recipe"), [("teacher-nnunet", "from-nnunet"), ("teacher-onnx", "from-model")]
)
@pytest.mark.parametrize("facts", [DataFacts(without_mask=True), DataFacts(volumes=PLAN)])
def test_the_page_s_teacher_teaches_whatever_the_data(
    tmp_path: Path, page: str, recipe: str, facts: DataFacts
) -> None:
    (tmp_path / "page.yaml").write_text(recipe_of(page, recipe))
    read = load_recipe(str(tmp_path / "page.yaml"), facts=lambda _: facts)
    (teacher,) = read.stages["student"].teachers.values()
    assert teacher.predictions or teacher.onnx
