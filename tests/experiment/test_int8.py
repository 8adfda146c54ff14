"""An int8 file is calibrated, gated, whole and anonymous; what int8 breaks is put back or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segdistill.data.case import Case, select
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import GateFailed, InputError
from segdistill.experiment.export import export_network
from segdistill.experiment.int8 import (
    Comparison,
    Gate,
    Int8Export,
    Measured,
    calibration_inputs,
    compare,
    export_int8,
)
from segdistill.imaging.grid import VolumePreprocess
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.metrics.cases import CaseResult, Results
from segdistill.models.registry import create_network
from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import METADATA_KEY, ModelInfo, dump_info, read_info
from segdistill.runtime.self_test import run_self_test
from tests.experiment.tiny import segdistill, snapshot
from tests.runtime.small_model import INFO

LOOSE = Gate(1, 1, 1, 1, 0)


@pytest.fixture(scope="module")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Int8Export:
    return export_int8(run_folder, tmp_path_factory.mktemp("int8") / "m.onnx", gate=LOOSE)


def test_the_file_is_whole(run_folder: Path, exported: Int8Export) -> None:
    before, after = read_info(run_folder / "model.onnx"), read_info(exported.model)
    facts = after.provenance["int8"]
    own = {"name": before.name, "provenance": before.provenance, "metrics": before.metrics}
    assert replace(after, **own, self_test=before.self_test) == before
    assert after.self_test["seed"] == before.self_test["seed"]
    assert {key: value for key, value in after.provenance.items() if key != "int8"} == before.provenance
    assert facts["calibration"] == exported.calibration == len(select_train(run_folder))
    assert set(after.metrics) == set(before.metrics)
    assert after.metrics["all"]["dice"]["n"] == before.metrics["all"]["dice"]["n"]
    onnx.checker.check_model(onnx.load(exported.model), full_check=True)
    report = json.loads(Path(exported.model).with_suffix(".json").read_text())
    assert report["comparison"]["cases"] == exported.comparison.cases > 0


def select_train(run: Path) -> list[Case]:
    return select(read_cases(run / "cases.csv"), split="train")


def test_weights_are_int8_per_channel_and_activations_uint8(run_folder: Path, exported: Int8Export) -> None:
    plain, model = onnx.load(run_folder / "model.onnx"), onnx.load(exported.model)
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = {each.name: numpy_helper.to_array(each) for each in plain.graph.initializer}
    first = next(node for node in plain.graph.node if node.op_type == "Conv")
    known = weights[first.input[1]]
    entering = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layer = next(node for node in model.graph.node if node.op_type == "Conv")
    whole, scale, zero = (arrays[name] for name in entering[layer.input[1]].input)
    assert whole.dtype == np.int8
    np.testing.assert_allclose(scale, np.abs(known).max(axis=(1, 2, 3)) / 127.5, rtol=0.01)
    np.testing.assert_allclose(whole * scale[:, None, None, None], known, atol=float(scale.max()) / 1.9)
    assert not zero.any()
    assert arrays[entering[layer.input[0]].input[2]].dtype == np.uint8
    kinds = [node.op_type for node in model.graph.node]
    assert kinds[-1] not in ("QuantizeLinear", "DequantizeLinear"), "probabilities are no steps of 1/255"


def test_the_probabilities_are_near(run_folder: Path, exported: Int8Export) -> None:
    fp32, int8 = Engine(run_folder / "model.onnx"), Engine(exported.model)
    for image in calibration_inputs(fp32.info, select_train(run_folder))[:4]:
        np.testing.assert_allclose(int8.run(image), fp32.run(image), atol=0.05)


def test_no_path_and_no_image_is_in_the_file(run_folder: Path, exported: Int8Export) -> None:
    content = Path(exported.model).read_bytes()
    for word in (b".py", b"/home", b"/tmp", b"/usr", b"site-packages", str(run_folder.parent).encode()):
        assert word not in content
    info = read_info(exported.model)
    for case in select_train(run_folder):
        assert case.image.name.encode() not in content
        pixels = info.preprocess.prepare(np.asarray(Image.open(case.image)))[..., 0]
        for row in pixels[:: len(pixels) // 4]:
            assert row.tobytes() not in content
            assert (row.astype(np.float32) / 255).tobytes() not in content


def chain(path: Path, spoiled: int, layers: int = 7) -> Path:
    """Seven 1x1 convolutions that keep the brightness; `spoiled` of them carry a channel 10,000 times as large."""
    info = replace(INFO, preprocess=Preprocess((32, 32), channels=1), input_channels=1)
    names = [f"layer{k}" for k in range(layers)]
    weights, nodes = [], []
    for k, name in enumerate(names):
        weight = np.eye(2, dtype=np.float32)[:, :, None, None]
        if k == 0:
            weight = np.array([[1], [1e4]], np.float32)[:, :, None, None]
        if k == spoiled:
            weight[1, 1] = 0
        weights.append(numpy_helper.from_array(weight, f"{name}.weight"))
        nodes.append(
            helper.make_node(
                "Conv",
                ["image" if k == 0 else f"{names[k - 1]}.out", f"{name}.weight"],
                [f"{name}.out"],
                name=name,
            )
        )
    head = np.array([[0, 0], [20, 0]], np.float32)[:, :, None, None]
    weights += [
        numpy_helper.from_array(head, "head.weight"),
        numpy_helper.from_array(np.array([0, -10], np.float32), "head.bias"),
    ]
    nodes += [
        helper.make_node("Conv", [f"{names[-1]}.out", "head.weight", "head.bias"], ["logits"], name="head"),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1, name="softmax"),
    ]
    shape: list[Any] = ["batch", 1, 32, 32]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 2, 32, 32])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: dump_info(info)})
    onnx.save(model, path)
    return path


def bright_cases(folder: Path) -> Path:
    cases = []
    for k, split in enumerate(["train"] * 4 + ["val"] * 3):
        mask = np.zeros((32, 32), np.uint8)
        mask[4 : 14 + k, 6:20] = 255
        pixels = np.where(mask, 220, 30).astype(np.uint8)
        for name, array in (("image", pixels), ("mask", mask)):
            Image.fromarray(array).save(folder / f"{k}_{name}.png")
        cases.append(Case(str(k), folder / f"{k}_image.png", (folder / f"{k}_mask.png",), split=split))
    write_cases(cases, folder / "cases.csv")
    return folder / "cases.csv"


def test_layers_are_put_back_until_the_gate_is_met(tmp_path: Path) -> None:
    model, table = chain(tmp_path / "fp32.onnx", spoiled=2), bright_cases(tmp_path)
    found = export_int8(model, tmp_path / "int8.onnx", data=table)
    assert {"layer0", "layer1"} <= set(found.in_fp32)
    assert len(found.in_fp32) <= 5
    assert found.comparison.int8 == found.comparison.fp32 == 1
    facts = read_info(found.model).provenance["int8"]
    assert facts["in_fp32"] == list(found.in_fp32)
    assert f"{len(found.in_fp32)} layers in fp32 (" in str(found)
    again = segdistill("export", found.model, "--int8", "--data", table, "-o", tmp_path / "x.onnx")
    assert "is in int8 already" in again.line


def test_what_five_layers_do_not_mend_is_refused(tmp_path: Path) -> None:
    model, table = chain(tmp_path / "fp32.onnx", spoiled=-1), bright_cases(tmp_path)
    before = snapshot(tmp_path)
    refused = segdistill("export", model, "--int8", "--data", table, "-o", tmp_path / "int8.onnx")
    assert refused.code == 5
    for words in (
        "also with 5 layers in fp32 (layer",
        "the mean Dice falls from 1.0000",
        "no file was written",
    ):
        assert words in refused.line
    assert snapshot(tmp_path) == before
    with pytest.raises(GateFailed, match="3 of 3 cases lose more than"):
        export_int8(model, tmp_path / "int8.onnx", data=table)


def result(case: str, dice: float, area: float = 0.1, predicted: float = 0.1) -> CaseResult:
    return CaseResult(case, case, metrics={"dice": dice}, reference_area=area, predicted_area=predicted)


def test_the_gate_rule_by_rule() -> None:
    before = Measured(Results([result(str(k), 0.9) for k in range(100)]), dict.fromkeys("abcd", True))

    def reasons(changed: dict[int, float], gate: Gate | None = None, **more: Any) -> tuple[str, ...]:
        after = [result(str(k), changed.get(k, 0.9)) for k in range(100)]
        return compare(
            gate or Gate(), before, Measured(Results(after), more.get("right", before.right))
        ).reasons

    assert reasons({}) == reasons({0: 0.7, 1: 0.8}) == ()
    assert reasons(dict.fromkeys(range(100), 0.8951)) == ()
    (mean,) = reasons(dict.fromkeys(range(100), 0.8949))
    assert mean == "the mean Dice falls from 0.9000 to 0.8949, by more than 0.005"
    (many,) = reasons({0: 0.84, 1: 0.84, 2: 0.83})
    assert many == "3 of 100 cases lose more than 0.05, and 2% may (worst: 2, 0.900 to 0.830)"
    (floor,) = reasons({7: 0.59})
    assert floor == "1 of the cases that had above 0.8 fall below 0.6 (such as 7, 0.900 to 0.590)"
    assert reasons({7: 0.59}, Gate(floor=0.5)) == ()
    (wrong,) = reasons({}, right={**before.right, "a": False})
    assert wrong == "the class of 1 of 4 cases becomes wrong, and 2% may"
    empty = Measured(Results([*before.results, result("n", 1, 0, 0)]))
    spilled = Measured(Results([*before.results, result("n", 0, 0, 0.006)]))
    (normal,) = compare(Gate(), empty, spilled).reasons
    assert normal.startswith("on normal images the predicted share of the image rises from 0.0000 to 0.0060")
    with pytest.raises(InputError, match="none of its cases has a mask"):
        compare(Gate(), Measured(Results([result("n", 1, 0)])), Measured(Results([result("n", 1, 0)])))


def test_a_file_that_is_hardly_faster_is_a_warning() -> None:
    def made(ms: float) -> Int8Export:
        return Int8Export("m.onnx", Comparison(3, 0.9, 0.9, 0.01, "a"), "val", 32, (), 12.0, ms, (1.0, 4.0))

    assert made(5.0).warning == ""
    assert made(11.0).warning.startswith("int8 is 1.09 times as fast as fp32 on this machine (one thread)")


def test_what_cannot_be_int8(run_folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run_folder, own)
    cases, out = read_cases(own / "cases.csv"), tmp_path / "m.onnx"

    def line(*words: object) -> str:
        found = segdistill("export", *words, "-o", out)
        assert found.code == 2, found.err
        assert not out.exists()
        return found.line

    one = [replace(case, image=tmp_path / "gone.png") if case.split == "train" else case for case in cases]
    write_cases(one, own / "cases.csv")
    assert f"20 of 20 are missing, such as {tmp_path / 'gone.png'}: restore them" in line(own, "--int8")
    write_cases([case for case in cases if case.split != "val"], own / "cases.csv")
    assert "the gate of int8 needs val cases with a mask, and the case table has none" in line(own, "--int8")
    write_cases([case for case in cases if case.split != "train"], own / "cases.csv")
    assert "the case table has no training case" in line(own, "--int8")
    (own / "cases.csv").unlink()
    assert "cases.csv is missing: give --data TABLE" in line(own, "--int8")
    assert "or give the folder of the run that made" in line(own / "model.onnx", "--int8")
    assert "--gate-on is val or train" in line(own, "--int8", "--gate-on", "test")
    assert "no such value" in line(own, "--int8", "--gate", "mean_dorp=1")
    assert "'x' is not a number" in line(own, "--int8", "--gate", "mean_drop=x")
    assert "must lie between 0 and 1" in line(own, "--int8", "--gate", "floor=7")
    assert "are for --int8: add it, or remove them" in line(own, "--gate", "floor=0.1")


def test_a_network_without_layers_is_refused(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx", -1, layers=1)
    graph = onnx.load(model)
    del graph.graph.node[0]
    graph.graph.node[0].input[0] = "image"
    graph.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.array([[0], [20]], np.float32)[:, :, None, None], "head.weight")
    )
    onnx.save(graph, model)
    with pytest.raises(InputError, match="its operators are Conv, Softmax: use the fp32 file"):
        export_int8(model, tmp_path / "int8.onnx", data=bright_cases(tmp_path))


def test_the_calibration_images_are_spread_over_the_cases(tmp_path: Path) -> None:
    info = replace(INFO, preprocess=Preprocess((8, 8), channels=1), input_channels=1)
    cases = []
    for k in range(100):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k}.png")
        cases.append(Case(str(k), tmp_path / f"{k}.png"))
    levels = [round(float(image[0, 0, 0, 0]) * 255) for image in calibration_inputs(info, cases)]
    assert levels == [k * 100 // 32 for k in range(32)]


@pytest.mark.slow
def test_a_network_of_volumes(tmp_path: Path) -> None:
    """Patches of volumes calibrate it, whole volumes are compared, and its self-test is one patch."""
    classes = ("background", "lesion")
    preprocess = VolumePreprocess((8, 16, 16), channels=1)
    info = ModelInfo("volumes", 1, classes, preprocess, Postprocess(classes=classes))
    torch.manual_seed(0)
    network = create_network("unet", in_channels=1, classes=2, widths=[4, 8], dimensions=3).eval()
    export_network(network, info, tmp_path / "fp32.onnx")
    cases = []
    for k, split in enumerate(["train", "train", "val"]):
        voxels = np.random.default_rng(k).integers(0, 255, (20, 18, 12)).astype(np.float32)
        for name, array in (("image", voxels), ("mask", (voxels > 128).astype(np.float32))):
            nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / f"{k}_{name}.nii.gz")
        cases.append(
            Case(str(k), tmp_path / f"{k}_image.nii.gz", (tmp_path / f"{k}_mask.nii.gz",), split=split)
        )
    write_cases(cases, tmp_path / "cases.csv")
    found = export_int8(
        tmp_path / "fp32.onnx", tmp_path / "int8.onnx", data=tmp_path / "cases.csv", gate=LOOSE
    )
    assert found.comparison.cases == 1
    images = calibration_inputs(info, select(cases, split="train"))
    assert found.calibration == len(images) > 2
    assert {image.shape for image in images} == {(1, 1, 8, 16, 16)}
    fp32, int8 = Engine(tmp_path / "fp32.onnx", 1), Engine(found.model, 1)
    np.testing.assert_allclose(int8.run(images[0]), fp32.run(images[0]), atol=0.1)
    assert run_self_test(int8, int8.info.self_test, is_int8=True).passed
    words = ("--no-cold", "--engine", "onnxruntime", "--rounds", "1")
    timed = segdistill("benchmark", tmp_path / "fp32.onnx", found.model, *words)
    assert timed.code == 0, timed.err
    assert timed.out.startswith("ms of one volume")
    assert "1 volumes x 1 rounds" in timed.out
    on_disk = segdistill("benchmark", found.model, "--images", tmp_path / "0_image.nii.gz", *words, "--json")
    assert json.loads(on_disk.out)["unit"] == "volume"
