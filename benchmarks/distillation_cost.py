"""A distillation step relative to a step of the baseline, with two large teachers: online, and from the cache.

Two ResNet-101 attention U-Nets teach the 2.2 M student at 128x128, batch 8. A step is the training loop's, including
the preparation of the batch: augmentation, and reading the cache from its files. All take turns in one process. The
figure is that of soft predictions from the cache, in the precision in which this machine trains. The cost of filling
the cache is shown separately, since it is paid once for all epochs, methods, students and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import alternate, arguments, log, machine, milliseconds, report, scratch, two_cores
from segdistill.data.phantom import write_phantom
from segdistill.data.store import prepare_store
from segdistill.data.views import Views
from segdistill.distillation import DistillationMethod, Teacher, create_method
from segdistill.distillation.base import weighted_terms
from segdistill.distillation.cache.entry import RECORDS
from segdistill.distillation.cache.filling import FillOptions, fill
from segdistill.distillation.cache.reading import TargetCache, Wanted, cache_facts
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.models.registry import create_network
from segdistill.training.distillation import Distillation
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings
from segdistill.training.step_time import stepper
from segdistill.training.task import Supervised, Task

BAR = 1.10
HEADLINE = "soft_prediction"
OTHERS = ("attention_transfer", "fitnet", "skd", "ifvd", "cwd", "emkd", "cirkd", "protokd")
WEIGHTS = (0.5, 0.2)
VIEWS = 2


class Bench:
    """Synthetic images, two teachers, and steps of tasks on them."""

    def __init__(self, args: Any, work: Path) -> None:
        self.args, self.work = args, work
        preprocess = Preprocess((args.size, args.size), "grey", 3)
        cases = write_phantom(work / "images", args.images, size=args.size)
        store = prepare_store(cases, preprocess, work / "store")
        self.make_views = lambda: Views(store, store.ids, preprocess, "light", 0, VIEWS)
        self.networks = [
            create_network("resnet_attention_unet", depth=args.depth).to(memory_format=torch.channels_last)
            for _ in WEIGHTS
        ]
        self.filled: dict[str, dict[str, float]] = {}

    def student(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return create_network("simplified_unet")

    def step(self, task: Task, views: Views, precision: str) -> Callable[[], object]:
        settings = FitSettings(batch_size=self.args.batch_size, views=VIEWS, precision=precision)
        return stepper(task, views, settings, make_fabric(Machine("cpu"), precision))

    def baseline(self, precision: str) -> Callable[[], object]:
        return self.step(
            Supervised(self.student(), create_loss("weight_balance")), self.make_views(), precision
        )

    def distilled(self, name: str, precision: str, cached: bool) -> Callable[[], object]:
        autocast = torch.bfloat16 if precision == "bf16" else None
        teachers = [
            Teacher(f"teacher{i}", network, weight, precision=autocast)
            for i, (network, weight) in enumerate(zip(self.networks, WEIGHTS, strict=True))
        ]
        views, method = self.make_views(), create_method(name)
        task = Distillation(
            self.student(),
            create_loss("weight_balance"),
            teachers,
            torch.tensor(WEIGHTS).repeat(len(views), 1),
            {name: (1.0, method)},
            hard_weight=0.3,
        )
        if cached:
            self.attach(task, name, method, views, precision)
        return self.step(task, views, precision)

    def attach(
        self, task: Distillation, name: str, method: DistillationMethod, views: Views, precision: str
    ) -> None:
        """Fills the cache of a method, and records time and size; the task then reads it."""
        rows = np.arange(len(views))
        wanted = [
            Wanted(j, name, term, inner, {"teacher": j, "precision": precision} | cache_facts(inner), rows)
            for j in range(len(WEIGHTS))
            for term, (_, inner) in weighted_terms(1.0, method).items()
        ]
        cache = TargetCache(self.work / "cache", views, VIEWS, wanted)
        known = self._bytes()
        began = time.perf_counter()
        options = FillOptions(torch.device("cpu"), self.args.batch_size, channels_last=True)
        list(fill(cache, task.teachers, options, 1e12))
        self.filled[f"{name} {precision}"] = {
            "seconds": round(time.perf_counter() - began, 2),
            "mb": round((self._bytes() - known) / 1e6, 2),
        }
        cache.attach()
        task.read_cache = cache.read

    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.work / "cache").glob(f"*/{RECORDS}"))


def compare(bench: Bench, precision: str, others: list[str]) -> dict[str, Any]:
    """Times of the baseline, of the headline online and cached, and of other methods from the cache."""
    parts = {
        "baseline": bench.baseline(precision),
        "online": bench.distilled(HEADLINE, precision, cached=False),
    }
    for name in (HEADLINE, *others):
        log(f"{precision}: filling the cache for {name}")
        parts[f"cached {name}"] = bench.distilled(name, precision, cached=True)
    log(f"{precision}: {bench.args.rounds} rounds of {len(parts)} steps")
    times = alternate(list(parts.values()), bench.args.rounds)
    # a ratio for each round: other load on the machine slows both sides of it
    ratios = {
        name: float(np.median(np.divide(own, times[0]))) for name, own in zip(parts, times, strict=True)
    }
    return {
        "ms": {name: milliseconds(own) for name, own in zip(parts, times, strict=True)},
        "relative": {name: round(ratio, 4) for name, ratio in ratios.items() if name != "baseline"},
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each side")
    parser.add_argument("--depth", type=int, default=101, help="of the teachers' encoders")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--others", nargs="*", default=list(OTHERS), help="further methods to time")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    args = parser.parse_args()
    two_cores()
    chosen = choose_precision("auto", torch.device("cpu"))
    headline = "bf16" if chosen == "bf16-mixed" else "fp32"
    with scratch() as work:
        bench = Bench(args, work)
        found = {
            precision: compare(bench, precision, args.others if precision == headline else [])
            for precision in dict.fromkeys([*args.precisions, headline])
        }
        filled = bench.filled
    figure = found[headline]["relative"][f"cached {HEADLINE}"]
    details = {
        "precision": headline,
        **found,
        "filling": filled,
        "views": VIEWS,
        "images": args.images,
        "rounds": args.rounds,
        "size": args.size,
        "batch_size": args.batch_size,
        "teacher_depth": args.depth,
        "machine": machine(chosen),
    }
    report(Path(__file__).stem, figure, BAR, figure <= BAR, details, args.json)


if __name__ == "__main__":
    main()
