"""A prepared run, and the training and evaluation of one of its stages, in its process or in one of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from segdistill.config.schema import Recipe
from segdistill.data.case import Case, hash_files, select
from segdistill.data.store import Store
from segdistill.distillation.cache.filling import Filling
from segdistill.errors import GateFailed
from segdistill.experiment.cases import LoadedCases
from segdistill.experiment.environment import ENVIRONMENT, differences, environment
from segdistill.experiment.events import Event
from segdistill.experiment.external import ExternalTable
from segdistill.experiment.guard import guard
from segdistill.experiment.inputs import StageInputs, precision_of
from segdistill.experiment.results import read_json
from segdistill.experiment.stage import goes_on, is_finished, kept_as, load_stage
from segdistill.experiment.stage_evaluation import (
    Load,
    evaluate_elsewhere,
    evaluate_stage,
    standing_evaluation,
)
from segdistill.experiment.train import keep_threshold, measure_equal_time, train_stage
from segdistill.imaging.grid import AnyPreprocess
from segdistill.records import FilesRecord, TableRecord
from segdistill.training.curves import read_curves
from segdistill.training.gradients import find_imbalance, find_set_weights, new_lines
from segdistill.training.loop import Progress
from segdistill.training.saturation import new_warnings


@dataclass(frozen=True)
class PreparedRun:
    """A recipe, its cases, what their files held when the run began, the prepared store, the folder; can be pickled.

    `external` holds the tables from elsewhere on which stages are only tested.
    """

    recipe: Recipe
    loaded_cases: LoadedCases
    files: FilesRecord
    data_hash: str
    store: Store
    preprocess: AnyPreprocess
    folder: Path
    external: tuple[ExternalTable, ...] = ()

    def inputs(self, name: str) -> StageInputs:
        """All that decides what a stage learns."""
        folder = self.folder / "stages" / name
        return StageInputs(self.recipe, name, self.loaded_cases.cases, self.store, self.preprocess, folder)

    def precision(self, name: str, device: torch.device) -> str:
        """What a stage is trained in, as Fabric calls it."""
        return precision_of(self.recipe, name, device)

    @property
    def tables(self) -> dict[str, TableRecord]:
        """Name -> what is known of a table from elsewhere before it is tested on."""
        return {table.name: table.record() for table in self.external}

    def hash_files(self) -> dict[str, str]:
        """Path -> hash of the present content of every file of the data, that from elsewhere included."""
        return hash_files([*self.loaded_cases.cases, *(c for table in self.external for c in table.cases)])

    def tested(self, name: str) -> list[Case] | None:
        """The cases that a stage is evaluated on; None for auto-encoders of features."""
        is_network = self.recipe.stages[name].task != "autoencoder"
        return select(self.loaded_cases.cases, split="test") if is_network else None


def is_evaluated(run: PreparedRun, name: str) -> bool:
    """Whether a stage has nothing left to evaluate: at home, and on every table from elsewhere."""
    if (cases := run.tested(name)) is None:
        return True
    folder, measures = run.inputs(name).folder, run.recipe.evaluation
    return standing_evaluation(folder, cases, measures) is not None and all(
        standing_evaluation(folder, table.cases, measures, table.name) is not None for table in run.external
    )


def train(run: PreparedRun, name: str, fabric: Fabric) -> Iterator[Event]:
    """Trains a stage, continues it, or finds it finished.

    Raises:
        InputError: as `train_stage`.
        TrainingStopped: a loss became NaN or infinite.
    """
    inputs, precision = run.inputs(name), run.precision(name, fabric.device)
    yield from measure_equal_time(inputs, fabric, precision)
    fingerprint = inputs.fingerprint(precision)  # once: it reads the weights of all teachers
    # one process decides: what it then writes must not change the decision of another
    finished = fabric.is_global_zero and is_finished(inputs.folder, fingerprint)
    if fabric.broadcast(finished):
        yield Event(f"stage {name}: finished before, nothing changed")
        return
    if goes_on(inputs.folder, fingerprint):
        now = environment(fabric.device, precision, fabric.world_size)
        for line in differences(read_json(inputs.folder / ENVIRONMENT), now):
            yield Event(f"warning: stage {name}: {line}: the continued training will not be bit-identical")
    if fabric.is_global_zero and (kept := kept_as(inputs.folder, fingerprint)) is not None:
        yield Event(
            f"stage {name}: recipe, data or weights have changed since it was trained: it is trained again, and what "
            f"was there before is moved to {kept}"
        )
    yield from _expect(inputs, fabric)
    if fabric.world_size == 1:
        fabric = Fabric(accelerator=fabric.device.type, devices=1, precision=precision)  # type: ignore[arg-type]
    rows: list[dict[str, float]] = []
    for progress in train_stage(inputs, fingerprint, fabric, precision):
        if isinstance(progress, Filling):
            yield Event(f"stage {name}: {progress.text}", progress.done, progress.total)
            continue
        yield _training_event(name, progress)
        if progress.validation:
            # the file is read only at the first end of an epoch: an earlier call may have written to it
            rows = [*rows, progress.validation] if rows else read_curves(inputs.folder / "curves.csv")
            yield from _curve_events(name, rows)
    yield from _end_events(name, rows)


def _curve_events(name: str, rows: list[dict[str, float]]) -> Iterator[Event]:
    """What the last row of the curves shows for the first time."""
    for warning in (*new_warnings(rows), *new_lines(_at_the_start, rows)):
        yield Event(f"warning: stage {name}: {warning}")
    for line in new_lines(find_set_weights, rows):
        yield Event(f"stage {name}: {line}")


def _end_events(name: str, rows: list[dict[str, float]]) -> Iterator[Event]:
    """What only the end of the training shows."""
    for warning in find_imbalance(rows):
        if warning not in _at_the_start(rows):
            yield Event(f"warning: stage {name}: {warning}")


def _at_the_start(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return find_imbalance(rows, ended=False)


def _expect(inputs: StageInputs, fabric: Fabric) -> Iterator[Event]:
    """Tells whether distillation is likely to help a student, and stops a strict recipe where it is not."""
    if inputs.stage.task != "distillation" or inputs.stage.joint_settings is not None:
        return
    if not fabric.is_global_zero:
        return
    record = guard(inputs, fabric)
    inputs.folder.mkdir(parents=True, exist_ok=True)
    record.write(inputs.folder)
    yield Event(f"stage {inputs.name}: {record.sentence}")
    if inputs.recipe.strict and record.outlook == "unlikely":
        raise GateFailed(f"stage {inputs.name}: {record.sentence}; without strict it is trained all the same")


def _training_event(name: str, progress: Progress) -> Event:
    detail = f"epoch {progress.epoch + 1}/{progress.epochs}  loss {progress.parts['loss']:.4f}"
    for column, words in (("val_dice", "val dice"), ("val_accuracy", "val accuracy")):
        if column in progress.validation:
            detail += f"  {words} {progress.validation[column]:.4f}"
    done = progress.epoch * progress.steps + progress.step
    return Event(f"stage {name}", done, progress.epochs * progress.steps, detail)


def evaluate(
    run: PreparedRun, name: str, device: torch.device, load: Load = load_stage, timed: bool = True
) -> Iterator[Event]:
    """Evaluates a finished stage on the test cases and on each table from elsewhere, unless that was done.

    Auto-encoders are not evaluated.

    Raises:
        InputError: a case cannot be read.
    """
    if (cases := run.tested(name)) is None:
        return
    inputs = run.inputs(name)
    keep_threshold(inputs)
    yield from evaluate_stage(inputs.folder, cases, device, run.recipe.evaluation, load, timed)
    for table in run.external:
        measures = run.recipe.evaluation
        yield from evaluate_elsewhere(inputs.folder, table.name, table.cases, device, measures, load)
