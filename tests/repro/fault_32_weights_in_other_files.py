"""A model file whose bias lies in a neighbouring file: hidden (a) as default value of a function's
attribute (FunctionProto.attribute_proto, not scanned), (b) behind tags of more than 32 bits, which protobuf
cuts off and the scan does not.

Right: refused as 'keeps weights in other files', as the plain form is; docs/how-to/export-and-predict.md
promises it. Never: loaded. (With onnxruntime 1.20, which pyproject allows, '../' and absolute paths are
read too; newer ones refuse these themselves.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from common import Verdict, control, control_call, model_file, model_proto, save, script, segdistill, show


def bytes_field(tag: int, payload: bytes) -> bytes:
    """A field of bytes in protobuf's own form, whatever its tag."""

    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        return bytes(out) + bytes([value])

    return varint(tag) + varint(len(payload)) + payload


def external(name: str) -> Any:
    """A bias whose two numbers lie in neighbour.bin."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "neighbour.bin"), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_function() -> bytes:
    node = helper.make_node("Constant", [], ["o"])
    node.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    function = onnx.FunctionProto(
        name="F",
        domain="com.microsoft",
        output=["o"],
        opset_import=[helper.make_opsetid("", 17)],
        node=[node],
        attribute_proto=[helper.make_attribute("v", external(""))],
    )
    call = helper.make_node("F", [], ["b"], domain="com.microsoft")
    domain = helper.make_opsetid("com.microsoft", 1)
    made = model_proto(nodes=[call], initializers=[], functions=[function], opsets=[domain])
    return bytes(made.SerializeToString())


def behind_long_tags() -> bytes:
    model = model_proto(initializers=[])
    hidden = bytes_field(5 << 3 | 2 | 1 << 32, external("b").SerializeToString())
    graph = model.graph.SerializeToString() + hidden
    model.ClearField("graph")
    return bytes(model.SerializeToString() + bytes_field(7 << 3 | 2, graph))


def all_lesion(name: str) -> bool:
    mask = Path(name, "black.png")
    return mask.exists() and bool(np.asarray(Image.open(mask)).all())


def main() -> Verdict:
    Path("neighbour.bin").write_bytes(np.array([0, 100], np.float32).tobytes())  # makes everything lesion
    save(np.zeros((32, 48), np.uint8), "black.png")
    control_call("predict", model_file("inside.onnx"), "black.png", "-o", "inside")
    control(not all_lesion("inside"), "with its weights inside, the model marks a black picture")
    Path("plain.onnx").write_bytes(model_proto(initializers=[external("b")]).SerializeToString())
    plain = segdistill("predict", "plain.onnx", "black.png", "-o", "plain")
    control(plain.code == 2 and "other files" in plain.err, f"the plain form is not refused: {plain.last}")

    Path("function.onnx").write_bytes(in_function())
    Path("tags.onnx").write_bytes(behind_long_tags())
    read = []
    for name in ("function", "tags"):
        answer = segdistill("predict", f"{name}.onnx", "black.png", "-o", name)
        show(name, answer)
        if answer.code == 0 or all_lesion(name):
            read.append(name)
    return Verdict(bool(read), f"weights were read from another file by: {', '.join(read) or 'none'}")


if __name__ == "__main__":
    script(main)
