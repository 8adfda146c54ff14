"""Model files that were made to do harm: weights in other files, graphs without an end, more memory than there is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segdistill.errors import InputError
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.preprocess import Preprocess
from segdistill.runtime import engine, onnx_file
from segdistill.runtime.engine import Engine
from segdistill.runtime.onnx_file import OLDEST_OPSET, read_onnx
from tests.runtime.small_model import build, save

BATCH = np.zeros((1, 3, 32, 48), np.float32)


def varint(value: int, extra: int = 0) -> bytes:
    """A number in protobuf's form; with `extra`, longer than it need be."""
    out = bytearray()
    while value > 127 or extra > 0:
        extra -= value <= 127
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def part(number: int, payload: bytes, wire: int = 2) -> bytes:
    return varint(number << 3 | wire) + (varint(len(payload)) if wire == 2 else b"") + payload


def refuse(path: Path, content: Any, reason: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    for read in (read_onnx, Engine):
        with pytest.raises(InputError, match=reason) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def external(name: str = "bias") -> Any:
    tensor = TensorProto(name=name, data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="neighbour.bin")
    return tensor


def in_function_node(model: Any) -> None:
    node = helper.make_node("Constant", [], ["o"], value=external())
    model.functions.add(name="F", domain="com.microsoft", output=["o"]).node.append(node)


def in_function_default(model: Any) -> None:
    model.functions.add(name="F", domain="com.microsoft").attribute_proto.append(
        helper.make_attribute("v", external())
    )


def in_sparse_weights(model: Any) -> None:
    model.graph.sparse_initializer.add(dims=[2]).values.CopyFrom(external())


def in_sparse_attribute(model: Any) -> None:
    attribute = model.graph.node.add(op_type="Constant", output=["o"]).attribute.add(name="sparse_value")
    attribute.type = onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.indices.CopyFrom(external())


def in_tensors_of_an_attribute(model: Any) -> None:
    model.graph.node[0].attribute.add(name="t", type=onnx.AttributeProto.TENSORS).tensors.append(external())


def in_training(model: Any) -> None:
    model.training_info.add().initialization.initializer.append(external())


def in_data_location_alone(model: Any) -> None:
    model.graph.initializer[1].data_location = TensorProto.EXTERNAL


@pytest.mark.parametrize(
    "hide",
    [
        in_function_node,
        in_function_default,
        in_sparse_weights,
        in_sparse_attribute,
        in_tensors_of_an_attribute,
        in_training,
        in_data_location_alone,
    ],
)
def test_weights_in_other_files_are_found_everywhere(hide: Callable[[Any], None], tmp_path: Path) -> None:
    model = build()
    hide(model)
    refuse(tmp_path / "m.onnx", model, "keeps weights in other files")


def test_a_location_that_protobuf_would_shorten(tmp_path: Path) -> None:
    tensor = TensorProto(name="x", data_type=1, dims=[2]).SerializeToString()
    hidden = tensor + varint(14 << 3) + varint(1 << 32 | 1)
    content = build().SerializeToString() + part(7, part(5, hidden))
    refuse(tmp_path / "m.onnx", content, "there twice|other files")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (varint((7 << 3 | 2) | 1 << 32) + varint(0), "more than 32 bits"),
        (varint(7 << 3 | 2, 1) + varint(0), "shortest form"),
        (part(6, b"")[:1] + varint(0, 2), "shortest form"),
        (part(7, b""), "field 7 of a model is there twice"),
        (part(1, varint(8), 0), "field 1 of a model is there twice"),
        (part(26, b""), "field 26 of a model is not known"),
        (part(2, b"caf\xe9"), "can't decode"),
        (part(5000, b"x"), "field 5000 of a model is not known"),
        (part(7, b"\x01" * 8, 1), "field 7 of a model has another type"),
        (part(7, b"", 3), "no protobuf message"),
        (part(14, part(1, b"segdistill")), "two entries 'segdistill'"),
        (part(8, part(2, varint(17), 0)), "two versions of the operators"),
    ],
)
def test_what_two_parsers_could_read_in_two_ways(extra: bytes, reason: str, tmp_path: Path) -> None:
    refuse(tmp_path / "m.onnx", build().SerializeToString() + extra, reason)


def test_a_file_in_the_own_format_of_onnxruntime(tmp_path: Path) -> None:
    words = b"abORTM"  # bytes 4 to 8 of the file behind a tag and a length of one byte each
    content = part(6, words) + build().SerializeToString()
    assert content[4:8] == b"ORTM"
    refuse(tmp_path / "m.onnx", content, "own format")


def subgraph(kind: str) -> Any:
    body = helper.make_graph([], "body", [], [])
    names = {"If": ("then_branch", "else_branch")}.get(kind, ("body",))
    return helper.make_node(kind, ["x"], ["y"], **dict.fromkeys(names, body))


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan", "SequenceMap"])
def test_operators_with_a_graph_inside_are_refused(kind: str, tmp_path: Path) -> None:
    model = build()
    model.graph.node.append(subgraph(kind))
    refuse(tmp_path / "m.onnx", model, "holds an operator with a graph inside")


def test_functions_sparse_weights_and_training_are_refused(tmp_path: Path) -> None:
    model = build()
    model.functions.add(name="F", domain="com.microsoft")
    refuse(tmp_path / "m.onnx", model, "holds functions")
    model = build()
    model.graph.sparse_initializer.add(dims=[1 << 40])
    refuse(tmp_path / "m.onnx", model, "holds sparse weights")
    model = build()
    model.training_info.add()
    refuse(tmp_path / "m.onnx", model, "holds information for training")


