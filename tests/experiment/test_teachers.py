"""Teachers of a stage whose predictions are stored: ensembles, folds, and what comes from elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image, ImageFilter

import segdistill
from segdistill.config.folds import member_weights
from segdistill.config.load import load_recipe
from segdistill.config.schema import MemberRecipe
from segdistill.data.case import Case
from segdistill.data.maps import encode
from segdistill.data.phantom import write_phantom
from segdistill.data.table import write_cases
from segdistill.errors import InputError
from segdistill.experiment.teachers import _chosen, _class_order, _joined, _plain
from segdistill.records import GuardRecord
from segdistill.runtime.engine import Session
from segdistill.runtime.onnx_file import read_onnx
from segdistill.training.curves import read_curves
from tests.data.pictures import save, square
from tests.experiment.tiny import RECIPE, write_recipe
from tests.experiment.tiny import segdistill as command

SMALL = {"name": "simplified_unet", "widths": [4, 8, 8]}


def recipe(teachers: dict[str, Any], **more: Any) -> dict[str, Any]:
    student = {
        "task": "distillation",
        "model": SMALL,
        "targets": "case",
        "taught_cases": "without_mask",
        "teachers": teachers,
        "methods": {"soft_mask": {}},
    }
    return {
        "name": "t",
        "data": {"dataset": "phantom", "size": 32, "phantoms": 40, "locations": 0.4},
        "fit": {"steps": 3, "batch_size": 4},
        "stages": {"a": {"model": SMALL}, "b": {"model": SMALL, "out_of_fold": 2}, "student": student | more},
        "export": "student",
    }


def test_folds_share_the_weight_of_one_member_and_teach_what_they_have_not_seen() -> None:
    loaded = load_recipe(recipe({"both": {"ensemble": [{"stage": "a", "weight": 3.0}, "b"]}}))
    teacher = loaded.stages["student"].teachers["both"]
    assert [member.stage for member in teacher.members] == ["a", "b-fold-1", "b-fold-2"]
    cases = [
        Case(str(k), Path(f"{k}.png"), (Path("m.png"),) if k < 6 else (), split="train") for k in range(9)
    ]
    loaded = loaded.model_copy(update={"data": loaded.data.model_copy(update={"locations": 1.0})})
    weights = member_weights(loaded, teacher, cases, cases)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert weights[:, 0] == pytest.approx(0.75)
    assert np.sort(weights[:6, 1:], axis=1) == pytest.approx(
        np.array([[0, 0.25]] * 6)
    )  # one has not seen the case
    assert weights[6:, 1:] == pytest.approx(0.125)  # none has


@pytest.mark.usefixtures("brief")
def test_an_ensemble_teaches_the_cases_without_mask(tmp_path: Path) -> None:
    out = tmp_path / "run"
    segdistill.run(
        recipe({"both": {"ensemble": [{"stage": "a", "flips": True}, "b"]}}), out=out, progress=False
    )
    with (out / "teachers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    taught = {row["case"]: row["taught_by"].split() for row in rows}
    assert {tuple(by) for by in taught.values()} == {(), ("a", "b-fold-1", "b-fold-2")}
    record = json.loads((out / "stages" / "student" / "stage.json").read_text(encoding="utf-8"))
    assert record["train_cases"] == len(taught) > sum(1 for by in taught.values() if not by) > 0
    stored = list((tmp_path / ".store").glob("store-*/maps-*.npy"))
    assert len(stored) == 1
    guard = json.loads((out / "stages" / "student" / "guard.json").read_text(encoding="utf-8"))
    assert guard["outlook"] in ("likely", "unlikely", "unknown")


def write_predictions(run: Path, folder: Path, splits: tuple[str, ...]) -> None:
    """Blurred masks of the cases of some splits."""
    folder.mkdir()
    with (run / "cases.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] in splits:
                mask = Image.open(run / row["masks"]).convert("L").filter(ImageFilter.GaussianBlur(1.5))
                mask.save(folder / f"{row['id']}.png")


@pytest.mark.usefixtures("brief")
def test_members_count_by_their_dice_on_validation_cases(tmp_path: Path) -> None:
    first = tmp_path / "first"
    segdistill.run(recipe({"t": {"stage": "a"}}), out=first, stages=["a"], progress=False)
    write_predictions(first, tmp_path / "good", ("train", "val"))
    write_predictions(first, tmp_path / "large", ("train", "val"))
    for path in (tmp_path / "large").iterdir():
        Image.open(path).filter(ImageFilter.MaxFilter(3)).save(path)
    members = [
        {"predictions": str(tmp_path / name), "trained_on": "none", "weight": weight}
        for name, weight in (("good", 1.0), ("large", 3.0))
    ]
    out = tmp_path / "run"
    teachers = {"t": {"ensemble": members, "weigh_by": "validation"}}
    segdistill.run(recipe(teachers), out=out, stages=["a", "student"], progress=False)
    (path,) = (tmp_path / ".store").glob("store-*/standing-*.json")
    good, large = json.loads(path.read_text())
    assert good > large > 0.5
    share = 1 / (1 + 3 * np.exp(20 * (large - good)))
    assert 0.3 < share < 0.95  # else this test tells little
    guard = GuardRecord.read(out / "stages" / "student")
    assert guard is not None
    assert any(f"good {share:.0%} ({good:.3f}), large {1 - share:.0%}" in reason for reason in guard.reasons)
    (stored,) = (tmp_path / ".store").glob("store-*/maps-*.npy")
    maps = np.load(stored)
    taught = [k for k in range(len(maps)) if maps[k].any()]
    case = sorted((tmp_path / "good").iterdir())
    pixels = {
        name: [np.asarray(Image.open(tmp_path / name / path.name).resize((32, 32), 2)) / 255 for path in case]
        for name in ("good", "large")
    }
    mixed = [
        encode(share * one + (1 - share) * other)
        for one, other in zip(pixels["good"], pixels["large"], strict=True)
    ]
    for k in taught:
        assert min(np.abs(maps[k, 0].astype(int) - one).max() for one in mixed) <= 3


@pytest.mark.usefixtures("brief")
def test_the_guard_measures_predictions_of_validation_cases_that_their_network_has_not_seen(
    tmp_path: Path,
) -> None:
    first = tmp_path / "first"
    segdistill.run(recipe({"t": {"stage": "a"}}), out=first, stages=["a"], progress=False)
    write_predictions(first, tmp_path / "some", ("train",))
    write_predictions(first, tmp_path / "given", ("train", "val"))

    def guard(folder: str, seen: str) -> GuardRecord:
        out = tmp_path / f"{folder}-{seen}"
        asked = recipe({"t": {"predictions": str(tmp_path / folder), "trained_on": seen}})
        segdistill.run(asked, out=out, stages=["a", "student"], progress=False)
        return GuardRecord.read(out / "stages" / "student")

    known = guard("given", "none")
    assert known.difference is not None
    assert known.difference.n > 0
    assert known.difference.mean > 0.1  # masks are better than a network of two channels
    assert guard("given", "all").helps[-1] == "validation cases that the teacher from elsewhere has not seen"
    assert "predictions of the validation cases, too" in guard("some", "none").helps[-1]


@pytest.mark.slow
def test_predictions_of_a_folder_and_a_model_file_teach(tmp_path: Path) -> None:
    first = tmp_path / "first"
    segdistill.run(recipe({"t": {"stage": "a"}}), out=first, progress=False)
    given = tmp_path / "given"
    write_predictions(first, given, ("train", "val"))
    members = [
        {"predictions": str(given), "trained_on": "none"},
        {"onnx": str(first / "model.onnx"), "flips": True},
    ]
    out = tmp_path / "run"
    segdistill.run(recipe({"both": {"ensemble": members, "weigh_by": "validation"}}), out=out, progress=False)
    assert not list(
        (tmp_path / ".store").glob("store-*/standing-*.json")
    )  # they may have learned from these cases
    found = [json.loads(path.read_text()) for path in (tmp_path / ".store").glob("store-*/maps-*.json")]
    assert max(each["facts"]["foreground"] for each in found if "agreement" in each["facts"]) > 0
    other = recipe({"both": {"predictions": str(tmp_path / "nowhere")}})
    with pytest.raises(InputError, match="no such folder"):
        segdistill.run(other, out=tmp_path / "other", progress=False)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"onnx": "none.onnx"}, "onnx: no such file"),
        ({"onnx": "text.onnx"}, "text.onnx"),
        ({"onnx": "other.onnx", "input": {"size": 24, "channels": 1}}, "does not run on"),
        ({"network": "torch.nn:Identity", "weights": "none.safetensors"}, "weights: no such file"),
        ({"predictions": "nowhere"}, "no such folder"),
        ({"predictions": "others"}, "holds no prediction of any of the"),
        ({"ensemble": ["a", {"predictions": "others"}]}, "holds no prediction of any of the"),
        ({"onnx": "other.onnx", "input": {"size": 16}, "trained_on": "ids.txt"}, "which cannot be read"),
    ],
)
@pytest.mark.parametrize("folds", [None, 2])
def test_an_outside_teacher_that_cannot_be_used_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: dict[str, Any], words: str, folds: int | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("no network")
    two_logits(Path("other.onnx"))
    save(Path("others/x.png"), square())
    asked = recipe({"t": teacher}) | ({"folds": folds, "seeds": [0]} if folds else {})
    answer = command("run", written(asked), "--out", "out", "--device", "cpu")
    assert answer.code == 2
    assert words in answer.line
    assert not list(Path("out").rglob("stages"))


def written(asked: dict[str, Any]) -> Path:
    path = Path("asked.yaml")
    path.write_text(yaml.safe_dump(asked, sort_keys=False))
    return path


def two_logits(path: Path) -> None:
    """A file of elsewhere: foreground where the first of three channels is above 0.5."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kinds = onnx.TensorProto
    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[:, 0, 0, 0] = -100, 100
    parts = [
        onnx.numpy_helper.from_array(weight, "w"),
        onnx.numpy_helper.from_array(np.float32([50, -50]), "b"),
    ]
    graph = onnx.helper.make_graph(
        [node("Conv", ["pixels", "w", "b"], ["logits"])],
        "other",
        [value("pixels", kinds.FLOAT, [1, 3, 16, 16])],
        [value("logits", kinds.FLOAT, [1, 2, 16, 16])],
        parts,
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        str(path),
    )


