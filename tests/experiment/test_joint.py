"""Joint networks from recipe to model file: two stages, few locations, a light student, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe, parse_recipe
from segdistill.data.case import Case
from segdistill.data.phantom import write_phantom
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import GateFailed, InputError
from segdistill.experiment.build import start_network
from segdistill.experiment.export import Agreement, require_agreement
from segdistill.experiment.inputs import stage_cases
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.experiment.stage import load_stage
from segdistill.imaging.read import read_picture
from segdistill.models.registry import create_network
from segdistill.papers.reproduce import compare_with_paper
from segdistill.records import Classification, EvaluationRecord, Interval, RunRecord
from segdistill.runtime.engine import Engine
from segdistill.runtime.predictor import Predictor
from segdistill.training.loop import WEIGHTS
from tests.experiment.tiny import RECIPE, segdistill, write_recipe

LANET: dict[str, Any] = {"name": "lanet_resnet18", "base": 4}
STAGES: dict[str, Any] = {
    "locate": {"task": "joint", "model": LANET, "joint": {"balance": 0.0, "labelled_only": True}, "locations": 0.5},
    "lanet": {"task": "joint", "model": LANET, "starts_from": "locate", "locations": 0.5, "role": "teacher"},
    "plain": {"task": "joint", "model": {"name": "resnet18", "base": 4}},
    "student": {
        "role": "student",
        "task": "distillation",
        "model": {"name": "simplified_unet_joint", "widths": [2, 4, 4]},
        "joint": {"location": "loss", "select_by": "both"},
        "teachers": {"lanet": {}},
        "methods": {"soft_prediction": {}, "soft_label": {"temperature": 2.0}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of all stages; do not change its files."""
    folder = tmp_path_factory.mktemp("joint")
    recipe = write_recipe(folder, name="joint", stages=STAGES, export="student")
    answer = segdistill("run", recipe, "--device", "cpu", "--out", folder / "runs" / "joint")
    assert answer.code == 0, answer.err
    return folder / "runs" / "joint"


def classified(run: Path, stage: str) -> Classification | None:
    found = EvaluationRecord.read(run / "stages" / stage)
    assert found is not None
    return found.classification


