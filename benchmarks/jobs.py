"""Four independent stages with --jobs 2 and one thread each, against one after the other with two threads.

Both are the same command on the same recipe, in turns. Preparation of the data, evaluation, report and the start of the
processes count on both sides. Images are synthetic; the times do not depend on their content.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from common import arguments, log, machine, report, scratch, two_cores

BAR = 0.85


def make_recipe(args: Any) -> dict[str, Any]:
    """Four seeds of one network."""
    return {
        "name": "jobs",
        "data": {"dataset": "phantom", "size": args.size, "channels": 3, "phantoms": args.images},
        "fit": {"epochs": args.epochs, "batch_size": 8, "select": "last"},
        "stages": {"net": {"model": {"name": "simplified_unet"}}},
        "seeds": [0, 1, 2, 3],
    }


def seconds(recipe: Path, folder: Path, *words: str) -> float:
    """Of one command."""
    command = [
        sys.executable,
        "-m",
        "segdistill.cli.main",
        "run",
        str(recipe),
        "--device",
        "cpu",
        "--out",
        str(folder),
    ]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return took


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    two_cores()
    one: list[float] = []
    two: list[float] = []
    with scratch() as work:
        path = work / "recipe.yaml"
        path.write_text(yaml.safe_dump(make_recipe(args), sort_keys=False))
        for number in range(args.rounds):
            for side, words in ((one, ()), (two, ("--jobs", "2")))[:: 1 if number % 2 == 0 else -1]:
                log(f"round {number + 1} of {args.rounds}: {' '.join(words) or 'one after the other'}")
                side.append(seconds(path, work / f"{number}{len(words)}" / "jobs", *words))
    figure = min(two) / min(one)
    details = {
        "seconds_one_after_the_other": [round(value, 1) for value in one],
        "seconds_side_by_side": [round(value, 1) for value in two],
        "stages": 4,
        **{name: getattr(args, name) for name in ("size", "images", "epochs", "rounds")},
        "machine": machine(),
    }
    report(Path(__file__).stem, figure, BAR, figure <= BAR, details, args.json)


if __name__ == "__main__":
    main()
