"""Cross-validation as one recipe: a run per fold in one folder, and a summary over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segdistill.config.schema import Recipe
from segdistill.data.case import Case, select
from segdistill.data.splits import k_fold
from segdistill.errors import CasesFailed, InputError
from segdistill.experiment.cases import load_cases
from segdistill.experiment.check import require_cases, require_outside
from segdistill.experiment.compare import read_trainings
from segdistill.experiment.events import Event
from segdistill.experiment.external import read_external
from segdistill.experiment.inputs import OpenedPredictions
from segdistill.experiment.machine import Machine, is_first_process
from segdistill.experiment.results import EXTERNAL, FOLDS_FILE, external_folder, fold_folder
from segdistill.files import write_json, write_text
from segdistill.records import EvaluationRecord, GuardRecord, RunRecord, Summary
from segdistill.report.folds import over_folds, render_folds
from segdistill.stats.comparison import find_verdicts, group_variants, verdicts_elsewhere

Run = Callable[[Recipe, Path | None, Path, Machine, list[str] | None], Iterator[Event]]
Before = Callable[[Mapping[Path, tuple[Recipe, str]]], Iterator[Event]]
"""Gets folder -> recipe and label of every fold."""


def run_folds(
    recipe: Recipe,
    source: Path | None,
    folder: Path,
    machine: Machine,
    stages: list[str] | None,
    run: Run,
    before: Before | None = None,
) -> Iterator[Event]:
    """Runs the folds of a recipe one after the other (or its `only_folds`), and sums up all that are finished.

    Every fold is a run of its own in `folder`/fold-N, which continues and skips what is finished; all share one
    prepared store. Several calls may run different folds at once. Failed trainings of one do not stop the others.

    Args:
        recipe: with `folds`.
        source: as for a run.
        folder: of the cross-validation; gets folds.json and report.html beside the folds.
        machine: as for a run.
        stages: as for a run.
        run: how a recipe without folds is run.
        before: what is done for all folds before the first one is run.

    Raises:
        InputError: a fold would lack a class or training cases, or the folder holds a run without folds.
        CasesFailed: some trainings have failed, after all folds.
    """
    if (folder / RunRecord.FILE).exists():
        raise InputError(f"{folder} holds a run without folds: choose another --out")
    if is_first_process():
        require_folds(recipe, source, stages)
        if not (folder / FOLDS_FILE).exists():
            write_json(folder / FOLDS_FILE, _facts(recipe, [], {}, {}))
    failed: dict[int, str] = {}
    folds = list(recipe.only_folds or range(1, (recipe.folds or 0) + 1))
    labels = {fold: f"fold {fold} of {recipe.folds}: " for fold in folds}
    if before is not None:
        yield from before(
            {fold_folder(folder, fold): (fold_recipe(recipe, fold), labels[fold]) for fold in folds}
        )
    for fold in folds:
        try:
            for event in run(fold_recipe(recipe, fold), source, fold_folder(folder, fold), machine, stages):
                yield replace(event, text=f"{labels[fold]}{event.text}")
        except CasesFailed as error:
            failed[fold] = str(error)
    if is_first_process():
        conclude_folds(recipe, folder)
        yield Event(f"done: {folder / 'report.html'}")
    if failed:
        first, why = next(iter(failed.items()))
        listed = ", ".join(map(str, failed))
        raise CasesFailed(
            f"trainings failed in {len(failed)} of {recipe.folds} folds ({listed}): fold {first}: {why}"
        )


def fold_recipe(recipe: Recipe, fold: int) -> Recipe:
    """The recipe of one fold, counted from 1.

    >>> whole = Recipe(name="r", folds=3, stages={"net": {"model": {"name": "unet"}}})
    >>> fold_recipe(whole, 2).data.split.fold, fold_recipe(whole, 2).name
    (2, 'r/fold-2')
    """
    split = recipe.data.split.model_copy(update={"method": "k_fold", "folds": recipe.folds, "fold": fold})
    data = recipe.data.model_copy(update={"split": split})
    name = f"{recipe.name}/fold-{fold}"
    return recipe.model_copy(update={"name": name, "data": data, "folds": None, "only_folds": []})


def require_folds(recipe: Recipe, source: Path | None, stages: list[str] | None) -> None:
    """Checks every fold before the first one is trained.

    Raises:
        InputError: names the fold, and the class that it has no case of.
    """
    read_external(recipe)
    split = fold_recipe(recipe, 1).data.split
    chosen = recipe.chosen(stages)
    with TemporaryDirectory() as drawn:  # synthetic images are drawn again in each fold
        loaded = load_cases(fold_recipe(recipe, 1).data, source, Path(drawn), recipe.classifies)
        cases = [c for c in loaded.cases if c.has_reference or (recipe.classifies and c.label)]
        further = [replace(case, split="train") for case in loaded.cases if case not in cases]
        opened = OpenedPredictions()
        for fold in range(1, split.folds + 1):
            divided = k_fold(cases, split.folds, fold, split.seed, split.val, empty=loaded.empty)
            try:
                for name in chosen:
                    require_cases(recipe, name, [*divided, *further])
                require_outside(recipe, chosen, [*divided, *further], opened)
                _require_tested(recipe, cases, divided)
            except InputError as error:
                raise InputError(f"fold {fold} of {split.folds}: {error}") from error


def _require_tested(recipe: Recipe, cases: list[Case], divided: list[Case]) -> None:
    tested = {case.label for case in select(divided, split="test")}
    for label in recipe.data.labels or sorted({case.label for case in cases}):
        if label not in tested:
            raise InputError(f"no test case has the label '{label}': use fewer folds, or add cases")


def conclude_folds(recipe: Recipe, folder: Path) -> None:
    """Writes folds.json and report.html over the folds that are finished."""
    count = recipe.folds or 0
    runs = {fold: RunRecord.read(fold_folder(folder, fold)) for fold in range(1, count + 1)}
    finished = {fold: run.stages for fold, run in runs.items() if run is not None and run.stages}
    stages: dict[str, Any] = {}
    weights: list[str] = []
    for name in recipe.stages:
        folders = {
            f: fold_folder(folder, f) / "stages" / name for f, names in finished.items() if name in names
        }
        found = {fold: EvaluationRecord.read(place) for fold, place in folders.items()}
        evaluated = {fold: one for fold, one in found.items() if one is not None}
        if evaluated:
            summary = over_folds({fold: one.summary for fold, one in evaluated.items()})
            weights += [str(one.weights or "not recorded") for one in evaluated.values()]
            stages[name] = {"summary": summary, "cost": asdict(next(iter(evaluated.values())).cost)}
    external = _external(folder, {fold: run for fold, run in runs.items() if run is not None and run.stages})
    facts = _facts(recipe, list(finished), stages, external)
    write_json(folder / FOLDS_FILE, facts)
    trainings = read_trainings([str(folder)]) if stages else []
    variants, _ = group_variants(trainings)
    verdicts = find_verdicts(variants, recipe.evaluation.margin, recipe.seed)
    elsewhere = verdicts_elsewhere(variants, recipe.evaluation.margin, recipe.seed)
    for name, table in external.items():
        own = [replace(verdict, tested_on=name) for verdict in elsewhere.get(table["hash"], [])]
        table["verdicts"] = [verdict.to_dict() for verdict in own]
        verdicts = [*verdicts, *own]
    at_home = [verdict.to_dict() for verdict in verdicts if not verdict.tested_on]
    write_json(folder / FOLDS_FILE, facts | {"verdicts": at_home})
    shown = {name: stage["summary"] for name, stage in stages.items()}
    page = render_folds(
        recipe.name,
        recipe.about,
        count,
        list(finished),
        shown,
        {
            name: {stage: found["summary"] for stage, found in table["stages"].items()}
            for name, table in external.items()
        },
        weights,
        verdicts=verdicts,
        results={variant.name: variant.results for variant in variants if variant.results},
        expected=_expected(recipe, folder, list(finished)),
    )
    write_text(folder / "report.html", page)


def _facts(
    recipe: Recipe, finished: list[int], stages: dict[str, Any], external: dict[str, Any]
) -> dict[str, Any]:
    """The content of folds.json, which also marks the folder of a cross-validation from its beginning."""
    facts = {"recipe": recipe.name, "folds": recipe.folds, "finished": finished}
    return facts | {"stages": stages, EXTERNAL: external}


def _external(folder: Path, runs: Mapping[int, RunRecord]) -> dict[str, Any]:
    """Name of each table from elsewhere -> its hash, its cases, and the means of each stage over folds."""
    tables = {name: table for run in runs.values() for name, table in run.external.items()}
    found: dict[str, Any] = {}
    for name, table in tables.items():
        stages: dict[str, dict[int, Summary]] = {}
        for fold, run in runs.items():
            for stage in run.stages:
                place = external_folder(fold_folder(folder, fold) / "stages" / stage, name)
                if name in run.external and (record := EvaluationRecord.read(place)) is not None:
                    stages.setdefault(stage, {})[fold] = record.summary
        summaries = {
            stage: {"summary": over_folds(by_fold, same_cases=True)} for stage, by_fold in stages.items()
        }
        found[name] = {"hash": table.hash, "cases": table.cases, "stages": summaries}
    return found


def _expected(recipe: Recipe, folder: Path, finished: list[int]) -> dict[str, list[str]]:
    """Student -> what was expected of its distillation before training, in each fold and of each seed."""
    found: dict[str, list[str]] = {}
    for name in recipe.stages:
        for fold in finished:
            guard = GuardRecord.find(fold_folder(folder, fold) / "stages" / name)
            if guard is not None:
                found.setdefault(recipe.variant(name), []).append(guard.outlook)
    return found
