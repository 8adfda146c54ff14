"""Students x teachers x variants x seeds: what is written out, what is trained once, and what may fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.config.load import load_recipe
from segdistill.config.matrix import expand_matrix, expand_seeds
from segdistill.errors import InputError
from segdistill.experiment.check import recipe_warnings
from tests.experiment.tiny import RECIPE, segdistill

UNET = {"model": {"name": "simplified_unet", "widths": [2, 4, 4]}}
TEACHER = {"model": {"name": "simplified_unet", "widths": [4, 8, 8]}}
SOFT = {"methods": {"soft_prediction": {}}}


def matrix_recipe(folder: Path, matrix: dict[str, Any], seeds: Any = None, **changes: Any) -> Path:
    content = {key: value for key, value in RECIPE.items() if key not in ("stages", "export")}
    content["fit"] = RECIPE["fit"] | {"views": 2}
    path = folder / "matrix.yaml"
    path.write_text(
        yaml.safe_dump(content | changes | {"matrix": matrix, "seeds": seeds}, sort_keys=False),
        encoding="utf-8",
    )
    return path


def test_every_combination_is_one_stage() -> None:
    matrix = {
        "students": {"small": UNET, "tiny": {"model": {"name": "unet", "widths": [2, 2]}}},
        "teachers": {"one": TEACHER, "two": TEACHER},
        "variants": {
            "baseline": None,
            "kd": SOFT,
            "both": SOFT | {"teachers": {"one": {}, "two": {"weight": 0.2}}},
        },
    }
    stages = expand_seeds(expand_matrix({"name": "m", "matrix": matrix, "seeds": [0, 5]}))["stages"]
    cells = [
        f"{student}-{variant}"
        for student in ("small", "tiny")
        for variant in ("baseline", "kd-one", "kd-two", "both")
    ]
    assert sorted(stages) == sorted(["one", "two", *(f"{cell}@{seed}" for cell in cells for seed in (0, 5))])
    assert stages["tiny-kd-two@5"]["teachers"] == {"two": {}}
    assert stages["tiny-kd-two@5"]["model"] == {"name": "unet", "widths": [2, 2]}
    facts = ("variant", "seed", "task")
    assert [stages["tiny-both@5"][key] for key in facts] == ["tiny-both", 5, "distillation"]
    assert [stages["small-baseline@0"][key] for key in facts] == ["small-baseline", 0, "supervised"]
    assert not {"seed", "variant"} & set(stages["one"])


def test_student_k_learns_from_teacher_k(tmp_path: Path) -> None:
    """And so do the recipe's own stages; without the option they are trained once, and mean the first seed."""
    matrix = {
        "students": {"small": UNET},
        "teachers": {"big": TEACHER},
        "variants": {"baseline": None, "kd": SOFT},
    }
    second = SOFT | UNET | {"task": "distillation", "teachers": {"baseline": {}}}
    for option, expected in (
        ({"teachers_per_seed": True}, {"big@3": None, "kd@3": "big@3", "second@3": "baseline@3"}),
        ({}, {"big": None, "kd@3": "big", "second": "baseline@1"}),
    ):
        path = matrix_recipe(tmp_path, matrix | option, [1, 3], stages={"second": second})
        stages = load_recipe(path).stages
        assert len(stages) == (8 if option else 6)
        for name, teacher in expected.items():
            assert [each.stage for each in stages[name].teachers.values()] == ([teacher] if teacher else [])
        assert all(stages[name].seed == 3 for name in expected if name.endswith("@3"))


