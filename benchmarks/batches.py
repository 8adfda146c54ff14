"""Pictures a second of one `predict` on all cores beside as many independent processes, each with its share of them.

The figure is the median of (independent processes' time / one process's time) over rounds that time both in turn.
Phantoms of 256x256 and an untrained student, or a model file and pictures of your own.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cold_start import make_image, make_model
from common import arguments, machine, report, scratch

BAR = 0.85


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    with scratch() as folder:
        model = options.model or folder / "model.onnx"
        if options.model is None:
            make_model(model, options.size)
        found = sorted(options.images.rglob("*.png")) if options.images else []
        found = [path for path in found if "_mask" not in path.name]
        if not found:
            make_image(folder / "phantom.png", options.size)
            found = [folder / "phantom.png"]
        cores = len(_cores())
        for k in range(options.pictures):
            place = folder / "all" / f"{k:04}.png"
            place.parent.mkdir(exist_ok=True)
            shutil.copy(found[k % len(found)], place)
            part = folder / f"part{k % cores}"
            part.mkdir(exist_ok=True)
            shutil.copy(place, part / place.name)
        times = [
            (seconds(model, [folder / "all"], folder), seconds(model, parts(folder, cores), folder))
            for _ in range(options.rounds)
        ]
    ratios = [several / one for one, several in times]
    details = {
        "pictures": options.pictures,
        "one_process_s": [round(one, 2) for one, _ in times],
        "independent_s": [round(several, 2) for _, several in times],
        "independent_processes": cores,
        "machine": machine(),
    }
    figure = statistics.median(ratios)
    report("batches", figure, BAR, figure >= BAR, details, options.json)


def _cores() -> set[int]:
    import os

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def parts(folder: Path, cores: int) -> list[Path]:
    return [folder / f"part{k}" for k in range(cores)]


def seconds(model: Path, inputs: list[Path], folder: Path) -> float:
    """Of one process for each input, all at the same time; alone it takes all cores, beside others one thread."""
    outs = [folder / "out" / path.name for path in inputs]
    threads = ["--threads", "1"] if len(inputs) > 1 else []
    command = [sys.executable, "-m", "segdistill.cli.main", "predict", str(model)]
    began = time.perf_counter()
    running = [
        subprocess.Popen([*command, str(path), "-o", str(out), *threads], stdout=subprocess.DEVNULL)
        for path, out in zip(inputs, outs, strict=True)
    ]
    for process in running:
        if process.wait():
            raise SystemExit("predict has failed")
    took = time.perf_counter() - began
    shutil.rmtree(folder / "out")
    return took


if __name__ == "__main__":
    main()