def test_any_onnx_file_teaches_with_the_input_that_the_recipe_states(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    two_logits(path)
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:, 16:] = 255
    session = Session(read_onnx(path), 1)
    member = MemberRecipe(onnx=str(path), input={"size": 16})
    found = _plain(session, member, pixels)
    assert found.shape == (16, 16)
    assert (found[:, :7] < 0.01).all()
    assert (found[:, 9:] > 0.99).all()
    with pytest.raises(InputError, match=r"no probabilities: set input.activation"):
        _plain(session, MemberRecipe(onnx=str(path), input={"size": 16, "activation": "none"}), pixels)
    with pytest.raises(InputError, match=r"does not run on"):
        _plain(session, MemberRecipe(onnx=str(path), input={"size": 24, "channels": 1}), pixels)


def chosen(values: list[float], count: int = 1, activation: str = "softmax", **stated: object) -> list[float]:
    """Of maps that hold one number each."""
    maps = np.stack([np.full((2, 2), value, np.float32) for value in values])
    member = MemberRecipe(onnx="a.onnx", input={"size": 16, "activation": activation}, **stated)
    found = _chosen(maps, member, Path("a.onnx"), count)
    assert found.shape == ((2, 2) if count == 1 else (count, 2, 2))
    return [float(value) for value in found[..., 0, 0].ravel()]