def test_stages_come_after_those_that_they_need(tmp_path: Path) -> None:
    """LightVessel's order: teacher, baseline, auto-encoders of both, distilled student."""
    codes = {"task": "autoencoder", "model": {"name": "feature_autoencoder", "layers": [2]}}
    read = {"student": "{student}_codes", "{teacher}": "{teacher}_codes"}
    matrix = {
        "students": {"light": UNET},
        "teachers": {"big": TEACHER},
        "variants": {
            "fsd": {"methods": {"feature_similarity": {"layers": [2], "autoencoders": read}}},
            "baseline": {},
            "baseline_equal_time": {"equal_time_to": "fsd"},
        },
    }
    own = {
        "light_codes": codes | {"teachers": {"baseline@1": {}}},
        "big_codes": codes | {"teachers": {"big": {}}},
    }
    recipe = load_recipe(str(matrix_recipe(tmp_path, matrix, [1, 2], stages=own)))
    place = {name: i for i, name in enumerate(recipe.stages)}
    assert place["big"] < place["big_codes"] < place["fsd@1"]
    assert place["baseline@1"] < place["light_codes"] < place["fsd@2"]
    assert recipe.stages["fsd@2"].methods["feature_similarity"].autoencoders == {
        "student": "light_codes",
        "big": "big_codes",
    }
    # one measurement for all seeds
    assert recipe.stages["baseline_equal_time@2"].equal_time_to == "fsd@1"
    assert place["fsd@1"] < place["baseline_equal_time@1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"students": {}}, "matrix: students: Dictionary should have at least 1 item"),
        ({"student": {}}, "matrix: student: unknown key: did you mean 'students'"),
        (
            {"seeds": [0]},
            "matrix: seeds: unknown key: known: students, teachers, teachers_per_seed, variants",
        ),
        ({"teachers": {}}, "matrix.variants.kd: it needs teachers"),
        ({"variants": {"kd": {"metods": []}}}, r"stages.kd@0.metods: unknown key: did you mean 'methods'"),
        ({"variants": {"kd": ["x"]}}, "matrix: variants.kd: Input should be a valid dictionary"),
        ({"teachers": {"kd": TEACHER}}, "matrix: 'kd' is also another stage"),
        ({"teachers": {"kd@0": TEACHER}}, "seeds: 'kd@0' is also a stage"),
    ],
)
def test_bad_matrices_are_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    matrix = {"students": {"s": UNET}, "teachers": {"t": TEACHER}, "variants": {"kd": SOFT}}
    with pytest.raises(InputError, match=message) as refused:
        load_recipe(str(matrix_recipe(tmp_path, matrix | change)))
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A matrix of which one method blows up, run once; do not change its files."""
    folder = tmp_path_factory.mktemp("matrix")
    matrix = {
        "students": {"s": UNET},
        "teachers": {"big": TEACHER},
        "variants": {
            "baseline": {},
            "kd": SOFT | {"cache": True},
            "wild": SOFT | {"cache": True, "fit": {"optimizer": {"name": "sgd", "lr": 1e30}}},
        },
    }
    path = matrix_recipe(folder, matrix, [0, 1])
    return path, segdistill("run", path, "--device", "cpu", "--out", folder / "runs" / "m")


def test_failed_cells_are_listed_and_the_others_go_on(finished: tuple[Path, Any]) -> None:
    path, answer = finished
    run = path.parent / "runs" / "m"
    assert answer.code == 4
    assert answer.line.startswith("2 trainings failed (wild@0, wild@1): wild@0: ")
    assert answer.line.endswith("run the same command again to repeat these")
    facts = json.loads((run / "run.json").read_text())
    assert facts["stages"] == ["big", "baseline@0", "kd@0", "baseline@1", "kd@1"]
    assert list(facts["failed"]) == ["wild@0", "wild@1"]
    assert (run / "report.html").exists()
    # a row per method on the first screen, from what was trained
    opening = (run / "report.html").read_text().partition("</header>")[0]
    rows = re.findall(r'<th scope="row">.*?</tr>', opening, re.DOTALL)
    assert [re.sub(r"<.*?>", " ", row).split()[0] for row in rows] == ["big", "baseline", "kd"]  # type: ignore[index]
    assert "2 seeds" in rows[2]
    assert "no evidence" in rows[2]
    # the table of cells, on stdout
    lines = {line.split()[0]: line for line in answer.out.splitlines() if line.strip()}
    assert "2 of 2 seeds" in lines["kd"]
    assert "0 of 2 seeds" in lines["wild"]
    assert "failed" in lines["wild"]


def test_two_seeds_are_told_before_training(finished: tuple[Path, Any]) -> None:
    _, answer = finished
    assert answer.err.splitlines()[0] == "warning: 2 seeds: a verdict needs at least three"
    assert answer.err.count("a verdict needs") == 1


def test_only_comparisons_with_too_few_seeds_are_told(tmp_path: Path) -> None:
    methods = {"baseline": {}, "kd": SOFT}
    for seeds, taken, lines in (
        ([0], methods, ["1 seed: a verdict needs at least three"]),
        ([0, 1, 2], methods, []),
        ([0], {"kd": SOFT}, []),  # nothing to compare with
        ([0], {"baseline": {}}, []),
    ):
        matrix = {"students": {"s": UNET}, "teachers": {"big": TEACHER}, "variants": taken}
        recipe = load_recipe(str(matrix_recipe(tmp_path, matrix, seeds)))
        assert recipe_warnings(recipe, list(recipe.stages)) == lines
        if not lines and len(seeds) == 3:  # --stages may leave too few of them
            two = ["baseline@0", "baseline@1", "baseline@2", "kd@0", "kd@1"]
            assert recipe_warnings(recipe, two) == ["2 seeds: a verdict needs at least three"]


def test_running_again_retries_what_failed_and_nothing_else(finished: tuple[Path, Any]) -> None:
    path, _ = finished
    run = path.parent / "runs" / "m"
    content = yaml.safe_load(path.read_text())
    content["matrix"]["variants"]["wild"]["fit"]["optimizer"]["lr"] = 0.01
    mended = path.with_name("mended.yaml")
    mended.write_text(yaml.safe_dump(content, sort_keys=False))
    before = {file: file.read_bytes() for file in run.glob("stages/*/weights.safetensors")}
    cached = sorted((path.parent / "runs" / ".cache").iterdir())
    answer = segdistill("run", mended, "--device", "cpu", "--out", run)
    assert answer.code == 0, answer.err
    assert answer.err.count("finished before, nothing changed") == 5
    assert all(file.read_bytes() == content for file, content in before.items())
    assert len(list(run.glob("stages/*/weights.safetensors"))) == 7
    assert sorted((path.parent / "runs" / ".cache").iterdir()) == cached
    assert json.loads((run / "run.json").read_text())["failed"] == {}


def test_the_teacher_is_asked_once_for_all_cells(finished: tuple[Path, Any]) -> None:
    path, answer = finished
    told = [line for line in answer.err.splitlines() if "teacher cache" in line]
    assert len(told) == 1
    assert told[0].startswith("stage kd@0: teacher cache: ")
    assert len(list((path.parent / "runs" / ".cache").iterdir())) == 1


def test_the_first_weights_differ_by_seed_and_the_views_do_not(finished: tuple[Path, Any]) -> None:
    path, _ = finished
    stages = path.parent / "runs" / "m" / "stages"
    weights = [(stages / f"kd@{seed}" / "weights.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]


def test_without_a_matrix_a_failure_stops_the_run(tmp_path: Path) -> None:
    stages = {"net": UNET | {"fit": {"optimizer": {"name": "sgd", "lr": 1e30}}}, "other": UNET}
    content = {key: value for key, value in RECIPE.items() if key != "export"} | {"stages": stages}
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(content))
    answer = segdistill("run", path, "--device", "cpu", "--out", tmp_path / "run")
    assert answer.code == 1
    assert "training stopped: " in answer.line
    assert not (tmp_path / "run" / "stages" / "other").exists()
