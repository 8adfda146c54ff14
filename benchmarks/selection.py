"""Which weights are better: those of the best validation epoch, or the last ones? Decided without test cases.

The validation cases are halved by groups. The student is trained as in plain_loop.py; the epoch is selected on one half
and evaluated on the other, and so are the last weights. Then the halves change places, for the same training. The
figure is the mean of Dice(last) - Dice(selected) over seeds and halves. Above 0 the last weights are better, so that
`auto` of FitSettings.select takes them for schedules that end at a learning rate of zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common import arguments, log, machine, report, scratch
from segdistill.config.schema import DataRecipe
from segdistill.data.case import Case
from segdistill.data.store import prepare_store
from segdistill.data.views import Views
from segdistill.experiment.cases import load_cases, training_cases
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.models.registry import create_network
from segdistill.training.loop import fit
from segdistill.training.settings import FitSettings
from segdistill.training.task import Supervised
from segdistill.training.validation import validate

LABELS = ["benign", "malignant"]


def halves(cases: list[Case]) -> list[list[Case]]:
    """Groups in turn to one half and the other."""
    side = {group: i % 2 for i, group in enumerate(sorted({case.group_key for case in cases}))}
    return [[case for case in cases if side[case.group_key] == half] for half in (0, 1)]


def train(
    views: Views, halved: list[Views], settings: FitSettings, seed: int, folder: Path
) -> list[list[float]]:
    """Dice of each half after every epoch."""
    torch.manual_seed(seed)
    network = create_network("simplified_unet", in_channels=3, classes=2)
    task = Supervised(network, create_loss("weight_balance"))
    fabric = make_fabric(Machine("cpu"), settings.precision)
    curve: list[list[float]] = []
    for progress in fit(task, views, halved[0], settings, folder, fabric):
        if progress.validation:
            other = validate(task, task.players["network"], halved[1], settings, fabric)
            curve.append([progress.validation["val_dice"], other["val_dice"]])
    return curve


def scores(curve: list[list[float]], half: int) -> dict[str, Any]:
    """Dice on one half of the epoch selected on `half`, and of the last one."""
    best = max(range(len(curve)), key=lambda epoch: curve[epoch][half])
    return {
        "selected_epoch": best + 1,
        "selected": round(curve[best][1 - half], 4),
        "last": round(curve[-1][1 - half], 4),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--dataset", choices=["busi", "phantom"], default="busi")
    args = parser.parse_args()
    settings = FitSettings(epochs=args.epochs, select="last")
    preprocess = Preprocess((args.size, args.size), "grey", 3)
    rows = []
    with scratch() as folder:
        cases = load_cases(
            DataRecipe(dataset=args.dataset, size=args.size, labels=LABELS), None, folder
        ).cases
        shown = {name: training_cases(cases, name, LABELS, "selection") for name in ("train", "val")}
        shown_cases = [*shown["train"], *shown["val"]]
        store = prepare_store(shown_cases, preprocess, folder / "store", keep_small=False)
        halved = [Views(store, [c.id for c in half], preprocess, "none") for half in halves(shown["val"])]
        for seed in range(args.seeds):
            ids = [case.id for case in shown["train"]]
            views = Views(store, ids, preprocess, settings.augment, seed)
            curve = train(views, halved, settings, seed, folder / f"seed{seed}")
            rows += [{"seed": seed, "selected_on": half, **scores(curve, half)} for half in (0, 1)]
            log(str(rows[-2:]))
    difference = sum(row["last"] - row["selected"] for row in rows) / len(rows)
    details = {"rows": rows, "epochs": args.epochs, "machine": machine(settings.precision)}
    report("selection", round(difference, 4), 0.0, difference > 0, details, args.json)


if __name__ == "__main__":
    main()