def test_of_several_classes_the_recipe_chooses() -> None:
    assert chosen([0.5, 0.3, 0.2], foreground=[1, 2]) == pytest.approx([0.5])
    assert chosen([0.6, 0.4]) == pytest.approx([0.4])
    assert chosen([0.5, 0.3, 0.2], 2) == pytest.approx([0.3, 0.2])
    assert chosen([0.5, 0.3, 0.2], 2, foreground=[2, 1]) == pytest.approx([0.2, 0.3])
    with pytest.raises(
        InputError, match=r"3 maps: write which of 1 to 2 are foreground, such as foreground: \[1\]"
    ):
        chosen([0.5, 0.3, 0.2])
    with pytest.raises(InputError, match=r"which of 1 to 2"):
        chosen([0.5, 0.3, 0.2], foreground=[0])


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_maps_that_exclude_nothing_count_from_0_and_overlap(activation: str) -> None:
    assert chosen([0.9], activation=activation) == pytest.approx([0.9])
    assert chosen([0.9, 0.3], activation=activation, foreground=[0]) == pytest.approx([0.9])
    assert chosen([0.9, 0.3], activation=activation, foreground=[0, 1]) == pytest.approx([0.9])
    assert chosen([0.9, 0.3], 2, activation) == pytest.approx([0.9, 0.3])
    with pytest.raises(InputError, match=r"which of 0 to 1 are foreground, such as foreground: \[0\]"):
        chosen([0.9, 0.3], activation=activation)


@pytest.mark.parametrize(
    ("own", "names", "foreground", "places"),
    [
        (("lesion",), ("tumour",), None, [[0]]),
        (("head", "body"), ("body", "head"), None, [[1], [0]]),
        (("head", "body"), ("lesion",), ["body"], [[1]]),
        (("head", "body"), ("lesion",), [1, "body"], [[0, 1]]),
        (("head", "body"), ("one", "other"), [2, 1], [[1], [0]]),
        (
            ("head", "body"),
            ("lesion",),
            None,
            "segments head, body, and the masks hold lesion: .* foreground: \\[head\\]",
        ),
        (("head", "body"), ("lesion",), ["tail"], "foreground lists tail, and it segments head, body"),
        (("head", "body"), ("one", "other"), [1], "lists 1 classes, and the masks hold 2"),
    ],
)
def test_of_a_model_file_of_ours_the_recipe_chooses(
    own: tuple[str, ...], names: tuple[str, ...], foreground: list[str | int] | None, places: object
) -> None:
    predictor = SimpleNamespace(info=SimpleNamespace(classes=("background", *own)))
    member = MemberRecipe(onnx="m.onnx", foreground=foreground)
    if isinstance(places, str):
        with pytest.raises(InputError, match=places):
            _class_order(predictor, member, names)  # type: ignore[arg-type]
    else:
        assert _class_order(predictor, member, names) == places  # type: ignore[arg-type]


