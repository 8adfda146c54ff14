"""AMTD's and LightVessel's parts through recipes: weights by score, auto-encoder stages, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from segdistill.config.load import load_recipe
from segdistill.config.schema import parse_recipe
from segdistill.errors import InputError
from segdistill.experiment.check import check_parts
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.experiment.stage import load_stage
from tests.experiment.tiny import RECIPE, record_of, write_recipe

CODES = {"name": "feature_autoencoder", "layers": [2], "hidden": 8, "grid": 4}
NET = {"name": "simplified_unet", "widths": [2, 4, 4]}


def recipe(**changes: Any) -> dict[str, Any]:
    """LightVessel's order (teacher, baseline, auto-encoders, student), and a second teacher for AMTD's weights."""
    content = copy.deepcopy(RECIPE)
    teacher = content["stages"].pop("teacher")
    content["fit"]["epochs"] = 1
    content["stages"] = {
        "teacher": teacher,
        "other": {"model": {"name": "enet"}},
        "baseline": {"model": NET},
        "teacher_codes": {"task": "autoencoder", "model": CODES, "teachers": {"teacher": {}}},
        "other_codes": {"task": "autoencoder", "model": CODES, "teachers": {"other": {}}},
        "baseline_codes": {"task": "autoencoder", "model": CODES, "teachers": {"baseline": {}}},
        "student": {
            "task": "distillation",
            "model": NET,
            "loss": {"name": "amtd_seg"},
            "teachers": {"teacher": {}, "other": {}},
            "weighting": "score",
            "combine": "predictions",
            "methods": {
                "soft_prediction": {"temperature": 4.0, "weight": 0.1},
                "attention_transfer": {"weight": 0.1},
                "region_contrast": {"weight": 0.1, "layers": "emkd"},
                "adversarial_similarity": {},
                "feature_similarity": {
                    "layers": [2],
                    "autoencoders": {
                        "student": "baseline_codes",
                        "teacher": "teacher_codes",
                        "other": "other_codes",
                    },
                },
            },
        },
    }
    content = copy.deepcopy(content)  # parts above are shared
    for path, value in changes.items():
        at, *keys = path.split("__")
        place = content["stages"][at]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    return content


@pytest.mark.slow
def test_the_whole_order_runs_and_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path, **recipe())
    loaded = load_recipe(str(path), ["data.phantoms=30"])
    folder = tmp_path / "runs" / "r"
    chosen = loaded.with_teachers(["student"])
    assert chosen == list(loaded.stages)  # auto-encoders and what they learn from come along
    list(run_recipe(loaded, None, folder, Machine("cpu"), ["student"]))
    stages = folder / "stages"
    names = set(load_file(stages / "student" / "weights.safetensors"))
    assert names == set(load_file(stages / "baseline" / "weights.safetensors"))
    codes = load_file(stages / "teacher_codes" / "weights.safetensors")
    assert codes["coders.all.squeeze.2.weight"].shape == (1, 8)
    assert json.loads((folder / "run.json").read_text())["stages"] == [
        "teacher",
        "other",
        "baseline",
        "student",
    ]
    assert not (stages / "teacher_codes" / "metrics.csv").exists()
    curves = (stages / "student" / "curves.csv").read_text().splitlines()[0]
    assert "combined/soft_prediction" in curves
    assert "other/weight" in curves
    with pytest.raises(InputError, match="holds auto-encoders of features"):
        load_stage(stages / "teacher_codes")
    monkeypatch.setattr("segdistill.experiment.run.export_stage", lambda *_: None)
    monkeypatch.setattr("segdistill.experiment.run.report_run", lambda *_: ([], {}))
    before = {name: record_of(stages / name).fingerprint for name in chosen}
    texts = [event.text for event in run_recipe(loaded, None, folder, Machine("cpu"), ["student"])]
    assert sum("finished before" in text for text in texts) == len(chosen)
    changed = load_recipe(str(path), ["data.phantoms=30", "stages.teacher_codes.model.hidden=4"])
    list(run_recipe(changed, None, folder, Machine("cpu"), ["student"]))
    after = {name: record_of(stages / name).fingerprint for name in chosen}
    assert {name for name in chosen if before[name] != after[name]} == {"teacher_codes", "student"}


SIMILARITY = "student__methods__feature_similarity__"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student__weighting": "scores"}, r"unknown teacher weighting 'scores': did you mean 'score'"),
        (
            {"student__weighting": {"name": "softmax", "heat": 1}},
            r"no option 'heat': known: temperature",
        ),
        ({"student__combine": "mean"}, r"stages.student.combine: .*'losses' or 'predictions'"),
        (
            {"baseline__weighting": "score"},
            r"weighting belongs to a stage with task: distillation, not supervised",
        ),
        (
            {"student__methods__attention_transfer__layers": ["enc9"]},
            r"stage student: attention_transfer: the student has no fea",
        ),
        (
            {"student__methods__attention_transfer__layers": "ends"},
            r"layers 'ends' is neither enc_dec nor emkd",
        ),
        (
            {"student__methods__attention_transfer__autoencoders": {"student": "baseline_codes"}},
            r"only feature_similarity has",
        ),
        (
            {SIMILARITY + "autoencoders": {"student": "baseline_codes"}},
            r"needs autoencoders: \{student: STAGE, teacher: STA",
        ),
        (
            {
                SIMILARITY + "autoencoders": {
                    "student": "baseline",
                    "teacher": "teacher_codes",
                    "other": "other_codes",
                }
            },
            r"no stage 'baseline' with task: autoencoder is defined before it: did you mean 'baseline_codes'",
        ),
        (
            {SIMILARITY + "autoencoders": dict.fromkeys(("student", "teacher", "other"), "teacher_codes")},
            r"stage student: feature_similarity: .*of 'student' takes 8 channels at enc@2, but the network has 4",
        ),
        (
            {SIMILARITY + "layers": [4]},
            r"stage student: feature_similarity: .* were trained for enc@2, dec@2, not enc@4, dec@4",
        ),
        (
            {"teacher_codes__model": NET},
            r"task: autoencoder and model: \{name: feature_autoencoder\} belong together",
        ),
        (
            {"baseline__model": CODES},
            r"task: autoencoder and model: \{name: feature_autoencoder\} belong together",
        ),
        ({"teacher_codes__teachers": {}}, r"an autoencoder stage has one teacher"),
        (
            {"teacher_codes__model__layers": [32]},
            r"stage teacher_codes: teacher has no feature 'enc@32': it has enc1",
        ),
        (
            {"teacher_codes__model__depth": 3},
            r"stage teacher_codes: .*has no option 'depth': known: grid, hidden, latent, layers",
        ),
        ({"teacher_codes__model__hidden": 0}, r"hidden is 0, but must be at least 1"),
        (
            {"other_codes__teachers": {"teacher_codes": {}}},
            r"'teacher_codes' holds auto-encoders, no network",
        ),
        (
            {"other__model": {"name": "enet", "classes": 3}},
            r"stage other: model.classes is 3, but masks have background and one kind",
        ),
    ],
)
def test_what_is_refused_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    def check() -> None:
        loaded = parse_recipe(recipe(**changes), "r.yaml")
        check_parts(loaded, list(loaded.stages))

    with pytest.raises(InputError, match=words):
        check()
