"""A model file small enough for a test: the probability is sigmoid(gain * (brightness - 0.5))."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.runtime.model_file import METADATA_KEY, ModelInfo, dump_info

INFO = ModelInfo(
    name="brightness",
    input_channels=3,
    classes=("background", "lesion"),
    preprocess=Preprocess(size=(32, 48)),
    postprocess=Postprocess(),
    provenance={"recipe": "by hand"},
    metrics={"dice": 0.5},
)
GAIN = 20.0


def build(info: ModelInfo = INFO, planes: int = 2, domain: str = "") -> Any:
    """ONNX model: 1x1 convolution over the channels, then softmax (or sigmoid for one plane).

    Of volumes the mean of 3x3x3 voxels, beyond the window zeros; class k is the brightness near k / (planes - 1).
    """
    channels = info.input_channels
    if info.preprocess.dimensions == 3:
        return _build_volumes(info, planes)
    weight = np.zeros((planes, channels, 1, 1), np.float32)
    weight[-1] = GAIN / channels
    bias = np.zeros(planes, np.float32)
    bias[-1] = -GAIN / 2
    last = (
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1)
        if planes > 1
        else helper.make_node("Sigmoid", ["logits"], ["probability"])
    )
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], domain=domain), last],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, "height", "width"])],
        [
            helper.make_tensor_value_info(
                "probability", TensorProto.FLOAT, ["batch", planes, "height", "width"]
            )
        ],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    imports = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: dump_info(info)})
    return model


def _build_volumes(info: ModelInfo, planes: int) -> Any:
    channels, sides = info.input_channels, ["depth", "height", "width"]
    share = np.arange(planes, dtype=np.float32) / (planes - 1)
    weight = (
        np.ones((planes, channels, 3, 3, 3), np.float32)
        * (2 * GAIN * share / (27 * channels))[:, None, None, None, None]
    )
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["logits"], pads=[1] * 6),
        helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", channels, *sides])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", planes, *sides])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(-GAIN * share**2, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: dump_info(info)})
    return model


def save(path: Path, model: Any = None) -> Path:
    onnx.save(build() if model is None else model, path)
    return path


def picture(path: Path, value: int = 250) -> Path:
    """A dark picture with a bright rectangle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((40, 60), 10, np.uint8)
    pixels[10:30, 20:50] = value
    Image.fromarray(pixels).save(path)
    return path
