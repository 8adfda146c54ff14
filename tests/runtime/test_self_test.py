from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segdistill.errors import InputError
from segdistill.runtime.doctor import examine
from segdistill.runtime.engine import ENGINES, Engine
from segdistill.runtime.machine import instruction_sets, usable_cores
from segdistill.runtime.predictor import Predictor
from segdistill.runtime.self_test import record_self_test, run_self_test, synthetic_images
from tests.experiment.tiny import segdistill
from tests.runtime.small_model import INFO, build, save


def with_self_test(path: Path, **changes: Any) -> Path:
    """The small model with its own self-test in its metadata."""
    stated = record_self_test(Engine(save(path))) | changes
    return save(path, build(replace(INFO, self_test=stated)))


def test_the_images_are_the_same_everywhere() -> None:
    content = b"".join(image.tobytes() for image in synthetic_images((32, 48)))
    assert hashlib.sha256(content).hexdigest()[:16] == "73e5d706f7d3a7bc"
    for image in synthetic_images((64, 64)):
        assert (image == 230).any()
        assert (image == 20).any()


def test_the_record_is_what_the_network_gives(tmp_path: Path) -> None:
    path = with_self_test(tmp_path / "m.onnx")
    engine = Engine(path)
    stated = engine.info.self_test
    predictor = Predictor(engine)
    for image, blocks, area in zip(
        synthetic_images((32, 48)), stated["blocks"], stated["areas"], strict=True
    ):
        found = predictor.predict_pixels(image)
        expected = found.probability.reshape(8, 4, 8, 6).mean(axis=(1, 3))
        np.testing.assert_allclose(blocks, expected, atol=2e-5)
        assert area == pytest.approx(found.mask.mean(), abs=1e-5)
    assert json.loads(json.dumps(stated)) == stated
    assert run_self_test(engine, stated, is_int8=False).passed


def test_other_weights_do_not_pass(tmp_path: Path) -> None:
    path = with_self_test(tmp_path / "m.onnx")
    model = onnx.load(path)
    (weight,) = (each for each in model.graph.initializer if each.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.05), "weight"))
    onnx.save(model, path)
    found = examine([path])
    assert [one.engine for one in found.failed] == [one.engine for one in found.findings]
    refused = segdistill("doctor", path)
    assert refused.code == 5
    assert "self-test FAILED (probability differs by 0." in refused.out
    assert "self-tests failed, such as" in refused.line


@pytest.mark.parametrize(
    "changes", [{"blocks": [[1]]}, {"areas": ["x"] * 3}, {"seed": -1}, {"seed": None}, {"blocks": None}]
)
def test_a_damaged_record_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = with_self_test(tmp_path / "m.onnx", **changes)
    refused = segdistill("doctor", path)
    assert refused.code == 2
    assert refused.line == "the self-test in the model file is damaged: export it again"


def test_what_doctor_prints(tmp_path: Path) -> None:
    path, old = with_self_test(tmp_path / "m.onnx"), save(tmp_path / "old.onnx")
    found = segdistill("doctor", path, old)
    assert found.code == 0, found.err
    for words in (
        "processor",
        "instructions",
        "engine        onnxruntime ",
        f"threads       {usable_cores()}",
    ):
        assert words in found.out
    assert f"{path}, onnxruntime: self-test passed (probability differs by" in found.out
    assert f"{old}, onnxruntime: no self-test in the file (export it again)" in found.out
    assert f"fastest for {path}: --engine " in found.out
    report = json.loads(segdistill("doctor", path, "--json").out)
    assert report["findings"][0]["passed"] is True
    assert report["fastest"][str(path)]["engine"] in ENGINES
    assert segdistill("doctor").code == 0
    absent = segdistill("doctor", tmp_path / "absent.onnx")
    assert (absent.code, absent.line) == (2, f"no such model file: {tmp_path / 'absent.onnx'}")


def test_instruction_sets_are_those_of_the_system() -> None:
    found, place = instruction_sets(), Path("/proc/cpuinfo")
    if not place.exists():
        assert found is None
        return
    words = set(place.read_text().split())
    assert found is not None
    assert set(found) <= words
    assert ("avx2" in found) == ("avx2" in words)


def test_engines_are_named() -> None:
    with pytest.raises(InputError, match="unknown engine 'openvin': did you mean 'openvino'"):
        Engine("m.onnx", engine="openvin")