def test_counts_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    model.graph.node.extend(
        helper.make_node("Identity", ["image"], [f"x{k}"]) for k in range(onnx_file.MAX_NODES)
    )
    refuse(tmp_path / "m.onnx", model, "more than 5000 operators")
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", 20)
    refuse(tmp_path / "m.onnx", build(), "more than 20 fields")


def test_the_oldest_version_of_the_operators(tmp_path: Path) -> None:
    model = build()
    assert model.opset_import[0].version == OLDEST_OPSET  # the other tests run it
    model.opset_import[0].version = OLDEST_OPSET - 1
    refuse(tmp_path / "m.onnx", model, f"operators of version 16, the oldest that is read is {OLDEST_OPSET}")
    del model.opset_import[:]
    refuse(tmp_path / "m.onnx", model, "no version of the operators")


def with_bias(nodes: list[Any], **weights: Any) -> Any:
    """The small model with a bias that `nodes` make as tensor "bias"."""
    model = build()
    del model.graph.initializer[1]
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes + kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return model


def largest_of(node: Any) -> list[Any]:
    return [
        node,
        helper.make_node("ReduceMax", ["x"], ["r"], keepdims=0),
        helper.make_node("Add", ["r", "two"], ["bias"]),
    ]


TWO, ONE = np.zeros(2, np.float32), np.float32(1)
TOO_LARGE = {
    "ConstantOfShape": (["s"], {"s": np.array([3 << 30])}),
    "Expand": (["one", "s"], {"one": ONE, "s": np.array([1 << 40])}),
    "Tile": (["a", "s"], {"a": np.ones(1000, np.float32), "s": np.array([3_000_000])}),
    "Range": (["a", "b", "one"], {"a": np.float32(0), "b": np.float32(3e9), "one": ONE}),
    "Resize": (
        ["a", "", "s"],
        {"a": np.ones((1, 1, 9, 9), np.float32), "s": np.array([1, 1, 6e3, 6e3], "f4")},
    ),
    "Pad": (["a", "s"], {"a": np.ones((1, 1), np.float32), "s": np.array([0, 0, 60_000, 60_000])}),
}


@pytest.mark.parametrize("kind", sorted(TOO_LARGE))
def test_a_tensor_of_absurd_size_is_one_line(kind: str, tmp_path: Path) -> None:
    inputs, weights = TOO_LARGE[kind]
    model = with_bias(largest_of(helper.make_node(kind, inputs, ["x"])), two=TWO, **weights)
    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"more than 8 GiB of memory|does not run on|does not load"
    ) as caught:
        Engine(save(tmp_path / "m.onnx", model)).run(BATCH)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


def test_a_picture_takes_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["image", *(f"x{k}" for k in range(300))]
    large = helper.make_node("Resize", ["image", "", "s"], ["x0"])
    sines = [helper.make_node("Sin", [one], [two]) for one, two in pairwise(names[1:])]
    last = [
        helper.make_node("ReduceMax", [names[-1]], ["r"], keepdims=0),
        helper.make_node("Add", ["r", "two"], ["bias"]),
    ]
    model = with_bias([large, *sines, *last], two=TWO, s=np.array([1, 1, 16, 16], np.float32))
    loaded = Engine(save(tmp_path / "m.onnx", model), threads=1)
    monkeypatch.setattr(engine, "seconds_to_run", lambda pixels: pixels / BATCH[0, 0].size / 5)
    began = time.monotonic()
    for _ in range(50):  # of a batch of many pictures only the first waits
        with pytest.raises(InputError, match="does not end within 0 seconds on"):
            loaded.run(BATCH)
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_single_operator_without_end_does_not_keep_the_process(tmp_path: Path) -> None:
    product = [
        helper.make_node("Expand", ["one", "s"], ["e"]),
        helper.make_node("MatMul", ["e", "e"], ["x"]),
        helper.make_node("ReduceMax", ["x"], ["r"], keepdims=0),
        helper.make_node("Add", ["r", "two"], ["bias"]),
    ]
    save(tmp_path / "m.onnx", with_bias(product, two=TWO, one=ONE, s=np.array([14_000, 14_000])))
    code = (
        "import numpy as np\n"
        "from segdistill.runtime import engine\n"
        "engine.seconds_to_run = lambda pixels: 0.5\n"
        "engine._GRACE = 0.1\n"
        "try:\n"
        "    engine.Engine('m.onnx', threads=1).run(np.zeros((1, 3, 32, 48), np.float32))\n"
        "except engine.InputError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "does not end within" in done.stdout


def test_time_limits_scale() -> None:
    assert engine.seconds_to_run(2 * 512 * 512) > engine.seconds_to_run(512 * 512) > 250
    assert engine.seconds_to_run(0) == 20


def test_weights_are_read_once(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx")
    loaded = Engine(path)
    path.unlink()
    assert loaded.run(BATCH).shape == (1, 2, 32, 48)


def test_metadata_cannot_ask_for_endless_input() -> None:
    with pytest.raises(InputError, match="more than 256"):
        PatchGrid(1_000_000, 4)
    with pytest.raises(InputError, match="numbers: use fewer"):
        Preprocess((16384, 16384), channels=1 << 40)
