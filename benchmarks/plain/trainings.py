"""One training of either side, in a process of its own: `python benchmarks/plain/trainings.py ORDER.json`.

The order has the side, its settings, the cases, the length of training and the file for the result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from segdistill.data.case import Case
from segdistill.data.store import prepare_store
from segdistill.data.table import read_cases
from segdistill.data.views import Views
from segdistill.experiment.cases import training_cases
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.files import write_json
from segdistill.imaging.postprocess import Postprocess
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.metrics.cases import evaluate_cases, write_metrics_csv
from segdistill.models.registry import create_network
from segdistill.training.curves import read_curves
from segdistill.training.inference import mask_predictor
from segdistill.training.loop import fit
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings
from segdistill.training.task import Supervised

Order = dict[str, Any]
CPU = torch.device("cpu")
SKIPPED = 5  # the first steps of a process are slow


def build(order: Order) -> nn.Module:
    """The student, with the same first weights on both sides."""
    torch.manual_seed(order["seed"])
    return create_network("simplified_unet", in_channels=3, classes=2)


def train_plain(order: Order, cases: list[Case], length: int) -> tuple[nn.Module, dict[str, Any]]:
    """`length` optimiser steps of the plain loop."""
    from loop import load, train  # this script's own folder

    began = time.perf_counter()
    found = training_cases(cases, "train", order["labels"], "plain")
    images, masks = load([(case.image, case.masks) for case in found], order["size"])
    network = build(order)
    bf16 = choose_precision("auto", CPU) == "bf16-mixed"
    started = time.perf_counter()
    ends = train(network, images, masks, length, bf16=bf16, **order["settings"])
    timing = {"prepared_s": started - began, "train_s": time.perf_counter() - started, "steps": length}
    if length > SKIPPED:
        timing["unit_s"] = (ends[-1] - ends[SKIPPED - 1]) / (length - SKIPPED)
    return network, timing


def train_ours(order: Order, cases: list[Case], length: int) -> tuple[nn.Module, dict[str, Any]]:
    """`length` epochs of segdistill's loop, validation and checkpoints included, as a recipe runs them."""
    began = time.perf_counter()
    labels, folder = order["labels"], Path(order["work"])
    preprocess = Preprocess((order["size"], order["size"]), "grey", 3)
    shown = {name: training_cases(cases, name, labels, "ours") for name in ("train", "val")}
    store = prepare_store(
        [case for part in shown.values() for case in part],
        preprocess,
        Path(order["store"]),
        keep_small=False,
    )
    settings = FitSettings.model_validate({**order["settings"]["fit"], "epochs": length})
    ids = {name: [case.id for case in part] for name, part in shown.items()}
    train = Views(store, ids["train"], preprocess, settings.augment, order["seed"])
    validation = Views(store, ids["val"], preprocess, "none", order["seed"])
    network = build(order)
    task = Supervised(network, create_loss(order["settings"]["loss"]))
    fabric = make_fabric(Machine("cpu"), settings.precision)
    started = time.perf_counter()
    ends: list[tuple[float, bool]] = []  # of each step, and whether it ended with a validation
    for progress in fit(task, train, validation, settings, folder / "stage", fabric):
        ends.append((time.perf_counter(), "val_dice" in progress.validation))
    timing = {"prepared_s": started - began, "train_s": time.perf_counter() - started, "steps": len(ends)}
    if length > 1:
        first = next(k for k, (_, validated) in enumerate(ends) if validated)  # the first epoch warms up
        took = [(end - last, validated) for (last, _), (end, validated) in pairwise(ends[first:])]
        timing["unit_s"] = fmean(each for each, validated in took if not validated)
        timing["validation_s"] = fmean(each for each, validated in took if validated) - timing["unit_s"]
    curves = read_curves(folder / "stage" / "curves.csv")
    best = max(curves, key=lambda row: row.get("val_dice", 0.0))
    return network, timing | {"epochs": length, "best_epoch": int(best["epoch"])}


def run(order: Order) -> None:
    """Trains, evaluates if the order has a split, and writes the result, whole or not at all."""
    cases = read_cases(order["cases"])
    train = {"plain": train_plain, "ours": train_ours}[order["side"]]
    load = os.getloadavg()[0]
    network, result = train(order, cases, order["length"])
    # on an idle machine the load is near 0 before, and near the number of threads after
    result |= {"load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2)}
    if order["evaluate"]:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        preprocess = Preprocess((order["size"], order["size"]), "grey", 3)
        chosen = training_cases(cases, order["evaluate"], order["labels"], order["side"])
        results = evaluate_cases(chosen, mask_predictor(network, preprocess, Postprocess(), CPU))
        target = Path(order["result"])
        write_metrics_csv(results, target.with_suffix(".csv"))
        result["dice"] = sum(r.metrics["dice"] for r in results) / len(results)
    write_json(order["result"], result | {"order": order})


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
