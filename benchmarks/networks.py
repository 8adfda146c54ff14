"""Forward and training-step time of every network at 256x256, relative to `unet` in the same run.

Each network is timed in its own process, in turn as plain fp32, fp32 + channels_last and bf16 + channels_last. Batch 1
is timed forward; a training step takes two images. What `precision: auto` chooses for a network on a CPU
(`cpu_precision` in models/registry.py, always with channels_last) decides the figure: the worst ratio of its training
step to that of plain fp32. `unet` and `simplified_unet` must also be at most 0.6.

    python benchmarks/networks.py --json                       all networks, batch 1
    python benchmarks/networks.py --names unet,enet --threads 1,2
    python benchmarks/networks.py --compile unet,simplified_unet,resnet_attention_unet,erfnet,mobilenet_v2_unet
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from common import arguments, log, machine, report

# so small that a second thread may make them slower
SMALL = ("simplified_unet", "enet", "erfnet", "espnet", "mobilenet_v2", "mobilenet_v2_unet")


def time_network(
    name: str, size: int, batch: int, threads: int, repeats: int, compiled: bool
) -> dict[str, Any]:
    """Median milliseconds of a forward pass and of a training step, the variants interleaved."""
    import torch

    from segdistill.models.registry import create_network

    torch.set_num_threads(threads)
    variants = {
        "fp32": (torch.contiguous_format, False),
        "fp32_last": (torch.channels_last, False),
        "bf16": (torch.channels_last, True),
    }
    steps = {}
    for variant, (layout, low) in variants.items():
        torch.manual_seed(0)
        network = create_network(name, in_channels=3)
        network.to(memory_format=layout)
        call = torch.compile(network) if compiled else network
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
        image = torch.rand(batch, 3, size, size).contiguous(memory_format=layout)
        steps[variant] = (network, call, optimizer, image, low)
    times: dict[str, dict[str, list[float]]] = {v: {"forward": [], "step": []} for v in variants}
    for _ in range(repeats + 1):
        for variant, (network, call, optimizer, image, low) in steps.items():
            network.eval()
            began = time.perf_counter()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                call(image)
            times[variant]["forward"].append(time.perf_counter() - began)
            network.train()
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                output = call(torch.cat([image, image]) if batch == 1 else image)
            logits = output.logits if output.logits is not None else output.label
            logits.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            times[variant]["step"].append(time.perf_counter() - began)
    return {
        f"{variant}_{kind}_ms": round(1000 * statistics.median(values[1:]), 2)
        for variant, kinds in times.items()
        for kind, values in kinds.items()
    }


def in_process(
    name: str, options: argparse.Namespace, threads: int, compiled: bool = False
) -> dict[str, Any]:
    """Times a network in a process of its own: thread pools and caches of one do not affect the next."""
    command = [
        sys.executable,
        __file__,
        "--one",
        name,
        "--size",
        str(options.size),
        "--batch",
        str(options.batch),
    ]
    command += ["--threads", str(threads), "--repeats", str(options.repeats)] + (
        ["--compiled"] if compiled else []
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"}
    timed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return timed


def main() -> None:
    """Times the networks and prints one row each."""
    from segdistill.models.registry import NETWORKS, network_facts

    parser = arguments(__doc__)
    parser.add_argument("--names", default="all")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", default="", help="comma-separated networks to time compiled, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        timed = time_network(
            options.one, options.size, options.batch, int(options.threads), options.repeats, options.compiled
        )
        print(json.dumps(timed))
        return
    chosen = [n for n in NETWORKS if network_facts(n).kind not in ("discriminator", "external")]
    names = chosen if options.names == "all" else options.names.split(",")
    threads = [int(count) for count in options.threads.split(",")]
    rows: list[dict[str, Any]] = []
    for name in ["unet", *(n for n in names if n != "unet")]:
        for count in threads if name in SMALL or name == "unet" else threads[-1:]:
            row = {"name": name, "threads": count, **in_process(name, options, count)}
            rows.append(row)
            log(json.dumps(row))
        if name in options.compile.split(","):
            row = {"name": f"{name} (compiled)", "threads": threads[-1]}
            rows.append(row | in_process(name, options, threads[-1], compiled=True))
            log(json.dumps(rows[-1]))
    for row in rows:
        base = next(r for r in rows if r["name"] == "unet" and r["threads"] == row["threads"])
        if "error" in row or "error" in base:
            continue
        row["step_over_unet"] = round(row["fp32_step_ms"] / base["fp32_step_ms"], 4)
        for variant in ("fp32_last", "bf16"):
            for kind in ("forward", "step"):
                ratio = row[f"{variant}_{kind}_ms"] / row[f"fp32_{kind}_ms"]
                row[f"{variant}_over_fp32_{kind}"] = round(ratio, 3)
        row["default"] = network_facts(row["name"].removesuffix(" (compiled)")).cpu_precision
        variant = "bf16" if row["default"] == "bf16" else "fp32_last"
        row["default_over_fp32_step"] = row[f"{variant}_over_fp32_step"]
    counted = [r for r in rows if "default" in r and r["threads"] == threads[-1] and "(" not in r["name"]]
    worst = max((row["default_over_fp32_step"] for row in counted), default=float("nan"))
    plain = [r["default_over_fp32_step"] for r in counted if r["name"] in ("unet", "simplified_unet")]
    holds = worst <= 1.0 and all(ratio <= 0.6 for ratio in plain)
    details = {"size": options.size, "batch": options.batch, "rows": rows, "machine": machine("bf16-mixed")}
    report("networks", worst, 1.0, holds, details, options.json)


if __name__ == "__main__":
    main()
