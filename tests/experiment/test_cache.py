"""`cache: true` in a recipe: shared beside the runs, never stale, refused where it makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.config.load import load_recipe
from segdistill.errors import InputError
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.training.curves import read_curves
from tests.experiment.tiny import RECIPE, segdistill

STUDENT = RECIPE["stages"]["student"]


def write(folder: Path, fit: dict[str, Any] | None = None, **student: Any) -> Path:
    stages = RECIPE["stages"] | {"student": STUDENT | {"cache": True} | student}
    content = RECIPE | {"stages": stages, "fit": RECIPE["fit"] | {"views": 1} | (fit or {})}
    path = folder / "cached.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *_: None)
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *_: ([], {}))
    monkeypatch.setattr("segdistill.experiment.work.evaluate_stage", lambda *_: iter(()))


def run(folder: Path, recipe: Path, *changes: str) -> list[str]:
    return [e.text for e in run_recipe(load_recipe(str(recipe), list(changes)), None, folder, Machine("cpu"))]


def entries(runs: Path) -> set[str]:
    return {path.name for path in (runs / ".cache").glob("*")}


@pytest.mark.usefixtures("brief")
@pytest.mark.slow
def test_it_learns_what_it_would_without(tmp_path: Path) -> None:
    recipe = write(tmp_path, {"epochs": 3, "views": 2})
    run(tmp_path / "runs" / "cached", recipe)
    run(tmp_path / "runs" / "online", recipe, "stages.student.cache=false")
    curves = [
        read_curves(tmp_path / "runs" / name / "stages/student/curves.csv") for name in ("cached", "online")
    ]
    for kept, plain in zip(*curves, strict=True):
        assert kept["loss"] == pytest.approx(plain["loss"], rel=1e-3)
        assert kept["teacher/soft_prediction"] == pytest.approx(plain["teacher/soft_prediction"], rel=1e-2)
    assert curves[0] != curves[1]


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_other_teachers_views_and_images_have_entries_of_their_own(tmp_path: Path) -> None:
    recipe, runs = write(tmp_path), tmp_path / "runs"
    assert any("teacher cache:" in text for text in run(runs / "a", recipe))
    known = entries(runs)
    assert len(known) == 1
    same = [("fit.epochs=1",), ("stages.student.methods.soft_prediction.temperature=3.0",)]
    for number, changes in enumerate([(), ("stages.student.hard_weight=0.1",), *same[1:]]):
        assert not any("teacher cache:" in text for text in run(runs / f"same{number}", recipe, *changes))
    assert entries(runs) == known
    for number, change in enumerate(
        [
            "stages.teacher.fit={epochs: 1}",  # another teacher
            "seed=4",
            "fit.augment=vessel",
            "data.split.seed=8",  # other training cases, and so another teacher too
            "data.channels=3",
            "stages.student.methods={soft_prediction: {method: attention_transfer}}",
        ]
    ):
        assert any("teacher cache:" in text for text in run(runs / f"other{number}", recipe, change)), change
        assert len(entries(runs)) == len(known) + number + 1, change


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_auto_encoders_are_part_of_the_key(tmp_path: Path) -> None:
    codes = {"task": "autoencoder", "model": {"name": "feature_autoencoder", "layers": [2]}}
    read = {"student": "student_codes", "teacher": "teacher_codes"}
    stages = {
        "teacher": RECIPE["stages"]["teacher"],
        "baseline": {"model": STUDENT["model"]},
        "teacher_codes": codes | {"teachers": {"teacher": {}}},
        "student_codes": codes | {"teachers": {"baseline": {}}},
        "student": STUDENT
        | {"cache": True, "methods": {"feature_similarity": {"layers": [2], "autoencoders": read}}},
    }
    path = tmp_path / "fsd.yaml"
    path.write_text(
        yaml.safe_dump(RECIPE | {"stages": stages, "fit": RECIPE["fit"] | {"views": 1}}, sort_keys=False)
    )
    run(tmp_path / "runs" / "a", path)
    assert len(entries(tmp_path / "runs")) == 1
    run(tmp_path / "runs" / "b", path, "stages.student_codes.fit={epochs: 1}")  # the student's are not asked
    assert len(entries(tmp_path / "runs")) == 1
    run(tmp_path / "runs" / "c", path, "stages.teacher_codes.fit={epochs: 1}")
    assert len(entries(tmp_path / "runs")) == 2


@pytest.mark.parametrize(
    ("fit", "student", "message"),
    [
        ({"views": None}, {}, "stages.student.cache: it needs a fixed number of views .* set fit.views"),
        (
            {},
            {"finetune_teachers": True},
            "finetune_teachers changes the targets that cache keeps: set cache: false",
        ),
        ({}, {"cache_limit_gb": 0.0}, "cache_limit_gb"),
        (
            {},
            {"task": "supervised", "teachers": {}, "methods": {}},
            "cache belongs to a stage with task: dist",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, fit: dict[str, Any], student: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(str(write(tmp_path, fit, **student)))


@pytest.mark.slow
def test_the_limit_stops_the_run_with_what_to_set(tmp_path: Path) -> None:
    recipe = write(tmp_path, cache_limit_gb=1e-6)
    answer = segdistill("run", recipe, "--device", "cpu", "--out", tmp_path / "runs" / "r")
    assert answer.code == 2
    assert "set cache_limit_gb to 1" in answer.line
    assert segdistill("run", recipe, "--device", "cpu", "--out", tmp_path / "runs" / "r",
                      "--set", "stages.student.cache_limit_gb=1.0").code == 0  # fmt: skip


def test_the_limit_is_no_input_of_the_stage(tmp_path: Path) -> None:
    recipes = [
        load_recipe(str(write(tmp_path)), [f"stages.student.cache_limit_gb={size}"]) for size in (1.0, 2.0)
    ]
    assert recipes[0].stages["student"].facts() == recipes[1].stages["student"].facts()
    assert "cache" in recipes[0].stages["student"].facts()
