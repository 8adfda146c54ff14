"""Our training of the student, without distillation, against a plain PyTorch loop given the same wall-clock.

Same cases, same group-whole split, same network and first weights, several seeds, trained in turns, each in a
process of its own. The figure is the lower end of the 95 % interval of Dice(ours) - Dice(plain) over the test cases,
each averaged over the seeds, resampled by groups. A killed call continues where it stopped. `--choose` compares
settings on the validation cases; the test cases are then never read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segdistill
from common import arguments, log, machine, report, scratch
from segdistill.config.schema import DataRecipe, SplitRecipe
from segdistill.data.case import Case, select, table_hash
from segdistill.data.table import read_cases, write_cases
from segdistill.data.views import batch_indices
from segdistill.errors import InputError
from segdistill.experiment.cases import absolute, load_cases
from segdistill.experiment.folder import only_writer
from segdistill.files import sha256_file, sha256_text, write_json
from segdistill.metrics.cases import CaseResult, read_metrics_csv
from segdistill.stats.bootstrap import paired_difference
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings

LABELS = ["benign", "malignant"]
BAR = -0.02
MEASUREMENTS = 3
TIME_LIMIT = 1.05  # our time over that of the plain loop: more is not a fair comparison
OUR_CODE = [
    *(f"training/{name}.py" for name in ("loop", "optimisation", "settings", "task", "validation")),
    *(f"data/{name}.py" for name in ("augment", "store", "views")),
    *(f"losses/{name}.py" for name in ("base", "cross_entropy", "dice", "iou", "weighted_sum")),
]
HERE = Path(__file__).parent
SIDES = ("plain", "ours")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ours": {"loss": "weight_balance", "fit": {}},
}
CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("plain", {"vertical_flip": True}),
    ("ours", {}),
    ("ours", {"loss": "cross_entropy_dice"}),
    ("ours", {"fit": {"select": "last"}}),
    ("ours", {"fit": {"augment": "lightbtseg"}}),
    ("ours", {"loss": "cross_entropy_dice", "fit": {"select": "last"}}),
]


class Bench:
    """The cases of a call, and its trainings, made now or before."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, Path(args.out)
        data = DataRecipe(
            dataset=args.dataset,
            size=args.size,
            labels=LABELS,
            phantoms=args.phantoms,
            split=SplitRecipe(method="hold_out", test=args.test),
        )
        source = None if args.dataset == "phantom" else args.data
        loaded_cases = load_cases(data, source, self.out)
        self.split = loaded_cases.split
        self.table = self.out / "table.csv"  # not cases.csv, which only a run may write
        write_cases(absolute(loaded_cases.cases), self.table)
        self.cases = read_cases(self.table)
        self.hash = table_hash(self.cases)
        self.code = {side: _code(side) for side in SIDES}

    def train(self, side: str, settings: dict[str, Any], seed: int, length: int, evaluate: str) -> Path:
        """The result file of a training, which runs in a process of its own unless the file exists."""
        order: dict[str, Any] = {
            "side": side,
            "settings": settings,
            "seed": seed,
            "length": length,
            "evaluate": evaluate,
            "size": self.args.size,
            "labels": LABELS,
        }
        known = {**order, "data": self.hash, "torch": torch.__version__, "code": self.code[side]}
        kind = evaluate or "calibration"
        name = f"{side}-{kind}-seed{seed}-{sha256_text(json.dumps(known, sort_keys=True))[:12]}.json"
        target = self.out / name
        if target.exists():
            return target
        with scratch(self.out) as work:
            order |= {"cases": str(self.table), "work": str(work), "result": str(target)}
            order["store"] = str(self.out / "store")
            write_json(work / "order.json", order)
            command = [sys.executable, str(HERE / "plain" / "trainings.py"), str(work / "order.json")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return target

    def unit_seconds(self, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
        """Seconds of a step of each side, and of ours those of a validation with its checkpoint.

        The sides take turns, and the shortest of three counts: other load on the machine only adds time.
        """
        length = {"plain": self.args.measure_steps + 5, "ours": 1 + self.args.measure_epochs}
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in settings}
        for turn in range(MEASUREMENTS):
            for side, own in settings.items():
                found[side].append(_read(self.train(side, own, turn, length[side], "")))
        units = ("unit_s", "validation_s")
        return {
            side: {unit: min(float(took[unit]) for took in turns) for unit in units if unit in turns[0]}
            for side, turns in found.items()
        }

    def epochs(self, settings: dict[str, Any], unit: dict[str, float]) -> tuple[int, float]:
        """The most epochs of ours within the budget, and their seconds."""
        fit = FitSettings.model_validate(settings["fit"])
        steps = len(batch_indices(len(self.shown("train")), fit.batch_size, 0, 0))

        def seconds(count: int) -> float:
            validations = sum(fit.validates(epoch, count) for epoch in range(count))
            return count * steps * unit["unit_s"] + validations * unit["validation_s"]

        count = self.args.epochs or 1
        while self.args.epochs is None and seconds(count + 1) <= 60 * self.args.minutes:
            count += 1
        return count, seconds(count)

    def shown(self, split: str) -> list[Case]:
        """The cases of a split that the trainings use."""
        return select(self.cases, split=split, labels=LABELS)

    def lengths(self, plain: dict[str, Any], ours: dict[str, Any]) -> dict[str, int]:
        """Steps of the plain loop and epochs of ours that take the same time: whole epochs within the budget."""
        if self.args.steps is not None:
            return {"plain": self.args.steps, "ours": self.args.epochs}
        units = self.unit_seconds({"plain": plain, "ours": ours})
        step = units["plain"]["unit_s"]
        epochs, seconds = self.epochs(ours, units["ours"])
        lengths = {"plain": max(1, round(seconds / step)), "ours": epochs}
        log(f"step {step:.3f} s, of ours {units['ours']}: {lengths['plain']} steps, {epochs} epochs")
        return lengths


def _code(side: str) -> str:
    """Hash of the code that decides the result of a training: results of other code are not reused."""
    package = Path(segdistill.__file__).parent
    own = [HERE / "plain" / "loop.py"] if side == "plain" else [package / name for name in OUR_CODE]
    shared = [package / "models" / name for name in ("unet.py", "blocks.py", "network.py")]
    return sha256_text("".join(sha256_file(path) for path in own + shared))[:12]


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _merged(side: str, changes: dict[str, Any]) -> dict[str, Any]:
    return {**SETTINGS[side], **changes}


def choose(bench: Bench) -> None:
    """Prints validation Dice for a few settings, trained for equal times; reads no test case."""
    for side, changes in CHOICES:
        settings = _merged(side, changes)
        unit = bench.unit_seconds({side: settings})[side]
        length = max(1, int(60 * bench.args.minutes / unit["unit_s"]))
        if side == "ours":
            length = bench.epochs(settings, unit)[0]
        scores = [_read(bench.train(side, settings, seed, length, "val")) for seed in range(bench.args.seeds)]
        dice = np.mean([score["dice"] for score in scores])
        seconds = np.mean([score["train_s"] for score in scores])
        print(f"val Dice {dice:.4f}  {seconds:6.1f} s  {side:5} {json.dumps(changes)}", flush=True)


def compare(bench: Bench, plain: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Trains all pairs in turns and compares them on the test cases."""
    settings = {"plain": plain, "ours": ours}
    lengths = bench.lengths(plain, ours)
    scores: dict[str, list[list[CaseResult]]] = {side: [] for side in SIDES}
    trainings: list[dict[str, Any]] = []
    for seed in range(bench.args.seeds):
        for side in SIDES:
            path = bench.train(side, settings[side], seed, lengths[side], "test")
            found = _read(path)
            scores[side].append(read_metrics_csv(path.with_suffix(".csv")))
            kept = {key: value for key, value in found.items() if key not in ("order", "unit_s")}
            trainings.append({"side": side, "seed": seed, **kept})
            log(f"{side} seed {seed}: {found['train_s']:.1f} s, Dice {found['dice']:.4f}")
    per_case = {
        side: np.mean([[result.metrics["dice"] for result in run] for run in runs], axis=0)
        for side, runs in scores.items()
    }
    groups = [result.group for result in scores["plain"][0]]
    difference = paired_difference(per_case["ours"].tolist(), per_case["plain"].tolist(), groups)
    seconds = {side: float(np.sum([t["train_s"] for t in trainings if t["side"] == side])) for side in SIDES}
    counts = {name: len(bench.shown(name)) for name in ("train", "val", "test")}
    return {
        "difference": vars(difference),
        "mean_dice": {side: float(values.mean()) for side, values in per_case.items()},
        "seconds": seconds,
        "time_share": seconds["ours"] / seconds["plain"],
        "trainings": trainings,
        "settings": settings,
        "split": bench.split,
        "cases": counts,
        "data_hash": bench.hash,
        "precision": choose_precision("auto", torch.device("cpu")),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of trainings")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument(
        "--test", type=float, default=0.3, help="share of the test cases: fewer make the comparison uncertain"
    )
    parser.add_argument("--dataset", default="busi", help="busi, or phantom for a trial")
    parser.add_argument("--data", type=Path, help="its folder; by default that below $SEGDISTILL_DATA")
    parser.add_argument("--phantoms", type=int, default=120)
    parser.add_argument("--out", default="runs/benchmarks/plain_loop", help="folder of finished trainings")
    parser.add_argument("--choose", action="store_true", help="compare settings on validation cases only")
    for side in SIDES:
        parser.add_argument(f"--{side}", type=json.loads, default={}, help="its settings, as JSON")
    parser.add_argument("--epochs", type=int, help="of ours, in place of --minutes")
    parser.add_argument(
        "--steps", type=int, help="of the plain loop, with --epochs: without measuring before"
    )
    parser.add_argument("--measure-steps", type=int, default=40, help=argparse.SUPPRESS)
    parser.add_argument("--measure-epochs", type=int, default=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps is not None and args.epochs is None:
        parser.error("--steps needs --epochs: the lengths of both sides are given, or measured")
    try:
        with only_writer(Path(args.out)):  # two at once would spoil the times of both
            run(args)
    except InputError as error:
        raise SystemExit(f"plain_loop: {error}") from None


def run(args: argparse.Namespace) -> None:
    """Chooses or compares."""
    bench = Bench(args)
    if args.choose:
        choose(bench)
        return
    details = compare(bench, _merged("plain", args.plain), _merged("ours", args.ours))
    low = details["difference"]["low"]
    fair = details["time_share"] <= TIME_LIMIT
    details |= {"equal_time": fair, "machine": machine(details["precision"])}
    result = report("plain_loop", low, BAR, low > BAR and fair, details, args.json)
    write_json(bench.out / "result.json", result)


if __name__ == "__main__":
    main()
