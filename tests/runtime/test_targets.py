"""Repositories have the documented layout, the very bytes of the model file, and nothing half-written."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from segdistill.runtime.engine import Engine
from segdistill.runtime.model_file import dump_info, parse_info
from segdistill.runtime.targets import write_target
from tests.experiment.tiny import segdistill
from tests.runtime.small_model import INFO, save


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_triton(tmp_path: Path) -> None:
    model, out = save(tmp_path / "my-model.onnx"), tmp_path / "repository"
    found = segdistill("export", model, "--target", "triton", "-o", out)
    assert found.code == 0, found.err
    assert "not loaded by it here" in found.out
    assert files(out) == ["my_model/1/model.onnx", "my_model/config.pbtxt", "my_model/segdistill.json"]
    assert (out / "my_model" / "1" / "model.onnx").read_bytes() == model.read_bytes()
    config = " ".join((out / "my_model" / "config.pbtxt").read_text().split())
    assert config == (
        'name: "my_model" platform: "onnxruntime_onnx" max_batch_size: 8 '
        'input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, 32, 48 ] } ] '
        'output [ { name: "probability" data_type: TYPE_FP32 dims: [ 2, 32, 48 ] } ]'
    )
    stated = json.loads((out / "my_model" / "segdistill.json").read_text())
    assert parse_info(json.dumps(stated)) == INFO


def test_ovms(tmp_path: Path) -> None:
    model, out = save(tmp_path / "m.onnx"), tmp_path / "repository"
    found = segdistill("export", model, "--target", "ovms", "-o", out, "--json")
    assert len(json.loads(found.out)["files"]) == 3
    assert files(out) == ["config.json", "m/1/m.onnx", "m/segdistill.json"]
    (entry,) = json.loads((out / "config.json").read_text())["model_config_list"]
    assert entry == {"config": {"name": "m", "base_path": "/models/m"}}


@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
def test_openvino(tmp_path: Path) -> None:
    import openvino

    model, out = save(tmp_path / "m.onnx"), tmp_path / "ir"
    write_target(model, "openvino", out)
    assert files(out) == ["m.bin", "m.xml", "segdistill.json"]
    network = openvino.Core().compile_model(str(out / "m.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(0).random((2, 3, 32, 48), dtype=np.float32)
    np.testing.assert_allclose(network(image)["probability"], Engine(model).run(image), atol=1e-5)
    assert str(tmp_path) not in (out / "m.xml").read_text()


def test_bad_input(tmp_path: Path) -> None:
    model = save(tmp_path / "m.onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for words, reason in (
        (("--target", "tensorrt"), "unknown target 'tensorrt'"),
        (("--target", "triton", "-o", tmp_path / "full"), "is not empty: choose another folder with -o"),
        (("--target", "triton", "-o", model), "is not empty: choose another folder with -o"),
    ):
        found = segdistill("export", model, *words)
        assert found.code == 2
        assert reason in found.line
    if find_spec("openvino") is None:
        found = segdistill("export", model, "--target", "openvino", "-o", tmp_path / "ir")
        assert found.line == "OpenVINO's IR needs the extra 'openvino': pip install 'segdistill[openvino]'"
        assert not (tmp_path / "ir").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "m.onnx"]


def test_names_of_repositories_are_plain(tmp_path: Path) -> None:
    write_target(save(tmp_path / "a b.ü-1.onnx"), "ovms", tmp_path / "out")
    (name,) = (path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert re.fullmatch(r"\w+", name)
    assert dump_info(INFO)
