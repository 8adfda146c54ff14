"""Runs a recipe: data, stages, evaluation, report, model file. Run again, it continues where it stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric

from segdistill.data.cases import select, table_hash, write_cases
from segdistill.data.store import Store, prepare_store
from segdistill.errors import InputError
from segdistill.files import write_json, write_text
from segdistill.imaging.preprocess import Preprocess
from segdistill.recipes.environment import differences, environment
from segdistill.recipes.event import Event
from segdistill.recipes.finish import evaluate_stage, report_run
from segdistill.recipes.gather import Gathered, absolute, gather
from segdistill.recipes.model_file import export_stage
from segdistill.recipes.schema import Recipe
from segdistill.recipes.stage import is_finished
from segdistill.recipes.train import StageInputs, check_parts, train_stage
from segdistill.training.precision import choose_precision


@dataclass(frozen=True)
class Machine:
    """Where a recipe runs; Lightning Fabric's words.

    >>> Machine().device
    'auto'
    """

    device: str = "auto"
    devices: int = 1
    nodes: int = 1


def run_recipe(
    recipe: Recipe, source: Path | None, folder: Path, machine: Machine, stages: list[str] | None = None
) -> Iterator[Event]:
    """Trains, evaluates, reports and exports; works as it is consumed.

    Args:
        recipe: what to do.
        source: a cases.csv or a dataset's folder; None where the recipe makes or finds its own data.
        folder: of the run; holds everything that the run leaves.
        machine: device, number of devices, nodes.
        stages: train only these and their teachers; None for those that the recipe runs by default.

    Raises:
        InputError: data, recipe or folder cannot be used.
        TrainingStopped: a loss was not finite.
    """
    chosen = recipe.with_teachers(stages or recipe.run or list(recipe.stages))
    check_parts(recipe, chosen)
    fabric = make_fabric(machine, recipe.fit.precision)
    with _only_writer(folder, fabric):
        gathered = gather(recipe.data, source, folder)
        yield Event(f"{gathered.name}: {len(gathered.cases)} cases, {gathered.split}")
        for leak in gathered.leaks[:1]:
            yield Event(f"warning: {len(gathered.leaks)} leaks between the splits, such as {leak}")
        preprocess = Preprocess(recipe.data.height_width, recipe.data.colour, recipe.data.channels)
        store = yield from _prepare(gathered, preprocess, folder)
        yield from _write_run(recipe, gathered, folder, fabric)
        for name in chosen:
            inputs = StageInputs(recipe, name, gathered.cases, store, preprocess, folder / "stages" / name)
            yield from _train(inputs, recipe, fabric)
        if fabric.is_global_zero:
            for name in chosen:
                yield from evaluate_stage(
                    folder / "stages" / name, select(gathered.cases, split="test"), fabric.device
                )
            if recipe.export in chosen:
                yield Event("exporting the model file")
                export_stage(
                    folder / "stages" / recipe.export,
                    folder / "model.onnx",
                    select(gathered.cases, split="test"),
                )
            yield Event("writing the report")
            report_run(folder, recipe, gathered, chosen, fabric.device)
        fabric.barrier()
    yield Event(f"done: {folder / 'report.html'}")


def make_fabric(machine: Machine, precision: str) -> Fabric:
    """A launched Fabric.

    Raises:
        InputError: the device does not exist here.
    """
    accelerator = {"gpu": "cuda"}.get(machine.device, machine.device)
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device here: use --device cpu")
    device = torch.device("cuda" if accelerator in ("auto", "cuda") and torch.cuda.is_available() else "cpu")
    try:
        fabric = Fabric(
            accelerator="cuda" if device.type == "cuda" else "cpu",
            devices=machine.devices,
            num_nodes=machine.nodes,
            precision=choose_precision(precision, device),  # type: ignore[arg-type]
            strategy="ddp" if machine.devices * machine.nodes > 1 else "auto",
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(f"cannot use {machine.devices} x {machine.device}: {error}") from error
    fabric.launch()
    return fabric


@contextmanager
def _only_writer(folder: Path, fabric: Fabric) -> Iterator[None]:
    """One run at a time writes into a folder; the lock ends with the process, however it ends."""
    if not fabric.is_global_zero:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 - closed below, after the run
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}: choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"another run is writing to {folder}: wait for it or choose another --out"
            ) from error
        yield


def _prepare(gathered: Gathered, preprocess: Preprocess, folder: Path) -> Generator[Event, None, Store]:
    """The prepared store, beside the runs so that they share it."""
    yield Event("preparing images")
    return prepare_store(gathered.cases, preprocess, folder.parent / ".store")


def _write_run(recipe: Recipe, gathered: Gathered, folder: Path, fabric: Fabric) -> Iterator[Event]:
    now = environment(fabric.device, choose_precision(recipe.fit.precision, fabric.device))
    if (folder / "environment.json").exists():
        for line in differences(json.loads((folder / "environment.json").read_text()), now):
            yield Event(f"warning: {line}: what is continued will not be bit-identical")
    if not fabric.is_global_zero:
        return
    write_json(folder / "environment.json", now)
    write_text(folder / "recipe.yaml", resolved_yaml(recipe))
    write_cases(absolute(gathered.cases), folder / "cases.csv")
    facts: dict[str, Any] = {
        "recipe": recipe.name,
        "export": recipe.export,
        "data": gathered.name,
        "data_hash": table_hash(gathered.cases),
        "split": gathered.split,
        "leaks": [str(leak) for leak in gathered.leaks],
        "near_duplicates": [str(pair) for pair in gathered.pairs],
    }
    write_json(folder / "run.json", facts)


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _train(inputs: StageInputs, recipe: Recipe, fabric: Fabric) -> Iterator[Event]:
    precision = choose_precision(inputs.settings.precision, fabric.device)
    if is_finished(inputs.folder, inputs.fingerprint(precision)):
        yield Event(f"stage {inputs.name}: finished before, nothing changed")
        return
    if precision != choose_precision(recipe.fit.precision, fabric.device):
        fabric = Fabric(accelerator=fabric.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    for progress in train_stage(inputs, fabric, precision):
        done = progress.epoch * progress.steps + progress.step
        detail = f"epoch {progress.epoch + 1}/{progress.epochs}  loss {progress.parts['loss']:.4f}"
        if "val_dice" in progress.validation:
            detail += f"  val dice {progress.validation['val_dice']:.4f}"
        yield Event(f"stage {inputs.name}", done, progress.epochs * progress.steps, detail)
