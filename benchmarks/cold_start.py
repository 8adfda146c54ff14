"""Whole-process times of `segdistill --help` and of `segdistill predict` on one image, and that neither loads torch.

The model file has the size of the real student: the untrained simplified U-Net at 128x128. The figure is the worse
of the two medians, each as a share of its own bar (0.5 s and 0.6 s).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import arguments, machine, report, scratch

BARS = {"help": 0.5, "predict": 0.6}
UNWANTED = ("torch", "lightning_fabric", "albumentations", "matplotlib", "scipy", "onnx")


def make_model(path: Path, size: int) -> None:
    """Exports the untrained student."""
    from segdistill.experiment.export import export_network
    from segdistill.imaging.postprocess import Postprocess
    from segdistill.imaging.preprocess import Preprocess
    from segdistill.models.registry import create_network
    from segdistill.runtime.model_file import ModelInfo

    pre, post = Preprocess((size, size), "grey", 3), Postprocess()
    export_network(create_network("simplified_unet"), ModelInfo("cold", 3, post.classes, pre, post), path)


def make_image(path: Path, size: int) -> None:
    """Draws a phantom."""
    from PIL import Image

    from segdistill.data.phantom import draw_phantom

    Image.fromarray(draw_phantom("benign", 0, size)[0]).save(path)


def seconds(command: list[str]) -> float:
    """Wall-clock of a process from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def loaded(arguments: list[str]) -> list[str]:
    """The unwanted packages that a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "segdistill.cli.main", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = set(re.findall(r"\|\s+(\w+)(?:\.[\w.]+)?$", done.stderr, re.MULTILINE))
    if "segdistill" not in found:
        raise SystemExit("cannot read the list of imports")
    return sorted(found & set(UNWANTED))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=128, help="of the network's input")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--model", type=Path, help="a model file in place of the one made here")
    args = parser.parse_args()
    script = Path(sys.executable).parent / "segdistill"
    program = [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "segdistill.cli.main"]
    details: dict[str, Any] = {
        "program": "segdistill" if script.exists() else "python -m segdistill.cli.main"
    }
    shares, clean = [], True
    with scratch() as folder:
        model = args.model or folder / "model.onnx"
        if args.model is None:
            make_model(model, args.size)
        make_image(folder / "image.png", args.image_size)
        commands = {
            "help": ["--help"],
            "predict": ["predict", str(model), str(folder / "image.png"), "-o", str(folder / "out")],
        }
        for name, command in commands.items():
            seconds([*program, *command])  # fills the file cache
            times = [seconds([*program, *command]) for _ in range(args.rounds)]
            imports = loaded(command)
            clean = clean and "torch" not in imports
            shares.append(statistics.median(times) / BARS[name])
            details[name] = {
                "seconds": round(statistics.median(times), 3),
                "bar_seconds": BARS[name],
                "all": [round(value, 3) for value in times],
                "imports": imports,
            }
    details["machine"] = machine()
    report(Path(__file__).stem, max(shares), 1.0, max(shares) <= 1.0 and clean, details, args.json)


if __name__ == "__main__":
    main()