def test_classes_that_exclude_one_another_add_up() -> None:
    planes = np.float32([[[0.3]], [[0.5]], [[0.1]]])
    assert _joined(planes, [[0, 1], [2]])[:, 0, 0] == pytest.approx([0.8, 0.1])


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"stage": "a", "onnx": "x.onnx"}, "give one of stage and onnx"),
        ({"predictions": "x", "flips": True}, "predictions cannot be mirrored"),
        ({"network": "m:f"}, "with a file of weights"),
        ({"onnx": "x.onnx", "out_of_fold": True}, "state in trained_on"),
        ({"ensemble": ["a", "c"]}, "'c' is not defined before it"),
        ({"stage": "a", "weigh_by": "validation"}, "weigh_by belongs to an ensemble"),
        ({"ensemble": ["a"], "trained_on": "all"}, "trained_on belongs to each member of the ensemble"),
        ({"ensemble": ["a", {"predictions": "x"}], "flips": True}, "flips: true beside the other members"),
        ({"stage": "a", "table": "t.csv"}, "table belongs to predictions"),
        ({"stage": "a", "hard_probability": 0.9}, "hard_probability belongs to predictions"),
        ({"predictions": "x", "hard_probability": 0.4}, "hard_probability: Input should be greater than 0.5"),
    ],
)
def test_teachers_that_make_no_sense_are_one_line(teacher: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe(recipe({"t": teacher}))


def test_flips_of_an_ensemble_are_those_of_its_members() -> None:
    members = ["a", {"stage": "b", "flips": False}, {"onnx": "x.onnx"}]
    loaded = load_recipe(recipe({"t": {"ensemble": members, "flips": True}}))
    found = loaded.stages["student"].teachers["t"].members
    assert [(member.stage, member.flips) for member in found] == [
        ("a", True),
        ("b-fold-1", False),
        ("b-fold-2", False),
        ("", True),
    ]
    assert load_recipe(loaded.model_dump(mode="json")) == loaded


def test_other_teachers_need_targets_by_case() -> None:
    with pytest.raises(InputError, match="teacher 't' is an ensemble or mirrored: set targets: case"):
        load_recipe(recipe({"t": {"ensemble": ["a"]}}, targets="view"))
    with pytest.raises(InputError, match="confidence is read from stored predictions"):
        load_recipe(recipe({"a": {}}, targets="view", confidence="entropy"))


def test_predictions_of_sites_are_weighted_by_their_score(tmp_path: Path) -> None:
    """Two sites send predictions: the better one counts more on each image (AMTD), and no network of theirs is here."""
    rng = np.random.default_rng(0)
    cases = write_phantom(tmp_path / "data", 30, size=32)
    write_cases(cases, tmp_path / "cases.csv")
    for site, sure in (("a", 0.95), ("b", 0.6)):
        (tmp_path / site).mkdir()
        for case in cases:
            mask = np.asarray(Image.open(case.masks[0])) > 0 if case.masks else np.zeros((32, 32), bool)
            values = np.where(mask, sure, 0.4 if site == "b" else 0.05) + rng.uniform(0, 0.02, mask.shape)
            Image.fromarray(np.round(65535 * values).astype(np.uint16)).save(
                tmp_path / site / f"{case.id}.png"
            )
    student = RECIPE["stages"]["student"] | {
        "targets": "case",
        "weighting": "score",
        "combine": "predictions",
        "teachers": {s: {"predictions": str(tmp_path / s), "trained_on": "none"} for s in ("a", "b")},
    }
    data = {"size": 32, "channels": 1, "labels": ["benign", "malignant"]}
    path = write_recipe(tmp_path, data=data, stages={"student": student})
    answer = command(
        "run", path, "--data", tmp_path / "cases.csv", "--device", "cpu", "--out", tmp_path / "r"
    )
    assert answer.code == 0, answer.err
    (first, *_) = read_curves(tmp_path / "r" / "stages" / "student" / "curves.csv")
    assert first["a/weight"] + first["b/weight"] == pytest.approx(1, abs=1e-5)
    assert first["a/weight"] > first["b/weight"] + 0.1
