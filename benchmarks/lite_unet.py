"""Milliseconds of lite_unet's presets beside simplified_unet at other widths, in ONNX Runtime on one thread of a CPU.

All networks are timed in turns, by the processor time of the one thread that computes, so that other load on the
machine disturbs them little and alike. For each preset the milliseconds
that a simplified_unet needs for as many parameters are interpolated between its widths (both on a logarithmic scale).
The figure is the worst ratio of a preset to them, over all sizes of images.

    python benchmarks/lite_unet.py --json
    python benchmarks/lite_unet.py --sizes 128 --rounds 100

The networks have random weights and are written by torch's older exporter, which is fast. ONNX Runtime folds batch
normalisation into convolutions itself, so the graphs that run are those of model files (softmax apart).
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import alternate, arguments, log, machine, milliseconds, report
from segdistill.models.complexity import complexity
from segdistill.models.registry import create_network, network_facts

BAR = 0.5
FIRST_WIDTHS = (2, 4, 6, 8, 12, 16)
"""Channels of simplified_unet's first level; each level below has twice as many."""


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image).logits
        return logits


def runner(name: str, options: dict[str, Any], size: int) -> Callable[[], object]:
    """A function that runs one image through the network."""
    import onnxruntime

    torch.manual_seed(0)
    network = Logits(create_network(name, 3, **options)).eval()
    file = io.BytesIO()
    image = torch.rand(1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (image,), file, dynamo=False, opset_version=17, input_names=["image"])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])
    given = {"image": image.numpy()}
    return lambda: session.run(None, given)


def candidates() -> list[tuple[str, str, dict[str, Any]]]:
    """(label, network, options) of every row."""
    presets = network_facts("lite_unet").presets
    rows: list[tuple[str, str, dict[str, Any]]] = [
        (f"lite_unet {preset}", "lite_unet", {"preset": preset})
        for preset, options in presets.items()
        if "dimensions" not in options
    ]
    for first in FIRST_WIDTHS:
        widths = [first * 2**level for level in range(5)]
        rows.append((f"simplified_unet {first}", "simplified_unet", {"widths": widths}))
    return rows


def main() -> None:
    """Times the networks and prints one row each."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        named = candidates()
        parts = [runner(name, options, size) for _, name, options in named]
        for (label, name, options), times in zip(
            named, alternate(parts, args.rounds, clock=time.thread_time), strict=True
        ):
            parameters = complexity(name, (3, size, size), **options).parameters
            rows.append({"network": label, "size": size, "parameters": parameters, "ms": milliseconds(times)})
            log(f"{size} {label:20} {parameters:9,} {rows[-1]['ms']}")
    for row in rows:
        if row["network"].startswith("lite_unet"):
            others = [r for r in rows if r["size"] == row["size"] and r["network"].startswith("simplified")]
            row["over_simplified_unet"] = round(row["ms"]["median"] / same_parameters(row, others), 3)
    worst = max(row.get("over_simplified_unet", 0.0) for row in rows)
    details = {"rounds": args.rounds, "threads": 1, "rows": rows, "machine": machine()}
    report(Path(__file__).stem, worst, BAR, worst <= BAR, details, args.json)


def same_parameters(row: dict[str, Any], others: list[dict[str, Any]]) -> float:
    """Milliseconds of a simplified_unet with as many parameters as `row`; below the smallest one, those of it."""
    known = sorted((math.log(r["parameters"]), math.log(r["ms"]["median"])) for r in others)
    return float(np.exp(np.interp(math.log(row["parameters"]), *zip(*known, strict=True))))


if __name__ == "__main__":
    main()
