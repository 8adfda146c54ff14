"""Evaluation of a model file whose output is no probability: the case fails, and is not counted as empty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill.errors import InputError
from segdistill.experiment.evaluate import evaluate
from tests.runtime.small_model import build, save


def overflowing(path: Path) -> Path:
    """Infinite in bright images alone: sigmoid is left out, and the brightness is multiplied until it overflows."""
    from onnx import numpy_helper

    proto = build(planes=1)
    weight = next(each for each in proto.graph.initializer if each.name == "weight")
    bias = next(each for each in proto.graph.initializer if each.name == "bias")
    weight.CopyFrom(numpy_helper.from_array(np.full((1, 3, 1, 1), 3e38, np.float32), "weight"))
    bias.CopyFrom(numpy_helper.from_array(np.array([0], np.float32), "bias"))
    proto.graph.node[-1].op_type = "Identity"
    return save(path, proto)


def case(folder: Path, name: str, value: int) -> str:
    mask = np.zeros((32, 48), np.uint8)
    mask[5:20, 5:20] = 255
    Image.fromarray(np.full((32, 48), value, np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return f"{name},{name}.png,{name}_mask.png"


def test_the_case_fails(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("\n".join(["id,image,masks", case(tmp_path, "dark", 0), case(tmp_path, "bright", 255)]))
    model = overflowing(tmp_path / "m.onnx")
    found = evaluate(model, table, out=tmp_path / "out")
    assert [row["case"] for row in found.metrics] == ["dark"]
    assert "is NaN or infinite" in found.record.failed["bright"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["failed"]["bright"]
    table.write_text("\n".join(["id,image,masks", case(tmp_path, "bright", 255)]))
    with pytest.raises(InputError, match=r"no case could be evaluated: .*is NaN or infinite"):
        evaluate(model, table)