def test_every_stage_is_scored_on_all_test_images_with_a_class(joint_run: Path) -> None:
    tested = {c.id for c in read_cases(joint_run / "cases.csv") if c.split == "test" and c.label != "normal"}
    assert classified(joint_run, "locate") is None, "its classifier has learned nothing"
    for stage in ("lanet", "plain", "student"):
        found = classified(joint_run, stage)
        assert found is not None
        assert found.classes == ["malignant", "benign"]
        with open(joint_run / "stages" / stage / "classification.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["case"] for row in rows} == tested
        assert all(float(row["p_malignant"]) + float(row["p_benign"]) == pytest.approx(1) for row in rows)
        right = np.mean([row["label"] == row["predicted"] for row in rows])
        assert found.scores["accuracy"].mean == pytest.approx(right)
        assert np.sum(found.confusion) == len(tested)
        assert ("iou" in found.scores) == (stage != "plain"), "a classifier has no map"
    page = (joint_run / "report.html").read_text()
    assert "Classes of images" in page
    assert "Grad-CAM: plain" in page


@pytest.mark.parametrize("fex", [True, False])
def test_the_second_stage_begins_where_the_first_ended(joint_run: Path, fex: bool) -> None:
    changes = [] if fex else ["stages.lanet.load_fex=false"]
    recipe = load_recipe(str(joint_run / "recipe.yaml"), changes)
    torch.manual_seed(7)
    started = start_network(made_inputs(recipe, joint_run, "lanet")).state_dict()
    torch.manual_seed(7)
    fresh = create_network("lanet_resnet18", in_channels=1, base=4).state_dict()
    first = load_file(joint_run / "stages" / "locate" / WEIGHTS)
    inherited = {name for name, value in started.items() if torch.equal(value, first[name])}
    own = {name for name in started if name.startswith(("encoder.", "classifier."))}
    assert {"attention.0.0.shared.0.weight", "fuse.0.weight", "squeeze.3.bias"} <= set(started) - own
    assert inherited == set(started) if fex else set(started) - own <= inherited
    if not fex:
        assert all(torch.equal(started[name], fresh[name]) for name in own)
        assert not torch.equal(started["encoder.conv1.weight"], first["encoder.conv1.weight"])


def test_other_first_weights_are_another_second_stage(
    joint_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint of a stage covers the weights that it starts from."""
    recipe = load_recipe(str(joint_run / "recipe.yaml"))
    inputs = made_inputs(recipe, joint_run, "lanet")
    before = inputs.fingerprint("32-true")
    assert before == json.loads((joint_run / "stages" / "lanet" / "stage.json").read_text())["fingerprint"]
    weights = joint_run / "stages" / "locate" / WEIGHTS
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept + b" ")
        assert inputs.fingerprint("32-true") != before
    finally:
        weights.write_bytes(kept)


def made_inputs(recipe: Recipe, run: Path, name: str) -> Any:
    from segdistill.data.store import prepare_store
    from segdistill.experiment.inputs import StageInputs

    cases = read_cases(run / "cases.csv")
    preprocess = recipe.data.preprocess()
    store = prepare_store(cases, preprocess, run.parent / ".store")
    return StageInputs(recipe, name, cases, store, preprocess, run / "stages" / name)


def test_which_images_a_stage_sees(joint_run: Path) -> None:
    recipe, cases = load_recipe(str(joint_run / "recipe.yaml")), read_cases(joint_run / "cases.csv")
    first, second, plain = (
        stage_cases(recipe, name, cases, "train") for name in ("locate", "lanet", "plain")
    )
    assert 0 < len(first) < len(second) == len(plain)
    assert {case.id for case in second if case.has_reference} == {case.id for case in first}
    assert all(case.has_reference for case in plain)
    assert all(c.has_reference for c in stage_cases(recipe, "lanet", cases, "val"))
    whole = parse_recipe(
        recipe.model_dump(mode="json") | {"data": recipe.data.model_dump(mode="json") | {"locations": 0.5}},
        "r",
    )
    assert {c.id for c in stage_cases(whole, "student", cases, "train") if c.has_reference} == {
        c.id for c in first
    }


def test_one_model_file_says_mask_box_and_class(joint_run: Path) -> None:
    stage = load_stage(joint_run / "stages" / "student")
    model = joint_run / "model.onnx"
    engine, predictor = Engine(model), Predictor(model)
    assert engine.info.labels == ("malignant", "benign")
    assert engine.info.metrics["classification"]["scores"]["accuracy"]["n"] > 0
    case = next(c for c in read_cases(joint_run / "cases.csv") if c.split == "test")
    pixels = read_picture(case.image).pixels
    image = stage.preprocess(pixels)[None]
    with torch.no_grad():
        output = stage.network(torch.from_numpy(image))
    mask, label = engine.run_both(image)
    assert label is not None
    assert output.logits is not None
    assert output.label is not None
    np.testing.assert_allclose(label, output.label.softmax(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(mask, output.logits.softmax(1).numpy(), atol=1e-5)
    targets = predictor.predict_pixels(pixels)
    assert targets.classes == pytest.approx(dict(zip(engine.info.labels, label[0].tolist(), strict=True)))
    if targets.mask.any():
        left, top, right, bottom = targets.box or (0, 0, 0, 0)
        assert targets.mask[top:bottom, left:right].any()


def test_predictions_have_class_columns(joint_run: Path, tmp_path: Path) -> None:
    images = [c.image for c in read_cases(joint_run / "cases.csv") if c.split == "test"]
    answer = segdistill("predict", joint_run / "model.onnx", *images, "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        chances = {name: float(row[f"p_{name}"]) for name in ("malignant", "benign")}
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
        assert row["class"] == max(chances, key=chances.__getitem__)
        assert len(row["box"].split()) == (4 if int(row["area_px"]) else 0)


def test_the_gate_looks_at_the_class_too(joint_run: Path) -> None:
    agreement = json.loads((joint_run / "model.json").read_text())["agreement"]
    assert agreement["cases"] > 0
    assert agreement["largest_class_difference"] < 1e-4
    with pytest.raises(GateFailed, match="class differs from torch's in 2 of 3 cases"):
        require_agreement(Agreement(3, 0, 0, 0, 0.0, 2, 0.5))


def test_a_classifier_is_no_model_file_of_masks(joint_run: Path, tmp_path: Path) -> None:
    answer = segdistill("export", joint_run, "--stage", "plain", "-o", tmp_path / "plain.onnx")
    assert answer.code == 2
    assert answer.line.startswith("stage plain is a classifier without a mask")
    answer = segdistill("evaluate", joint_run, joint_run / "cases.csv", "--stage", "plain")
    assert answer.code == 2
    assert answer.line.startswith("stage plain classifies whole images and gives no mask")


def run_on(cases: list[Case], folder: Path, *stages: str, **changes: Any) -> str:
    """The error of a run on a table of our own."""
    write_cases(cases, folder / "cases.csv")
    data = {k: v for k, v in RECIPE["data"].items() if k not in ("dataset", "phantoms")} | changes.pop(
        "data", {}
    )
    recipe = write_recipe(folder, **{"stages": STAGES, "data": data, "export": None} | changes)
    args = ("run", recipe, "--device", "cpu", "--data", folder / "cases.csv", "--out", folder / "run")
    answer = segdistill(*args, *(("--stages", ",".join(stages)) if stages else ()))
    assert answer.code == 2, answer.err
    return answer.line


@pytest.fixture
def drawn(tmp_path: Path) -> list[Case]:
    return write_phantom(tmp_path / "drawn", 30, size=32)


def test_a_table_without_any_location(drawn: list[Case], tmp_path: Path) -> None:
    bare = [Case(c.id, c.image, label=c.label) for c in drawn if c.label != "normal"]
    message = run_on(bare, tmp_path, "lanet")
    assert message.startswith("stage locate: no training case")
    only_class = run_on(bare, tmp_path, "student", stages={"student": {"task": "joint", "model": LANET}})
    assert only_class == (
        "stage student: no training case has a mask or a box: add some, or set joint.location: none"
    )


def test_a_box_outside_of_its_image_or_inverted(drawn: list[Case], tmp_path: Path) -> None:
    boxed = [Case(c.id, c.image, label=c.label, box=(2, 2, 20, 40)) for c in drawn if c.label != "normal"]
    assert "box (2, 2, 20, 40) leaves the image of 32x32 pixels: correct the box" in run_on(
        boxed, tmp_path, "plain"
    )
    inverted = [Case(c.id, c.image, label=c.label, box=(20, 2, 2, 30)) for c in drawn if c.label != "normal"]
    told = run_on(inverted, tmp_path, "plain")
    assert "column 'box': '20 2 2 30' of case" in told
    assert "is empty, inverted or negative: write left top right bottom in pixels" in told


def test_a_class_with_one_case(drawn: list[Case], tmp_path: Path) -> None:
    benign = [c for c in drawn if c.label == "benign"]
    lone = [*benign, next(c for c in drawn if c.label == "malignant")]
    assert "label 'malignant' has 1 group(s) for 3 splits" in run_on(lone, tmp_path, "plain")
    split = [
        Case(c.id, c.image, c.masks, label=c.label, split=("test" if i % 4 == 0 else "train"))
        for i, c in enumerate(benign)
    ]
    one = next(c for c in drawn if c.label == "malignant")
    split.append(Case(one.id, one.image, one.masks, label=one.label, split="train"))
    assert run_on(split, tmp_path, "plain").startswith(
        "stage plain: class 'malignant' has 1 training case(s): give at least 2"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "joint", "model": {"name": "unet"}}, "stage net: unet does not classify images"),
        (
            {"task": "joint", "model": LANET | {"labels": 3}},
            "stage net: lanet_resnet18 has labels 3, but joint.classes names 2",
        ),
        (
            {"task": "joint", "model": LANET, "joint": {"balance": 0.0, "location": "none"}},
            "stages.net.joint: balance 0 and location none leave nothing to learn",
        ),
        (
            {"model": LANET, "joint": {}},
            "stages.net: joint belongs to a stage with task: joint or distillation",
        ),
        (
            {"task": "joint", "model": LANET, "loss": {"name": "dice"}},
            "stages.net: the loss is used with joint.location: loss only",
        ),
        ({"model": LANET, "load_fex": False}, "stages.net: load_fex belongs to starts_from"),
        ({"model": LANET, "starts_from": "nowhere"}, "stages.net.starts_from: no stage 'nowhere'"),
        (
            {"task": "joint", "model": LANET, "joint": {"balanec": 0.5}},
            "stages.net.joint.balanec: unknown key: did you mean 'balance'?",
        ),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, stages={"net": changes}, export=None)
    with pytest.raises(InputError) as caught:
        list(run_recipe(load_recipe(str(recipe)), None, tmp_path / "run", Machine("cpu")))
    assert message in str(caught.value)


def test_a_start_of_another_architecture_is_refused() -> None:
    stages = {"first": {"model": {"name": "unet"}}, "second": {"model": LANET, "starts_from": "first"}}
    with pytest.raises(InputError, match="'first' has another network or other options: give both the same"):
        parse_recipe({"name": "r", "stages": stages}, "r")


def test_bundled_recipes_stand() -> None:
    for name in ("busi", "comparators", "ablation", "partial", "repeated", "cpu"):
        recipe = load_recipe(f"lanet/{name}")
        assert recipe.data.split.counts == {"benign": 41, "malignant": 41}
        for stage in recipe.stages.values():
            assert stage.joint_settings is None or stage.joint_settings.classes == ["malignant", "benign"]


def test_the_paper_s_tables_find_our_numbers(joint_run: Path, tmp_path: Path) -> None:
    """A run of any recipe of the paper on the same data; repetitions are averaged."""
    folder = tmp_path / "run"
    for k in range(2):
        found = classified(joint_run, "lanet")
        assert found is not None
        found.scores["auc"] = Interval(0.8 + 0.1 * k, None, None, 9)
        record = EvaluationRecord(model=f"lanet_r18@{k}", classification=found)
        record.write(folder / "stages" / record.model)
    RunRecord(recipe="lanet/repeated", data="BUSI").write(folder)
    stages = "{lanet_r18@0: {variant: lanet_r18}, lanet_r18@1: {variant: lanet_r18}, resnet18@0: {variant: resnet18}}"
    (folder / "recipe.yaml").write_text(f"data: {{dataset: busi, size: 256}}\nstages: {stages}")
    table = compare_with_paper("lanet", tmp_path, "5")[0]
    row = next(row for row in table["rows"] if row["name"] == "LA-Net ResNet-18")
    ours = row["ours"]["paper"]
    assert ours["values"]["classification.auc"] == pytest.approx(0.85)
    assert ours["difference"]["classification.auc"] == pytest.approx(0.85 - 0.979)
    assert ours["spread"]["classification.auc"] == pytest.approx(
        12.706 * 0.1 / 2, rel=1e-3
    )  # t(1) sd / sqrt(2)
    assert next(row for row in table["rows"] if row["name"] == "ViT")["ours"]["paper"]["status"] == "not run"
    private = compare_with_paper("lanet", tmp_path, "3")[0]["rows"]
    assert all(row["not_run"] == "private data" for row in private)
