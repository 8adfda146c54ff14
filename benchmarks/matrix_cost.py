"""A matrix of 3 students x 4 methods with one trained teacher, against 12 trainings of the baseline.

Both are cells of one matrix recipe and take turns; the teacher is trained before. The figure is the wall-clock of the
twelve distilled cells, including filling the teacher cache, over that of the twelve others, which take the same steps.
Evaluation and report are excluded on both sides. Images are synthetic; the times do not depend on their content.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml

from common import arguments, log, machine, report, scratch, two_cores
from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe
from segdistill.experiment.events import Event
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.training.optimisation import choose_precision

BAR = 1.3
STUDENTS = {
    "simplified_unet": {"name": "simplified_unet"},
    "mobilenet_v2_unet": {"name": "mobilenet_v2_unet"},
    "erfnet": {"name": "erfnet"},
}
METHODS: dict[str, dict[str, Any]] = {
    "soft_kd": {"soft_prediction": {"temperature": 4.0}},
    "at": {"attention_transfer": {}},
    "ifvd": {"ifvd": {}},
    "skd": {"skd": {}},
}


def make_recipe(args: Any) -> dict[str, Any]:
    """A distilled variant and a baseline in turns."""
    variants: dict[str, Any] = {}
    for name, methods in METHODS.items():
        variants[name] = {"cache": True, "methods": methods}
        variants[f"baseline_{name}"] = {}
    return {
        "name": "matrix_cost",
        "data": {"dataset": "phantom", "size": args.size, "channels": 3, "phantoms": args.images},
        "fit": {"epochs": args.epochs, "batch_size": 8, "views": args.views, "select": "last"},
        "matrix": {
            "students": {name: {"model": model} for name, model in STUDENTS.items()},
            "teachers": {"teacher": {"model": {"name": "resnet_attention_unet", "depth": args.depth}}},
            "variants": variants,
        },
    }


def seconds(recipe: Recipe, folder: Path, stages: list[str] | None = None) -> dict[str, float]:
    """Seconds of training of each stage, until the first evaluation."""
    took: dict[str, float] = defaultdict(float)
    began = time.perf_counter()
    events = run_recipe(recipe, None, folder, Machine("cpu"), stages)
    for event in events:
        now = time.perf_counter()
        if event.text.startswith("evaluating"):
            break
        if event.text.startswith("stage "):
            took[_stage(event)] += now - began
        began = now
    events.close()  # type: ignore[attr-defined]
    return took


def _stage(event: Event) -> str:
    return event.text.removeprefix("stage ").split(":")[0]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--views", type=int, default=5, help="different views of each image")
    parser.add_argument("--depth", type=int, default=18, help="of the teacher's encoder")
    args = parser.parse_args()
    two_cores()
    with scratch() as work:
        (work / "recipe.yaml").write_text(yaml.safe_dump(make_recipe(args), sort_keys=False))
        recipe = load_recipe(str(work / "recipe.yaml"))
        log("training the teacher")
        seconds(recipe, work / "runs" / "m", ["teacher"])
        log(f"{len(recipe.stages) - 1} trainings of {args.epochs} epochs")
        took = seconds(recipe, work / "runs" / "m")
    cells = {recipe.variant(name): round(value, 2) for name, value in took.items() if name != "teacher"}
    baselines = {name: value for name, value in cells.items() if "baseline_" in name}
    distilled = {name: value for name, value in cells.items() if name not in baselines}
    figure = sum(distilled.values()) / sum(baselines.values())
    details = {
        "seconds_distilled": round(sum(distilled.values()), 1),
        "seconds_baseline": round(sum(baselines.values()), 1),
        "trainings": [len(distilled), len(baselines)],
        "seconds": cells,
        "relative": {
            name: round(value / baselines[name.replace("-", "-baseline_", 1)], 3)
            for name, value in distilled.items()
        },
        **{name: getattr(args, name) for name in ("size", "images", "epochs", "views", "depth")},
        "machine": machine(choose_precision("auto", torch.device("cpu"))),
    }
    report(Path(__file__).stem, figure, BAR, figure <= BAR, details, args.json)


if __name__ == "__main__":
    main()
