"""Runs a recipe: data, stages, evaluation, report, model file. The same call again continues where it stopped."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from lightning_fabric import Fabric

from segdistill.config.load import load_recipe, parse_changes
from segdistill.config.schema import AUTOENCODER, DataRecipe, Recipe
from segdistill.data.case import hash_files, normal_note, table_hash
from segdistill.data.levels import levels_note, with_intensity
from segdistill.data.store import prepare_store
from segdistill.data.table import write_cases
from segdistill.errors import CasesFailed, InputError, memory_error
from segdistill.experiment.build import with_class_count
from segdistill.experiment.cases import (
    absolute,
    find_facts,
    load_cases,
    removing_phantoms_on_error,
    with_table_classes,
    write_unused,
)
from segdistill.experiment.check import (
    check_parts,
    recipe_warnings,
    require_cases,
    require_classes,
    require_outside,
    require_outside_models,
)
from segdistill.experiment.cluster import on_cluster
from segdistill.experiment.environment import ENVIRONMENT, environment
from segdistill.experiment.events import Event, show_events
from segdistill.experiment.export import compared_cases, export_stage
from segdistill.experiment.external import external_lines, read_external, with_copies
from segdistill.experiment.folder import only_writer
from segdistill.experiment.folds import run_folds
from segdistill.experiment.inputs import TEACHERS_FILE, OpenedPredictions, precision_of, write_teachers
from segdistill.experiment.jobs import Fold, Jobs, require_importable, side_by_side
from segdistill.experiment.machine import Machine, is_first_process, make_fabric, together
from segdistill.experiment.plan import left_to_train, plan_run
from segdistill.experiment.result import REPORT, RunResult
from segdistill.experiment.stage import load_stage
from segdistill.experiment.stage_evaluation import report_run, stated
from segdistill.experiment.train import still_stands
from segdistill.experiment.work import PreparedRun, evaluate, train
from segdistill.files import write_json, write_text
from segdistill.kinds import KINDS
from segdistill.plugins import load_installed, load_plugins, name_code, use_installed
from segdistill.records import FilesRecord, RunRecord, StageRecord
from segdistill.training.checkpoint import TrainingStopped
from segdistill.training.optimisation import choose_precision


def train_all(
    recipe: Recipe, names: Sequence[str], train: Callable[[str], Iterator[Event]], machine: Machine
) -> Generator[Event, None, dict[str, str]]:
    """Trains stages in order; one that may fail is skipped when its loss is NaN or memory runs out.

    Stages that need a failed one are skipped, too. On several devices any failure ends the run, since the processes
    could not agree on it.

    Returns:
        Failed stage -> why.

    Raises:
        TrainingStopped: a stage that may not fail has failed.
    """
    failed: dict[str, str] = {}
    for name in names:
        lost = [other for other in recipe.needs(name) if other in failed]
        if lost:
            failed[name] = f"it needs {', '.join(lost)}"
            yield Event(f"stage {name}: skipped, since {failed[name]}")
            continue
        try:
            yield from train(name)
        except (TrainingStopped, RuntimeError, MemoryError) as error:
            why = str(error) if isinstance(error, TrainingStopped) else memory_error(error)
            if why is None or not recipe.stages[name].may_fail or machine.processes > 1:
                raise
            failed[name] = why
            yield Event(f"stage {name}: failed: {why}")
        if name in failed:  # outside the handler, which keeps the frames and all their tensors alive
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return failed


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    stages: Sequence[str] | Literal["all"] | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    plugins: Sequence[str] = (),
    progress: bool = True,
    jobs: int | None = None,
    cluster: str | None = None,
    cluster_options: Sequence[str] | Mapping[str, Any] = (),
    **shortcuts: Any,
) -> RunResult:
    """Trains the stages of a recipe, evaluates them, and writes report and model file; called again, it continues.

    Args:
        recipe: the name of one that comes with segdistill (`segdistill list recipes`), a YAML file, its content, or a
            `Recipe`.
        data: cases.csv, or a folder with images/ and masks/; by default what the recipe names.
        out: folder of the run; by default runs/NAME.
        set: changes of the recipe, {"stages.student.model.name": "unet"}.
        stages: names of those to train (their teachers are included), or "all"; by default the recipe's choice.
        device: "auto", "cpu" or "gpu".
        devices: number of devices per node.
        nodes: number of nodes.
        plugins: files and modules to run first, because they register parts of your own.
        progress: show on stderr what is done.
        jobs: train so many stages at once, each in a process of its own with its share of the threads; by default one
            after the other in this process, or on Slurm all that are ready.
        cluster: "slurm" submits each stage as a job, "local" does so on this machine; the run's folder must be on a
            disk that all machines share.
        cluster_options: of the jobs, such as {"partition": "gpu", "mem_gb": 16, "timeout_min": 600}.
        shortcuts: changes of the recipe by a short name or a key without dots, such as size=256, epochs=40.

    Returns:
        What the run left. Where some trainings failed that may fail, `failed` names them.

    Raises:
        InputError: recipe, data or folder cannot be used.
        TrainingStopped: a loss was NaN or infinite.
        CasesFailed: all trainings failed.

    >>> run("distil")
    Traceback (most recent call last):
    segdistill.errors.InputError: unknown recipe 'distil': did you mean 'distill'?

    >>> result = run("distill", data="my-images", size=256, epochs=40)  # doctest: +SKIP
    >>> result.student.predict("picture.png").mask, result.report, result.verdict  # doctest: +SKIP
    """
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(mode="json", exclude_unset=True)
    changes = {**(set if isinstance(set, Mapping) else parse_changes(set)), **shortcuts}
    failed = ""
    with use_installed(True):
        load_plugins(plugins)
        source = None if data is None else Path(data)
        loaded = load_recipe(recipe, changes, partial(find_facts, source=source))
        folder = Path("runs") / loaded.name if out is None else Path(out)
        if not _has_all_parts(loaded):
            load_installed()
        loaded = with_class_count(with_table_classes(loaded, source))
    names = list(loaded.stages) if stages in ("all", ["all"]) else list(stages) if stages else None
    with use_installed(False):  # from here on files of the folder are read: they choose no code
        machine = Machine(device, devices, nodes)
        together = _jobs(jobs, cluster, cluster_options, machine, plugins)
        events = run_recipe(loaded, source, folder, machine, names, together)
        try:
            with closing(events):
                show_events(events) if progress else deque(events, maxlen=0)
        except CasesFailed as error:
            if not (folder / REPORT).exists():
                raise
            failed = str(error)
    return RunResult(folder, failed)


def _has_all_parts(recipe: Recipe) -> bool:
    """Whether every part that the recipe names is registered; metrics are, since the recipe has been checked."""
    named = [("dataset", recipe.data.dataset)]
    for stage in recipe.stages.values():
        network = stage.model.name
        named += [("loss", stage.loss.name), ("weighting", stage.weighting.name)]
        named += [("network", network)] if ":" not in network and network != AUTOENCODER else []
        named += [("method", method.method) for method in stage.methods.values()]
    return all(name is None or name in KINDS[kind].registry() for kind, name in named)


def _jobs(
    count: int | None,
    cluster: str | None,
    options: Sequence[str] | Mapping[str, Any],
    machine: Machine,
    plugins: Sequence[str],
) -> Jobs | None:
    """How stages are trained side by side; None for one after the other."""
    given = options if isinstance(options, Mapping) else parse_changes(options)
    if given and cluster is None:
        raise InputError(f"--cluster-option {next(iter(given))} is for --cluster: add --cluster slurm")
    jobs = Jobs(1 if count is None and cluster != "slurm" else count, tuple(plugins))
    if cluster is not None:
        jobs = on_cluster(jobs, cluster, given)
    elif jobs.count == 1:
        return None
    if machine.processes > 1:
        asked = f"--jobs {count}" if cluster is None else f"--cluster {cluster}"
        raise InputError(
            f"{asked} trains each stage on one device, not on {machine.processes}: use --devices 1 and --nodes 1"
        )
    return jobs


def run_recipe(
    recipe: Recipe,
    source: Path | None,
    folder: Path,
    machine: Machine,
    stages: list[str] | None = None,
    jobs: Jobs | None = None,
) -> Generator[Event, None, None]:
    """Trains, evaluates, reports and exports, step by step as its events are consumed; see `run`.

    With several devices every process calls this. The first one prepares, evaluates and reports; the others only train
    and give no events.

    Args:
        recipe: what to run.
        source: a cases.csv or a dataset's folder; None where the recipe names or draws its data.
        folder: of the run.
        machine: device, number of devices, nodes.
        stages: train these and their teachers; None for those that the recipe runs by default.
        jobs: train stages side by side; None for one after the other in this process.

    Raises:
        InputError: data, recipe or folder cannot be used.
        TrainingStopped: a loss was NaN or infinite.
    """
    name_code(_import_paths(recipe))
    if jobs is not None:
        require_importable(recipe)
        jobs = replace(jobs, code=tuple(_import_paths(recipe)))
        events = _side_by_side(recipe, source, folder, machine, stages, jobs)
    elif recipe.folds is not None:
        events = run_folds(recipe, source, folder, machine, stages, _run)
    else:
        events = _run(recipe, source, folder, machine, stages)
    return (event for event in chain(_look(recipe, stages), events) if is_first_process())


def _import_paths(recipe: Recipe) -> Iterator[str]:
    """Networks of other packages that the recipe names, as "module:callable"."""
    for stage in recipe.stages.values():
        path = str(stage.model.options.get("target", stage.model.name))
        if ":" in path:
            yield path


def _look(recipe: Recipe, stages: list[str] | None) -> Iterator[Event]:
    """Checks the parts first, once for all folds, and gives warnings."""
    chosen = recipe.chosen(stages)
    check_parts(recipe, chosen)
    for line in recipe_warnings(recipe, chosen):
        yield Event(f"warning: {line}")


def _run(
    recipe: Recipe, source: Path | None, folder: Path, machine: Machine, stages: list[str] | None
) -> Iterator[Event]:
    first = is_first_process()
    chosen = recipe.chosen(stages)
    if machine.processes > 1 and len({precision_of(recipe, name, machine.resolve()) for name in chosen}) > 1:
        raise InputError(
            "stages of different precision cannot share processes: set fit.precision, or use --devices 1"
        )
    first_stage = recipe.stages[chosen[0]]
    fabric = make_fabric(machine, recipe.fit_settings(chosen[0]).precision, first_stage.model.name)
    with together(machine), only_writer(folder) if first else nullcontext():
        if not first:
            fabric.launch()  # waits for the first process, which launches when the data is prepared
            fabric.barrier()  # in a further fold they are connected already
        run = yield from _prepare(recipe, chosen, source, folder)
        if first:
            fabric.launch()
            fabric.barrier()
            _write_facts(run, fabric)
            yield from _plan([run], chosen, fabric)
        failed = yield from train_all(recipe, chosen, lambda name: train(run, name, fabric), machine)
        yield from _end(run, chosen, fabric, failed)


def _end(run: PreparedRun, chosen: list[str], fabric: Fabric, failed: dict[str, str]) -> Iterator[Event]:
    """After training: all that the first process does, and the error where stages have failed."""
    done = [name for name in chosen if name not in failed]
    if is_first_process() and done:
        yield from _conclude(run, done, fabric, failed)
    if failed:
        name, why = next(iter(failed.items()))
        raise CasesFailed(
            f"{len(failed)} trainings failed ({', '.join(failed)}): {name}: {why}; the others are done: run the "
            "same command again to repeat these"
        )


def _side_by_side(
    recipe: Recipe,
    source: Path | None,
    folder: Path,
    machine: Machine,
    stages: list[str] | None,
    jobs: Jobs,
) -> Iterator[Event]:
    """As `_run`, or `run_folds`, with the stages of all folds trained side by side."""
    chosen = recipe.chosen(stages)
    own = machine if jobs.on_this_machine else Machine()  # a cluster may have devices that this machine lacks
    prepared: dict[Path, tuple[PreparedRun, Fabric]] = {}
    failed: dict[Path, dict[str, str]] = {}
    with ExitStack() as locks:

        def before(parts: Mapping[Path, tuple[Recipe, str]]) -> Iterator[Event]:
            folds = []
            for place, (part, label) in parts.items():
                locks.enter_context(only_writer(place))
                run = yield from _labelled(label, _prepare(part, chosen, source, place))
                setting = recipe.fit_settings(chosen[0]).precision
                fabric = make_fabric(own, setting, recipe.stages[chosen[0]].model.name)
                fabric.launch()
                _write_facts(run, fabric)
                prepared[place] = run, fabric
                folds.append(Fold(run, chosen, label))
            if jobs.on_this_machine:
                yield from _plan([fold.run for fold in folds], chosen, fabric, jobs.count, jobs.threads)
            failed.update((yield from side_by_side(folds, jobs, machine)))

        def end(
            part: Recipe, source: Path | None, place: Path, machine: Machine, stages: list[str] | None
        ) -> Iterator[Event]:
            yield from _end(prepared[place][0], chosen, prepared[place][1], failed.get(place, {}))

        if recipe.folds is None:
            yield from before({folder: (recipe, "")})
            yield from end(recipe, source, folder, machine, stages)
        else:
            yield from run_folds(recipe, source, folder, machine, stages, end, before)


def _labelled(label: str, events: Generator[Event, None, PreparedRun]) -> Generator[Event, None, PreparedRun]:
    """The same with `label` before every text."""
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            prepared: PreparedRun = stop.value
            return prepared
        yield replace(event, text=f"{label}{event.text}")


def _prepare(
    recipe: Recipe, chosen: list[str], source: Path | None, folder: Path
) -> Generator[Event, None, PreparedRun]:
    """Cases and the prepared store, which is in the parent folder so that runs share it."""
    with removing_phantoms_on_error(recipe.data, folder):
        loaded_cases = load_cases(recipe.data, source, folder, recipe.classifies)
        yield Event(f"{loaded_cases.name}: {len(loaded_cases.cases)} cases, {loaded_cases.split}")
        cases = loaded_cases.cases
        for note in filter(None, (normal_note(cases), levels_note(cases), loaded_cases.unused)):
            yield Event(note)
        for line in loaded_cases.warnings:
            yield Event(f"warning: {line}")
        for name in chosen:
            require_cases(recipe, name, loaded_cases.cases)
        opened = OpenedPredictions()
        require_outside(recipe, chosen, loaded_cases.cases, opened)
        require_outside_models(recipe, chosen, loaded_cases.cases, opened)
        external = tuple(with_copies(table, loaded_cases.cases) for table in read_external(recipe))
        for table in external:
            yield from map(Event, external_lines(table))
    every = [*loaded_cases.cases, *(case for table in external for case in table.cases)]
    files = FilesRecord(files=hash_files(every))
    if any(folder.glob(f"stages/*/{StageRecord.FILE}")):  # before that nothing depends on the files
        _require_unchanged(FilesRecord.read(folder) or files, files.files)
    data_hash = table_hash(loaded_cases.cases)
    yield Event("preparing images")
    preprocess = with_intensity(recipe.data.preprocess(), loaded_cases.cases)
    shared = folder.parent / ".store"
    try:
        store = prepare_store(loaded_cases.cases, preprocess, shared, keep_small=recipe.data.keep_small)
    finally:
        with suppress(OSError):
            shared.rmdir()  # only where nothing could be prepared
    for name in chosen:
        require_classes(recipe, name, loaded_cases.cases, store)
    if recipe.data.dimensions == 3:
        yield Event(patches_note(recipe.data))
    for line in store.notes():
        yield Event(f"warning: {line}")
    return PreparedRun(recipe, loaded_cases, files, data_hash, store, preprocess, folder, external)


def patches_note(data: DataRecipe) -> str:
    """What networks of volumes see, in one line.

    >>> patches_note(DataRecipe(dimensions=3, size=[8, 16, 16], spacing=[2.0, 1.0, 1.0]))
    'volumes: networks see patches of 8 x 16 x 16 voxels of 2 x 1 x 1 mm (slices: --set data.dimensions=2)'
    """
    spacing = (
        "as they are stored"
        if data.spacing is None
        else f"of {' x '.join(f'{mm:g}' for mm in data.spacing)} mm"
    )
    sides = " x ".join(map(str, data.sides))
    return f"volumes: networks see patches of {sides} voxels {spacing} (slices: --set data.dimensions=2)"


def _require_unchanged(known: FilesRecord, files: dict[str, str]) -> None:
    """Raises InputError where files of the data are others than when the run began."""
    if changes := known.changes(files):
        raise InputError(
            f"{changes}: restore them and run the same command again, or train on them as they are now in a new folder "
            "with --out"
        )


def _plan(
    folds: Sequence[PreparedRun],
    chosen: list[str],
    fabric: Fabric,
    jobs: int | None = 1,
    threads: int | None = None,
) -> Iterator[Event]:
    """Tells what will be done and how long it takes, where the recipe wants that; of folds that of the longest."""
    if not folds[0].recipe.plan:
        return
    left = [left_to_train(fold, chosen, fabric.device) for fold in folds]
    longest, count = max(range(len(folds)), key=lambda k: len(left[k])), sum(map(bool, left))
    for line in plan_run(folds[longest], chosen, left[longest], fabric, jobs or 1, threads).lines():
        yield Event(line + (f" in each of {count} folds" if count > 1 else ""))


def _write_facts(run: PreparedRun, fabric: Fabric) -> None:
    """Writes what is known before training: environment, resolved recipe, cases, data."""
    recipe, folder = run.recipe, run.folder
    precision = choose_precision(recipe.fit.precision, fabric.device)
    write_json(folder / ENVIRONMENT, environment(fabric.device, precision, fabric.world_size))
    write_text(folder / "recipe.yaml", resolved_yaml(recipe))
    write_cases(absolute(run.loaded_cases.cases), folder / "cases.csv")
    write_unused(run.loaded_cases, folder)
    run.files.write(folder)
    _record(run).write(folder)


def _record(run: PreparedRun, **results: Any) -> RunRecord:
    facts: dict[str, Any] = {"external": run.tables} | results
    return RunRecord(
        recipe=run.recipe.name,
        seed=run.recipe.seed,
        export=run.recipe.export,
        settings=stated(run.recipe),
        data=run.loaded_cases.name,
        data_hash=run.data_hash,
        split=run.loaded_cases.split,
        leaks=[str(leak) for leak in run.loaded_cases.leaks],
        near_duplicates=[str(pair) for pair in run.loaded_cases.pairs],
        **facts,
    )


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _conclude(run: PreparedRun, chosen: list[str], fabric: Fabric, failed: dict[str, str]) -> Iterator[Event]:
    """Evaluates, reports and exports the chosen stages, and those of earlier calls that are still valid."""
    recipe, folder = run.recipe, run.folder
    yield Event("checking the files of the data")
    _require_unchanged(run.files, run.hash_files())
    shown = [
        name
        for name in recipe.stages
        if recipe.stages[name].task != "autoencoder"
        and (name in chosen or still_stands(run.inputs(name), run.precision(name, fabric.device)))
    ]
    load = cache(load_stage)  # each network is built once
    for name in shown:
        yield from evaluate(run, name, fabric.device, load)
    yield Event("writing the report")
    verdicts, tables = report_run(folder, recipe, run.loaded_cases, shown, fabric.device, load, run.tables)
    write_teachers(recipe, shown, run.loaded_cases.cases, folder / TEACHERS_FILE)
    facts = [verdict.to_dict() for verdict in verdicts]
    _record(run, stages=shown, failed=failed, verdicts=facts, external=tables).write(folder)
    if recipe.export in shown:
        yield Event("exporting the model file")
        export_stage(
            folder / "stages" / recipe.export,
            folder / "model.onnx",
            compared_cases(run.loaded_cases.cases),
            load,
        )
    yield Event(f"done: {folder / 'report.html'}")
