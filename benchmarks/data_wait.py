"""The share of training that the loop spends waiting for its data, on two cores at 128x128, batch 8.

Read from curves.csv of a supervised training of the student on BUSI (on phantoms where SEGDISTILL_DATA is not set); the
first epoch is excluded. The details also show how much slower a step is than one whose batch exists already: threads
that prepare batches take time from the cores even if the loop does not wait for them.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import Any

import torch

from common import alternate, arguments, machine, milliseconds, report, scratch, two_cores
from segdistill.config.schema import DataRecipe
from segdistill.data.store import prepare_store
from segdistill.data.views import Views, batches
from segdistill.experiment.cases import load_cases, training_cases
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.models.registry import create_network
from segdistill.training.curves import read_curves
from segdistill.training.loop import Training, fit
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings
from segdistill.training.task import Supervised

BAR = 0.05
LABELS = ["benign", "malignant"]


def task() -> Supervised:
    """The student against the reference."""
    torch.manual_seed(0)
    return Supervised(create_network("simplified_unet"), create_loss("weight_balance"))


def step_without_data(train: Views, settings: FitSettings, rounds: int) -> dict[str, float]:
    """Milliseconds of the loop's step with a batch that exists already."""
    fabric = make_fabric(Machine("cpu"), settings.precision)
    training = Training(task(), settings, fabric, 10_000)
    batch = next(batches(train, settings.batch_size, 0, workers=0))
    times = alternate([lambda: training.step(iter([batch]))], rounds)
    return milliseconds(times[0])


def train_some(train: Views, settings: FitSettings, folder: Path) -> list[dict[str, float]]:
    """The rows of curves.csv after a training."""
    for _ in fit(task(), train, None, settings, folder, make_fabric(Machine("cpu"), settings.precision)):
        pass
    return read_curves(folder / "curves.csv")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--phantoms", type=int, default=600, help="images to draw without BUSI")
    parser.add_argument("--augment", default="light")
    parser.add_argument("--dataset", choices=["busi", "phantom"])
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the first one does not count")
    two_cores()
    busi = (Path(os.environ.get("SEGDISTILL_DATA", "nowhere")) / "busi").is_dir()
    dataset = args.dataset or ("busi" if busi else "phantom")
    preprocess = Preprocess((args.size, args.size), "grey", 3)
    settings = FitSettings(epochs=args.epochs, augment=args.augment)
    with scratch() as folder:
        recipe = DataRecipe(dataset=dataset, size=args.size, labels=LABELS, phantoms=args.phantoms)
        cases = training_cases(load_cases(recipe, None, folder).cases, "train", LABELS, "data_wait")
        store = prepare_store(cases, preprocess, folder / "store")
        train = Views(store, [case.id for case in cases], preprocess, settings.augment)
        rows = train_some(train, settings, folder / "stage")[1:]
        steps = len(cases) // settings.batch_size + bool(len(cases) % settings.batch_size)
        without_data = step_without_data(train, settings, max(5, steps // 2))
    seconds = sum(row["seconds"] for row in rows)
    share = sum(row["wait_share"] * row["seconds"] for row in rows) / seconds
    with_data = 1e3 * statistics.median(row["seconds"] / steps for row in rows)
    details: dict[str, Any] = {
        "wait_share_per_epoch": [row["wait_share"] for row in rows],
        "step_ms": round(with_data, 3),
        "step_ms_without_data": without_data,
        "slower_by": round(with_data / without_data["median"], 3),
        "dataset": dataset,
        "cases": len(cases),
        "size": args.size,
        "settings": settings.model_dump(mode="json"),
        "machine": machine(choose_precision(settings.precision, torch.device("cpu"))),
    }
    report(Path(__file__).stem, share, BAR, share <= BAR, details, args.json)


if __name__ == "__main__":
    main()
