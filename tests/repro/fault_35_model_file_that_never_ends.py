"""predict with somebody's model file whose graph holds a Loop of 2^62 turns (operators of ONNX alone, 1 kB,
all checks passed).

Right: operators with subgraphs of unknown length are refused on opening (export never writes Loop or Scan),
or a run ends after a stated time with one line. Never: for ever on one core, Ctrl-C only.
"""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from common import Verdict, control_call, model_file, noise, save, script, segdistill, show

SECONDS = 45


def loop_of(turns: int) -> dict[str, list[Any]]:
    """Nodes and initialisers that hand the bias through a loop of so many turns."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("c", TensorProto.BOOL, []),
            value("v", TensorProto.FLOAT, [2]),
        ],
        [value("c2", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, [2])],
    )
    return {
        "nodes": [helper.make_node("Loop", ["n", "t", "b0"], ["b"], body=body)],
        "initializers": [
            numpy_helper.from_array(np.array(turns), "n"),
            numpy_helper.from_array(np.array(True), "t"),
            numpy_helper.from_array(np.array([0, -10], np.float32), "b0"),
        ],
    }


def main() -> Verdict:
    save(noise(1, 40, 40), "a.png")
    control_call("predict", model_file("plain.onnx"), "a.png", "-o", "plain")
    model = model_file("loop.onnx", **loop_of(2**62))
    try:
        answer = segdistill("predict", model, "a.png", "-o", "p", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Verdict(True, f"still busy after {SECONDS} seconds with one picture of 40 x 40")
    show("a loop of 2^62 turns", answer)
    return Verdict(
        answer.code not in (2, 4) or answer.crashed, f"it ended with exit code {answer.code}: {answer.last}"
    )


if __name__ == "__main__":
    script(main)
