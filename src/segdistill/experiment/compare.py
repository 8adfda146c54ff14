"""Reads what is to be compared: runs, stages of runs and evaluation folders. Without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from segdistill.config.matrix import map_stages, needed_stages, teacher_names
from segdistill.errors import InputError, needs
from segdistill.experiment.results import FOLDS_FILE, external_folder, fold_folder, read_json, read_recipe
from segdistill.files import sha256_text
from segdistill.metrics.cases import METRICS_FILE, Results, read_metrics_csv
from segdistill.plugins import load_plugins, use_installed
from segdistill.records import DamagedRecord, EvaluationRecord, RunRecord, StageRecord
from segdistill.registry import near_names
from segdistill.stats.comparison import (
    Elsewhere,
    Training,
    Variant,
    compare_variants,
    group_variants,
    own_baselines,
    pairs_elsewhere,
    require_seeds,
)
from segdistill.stats.verdict import Verdict

_NO_SETTINGS = {"checkpoint_seconds", "workers"}
_NO_FACTS = {"seed", "variant", "about", "role", "fit", "may_fail", "cache_limit_gb"}


@dataclass(frozen=True)
class ComparisonResult:
    """What `compare` found.

    Attributes:
        verdicts: one per variant and baseline.
        metric: that was compared.
        margin: the accepted loss; None: not stated.
        notes: trainings that were ignored, one line each.
        report: None where none was written.
        external: name -> verdicts on a table from elsewhere on which all of them were tested.
    """

    verdicts: list[Verdict]
    metric: str
    margin: float | None = None
    notes: Sequence[str] = ()
    report: Path | None = None
    external: Mapping[str, list[Verdict]] = field(default_factory=dict)


@use_installed(False)
def compare(
    runs: str | Path | Sequence[str | Path],
    stages: Sequence[str] = (),
    *,
    baseline: str | None = None,
    metric: str = "dice",
    margin: float | None = None,
    out: str | Path | None = None,
    plugins: Sequence[str] = (),
) -> ComparisonResult:
    """Compares students with their baselines, case by case, averaged over seeds: helps, hurts, no evidence, undecided.

    Tables from elsewhere (`external` of a recipe) that all of them were tested on are compared, too.

    Args:
        runs: run folders (also of cross-validations, whose folds are judged together), "RUN:STAGE", and folders that
            `evaluate` has written; of one experiment.
        stages: names of the variants; by default every student.
        baseline: what they are compared with; by default the stages with the role baseline.
        metric: a column of metrics.csv.
        margin: accepted loss, stated before training; by default that of the recipe; where it states none, 0.02
            for scores between 0 and 1, which the verdicts show as the default.
        out: folder for comparison.csv, forest.svg and report.html.
        plugins: files and modules to run first, because the metric comes from them.

    Raises:
        InputError: no such run, stage or metric, no baseline, or different test cases.

    >>> compare(["nowhere"])
    Traceback (most recent call last):
    segdistill.errors.InputError: nowhere: no such folder: give a run, RUN:STAGE, or a folder of segdistill evaluate -o
    """
    load_plugins(plugins)
    words = [str(runs)] if isinstance(runs, (str, Path)) else [str(run) for run in runs]
    margin = stated_margin(words) if margin is None else margin
    if margin is not None and not 0 < margin < float("inf"):
        raise InputError(f"margin is {margin:g}: it is the accepted loss, so give a number above 0")
    variants, notes = group_variants(read_trainings(words))
    pairs = choose_pairs(variants, stages, baseline)
    require_seeds(list({id(each): each for pair in pairs for each in pair}.values()))
    there, report = pairs_elsewhere(pairs, metric), None
    untested = bool(there) and not any(v.cases for pair in pairs for v in pair)
    verdicts = [] if untested else compare_variants(pairs, metric, margin)
    external = {name: compare_variants(on, metric, margin, tested_on=name) for name, on in there.items()}
    if out is not None:
        with needs("a report", "report"):
            from segdistill.report.comparison import write_comparison
        title = f"Comparison of {', '.join(Path(word).name for word in words)}"
        every = [*verdicts, *(verdict for found in external.values() for verdict in found)]
        write_comparison(every, pairs if verdicts else next(iter(there.values())), Path(out), title)
        report = Path(out) / "report.html"
    return ComparisonResult(verdicts, metric, margin, notes, report, external)


@dataclass(frozen=True)
class Source:
    """A run folder; of a cross-validation that of a fold, which is counted from 1."""

    folder: Path
    fold: int | None = None
    folds: int = 1

    @property
    def run(self) -> Path:
        """The folder of the run, or of the cross-validation."""
        return self.folder.resolve() if self.fold is None else self.folder.resolve().parent

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe; empty when it is absent."""
        return read_recipe(self.folder)

    def stages(self) -> list[str]:
        """The evaluated stages, in the order of the run's report."""
        found = sorted(path.parent.name for path in (self.folder / "stages").glob(f"*/{METRICS_FILE}"))
        record = RunRecord.read(self.folder)
        return [name for name in (record.stages if record else []) if name in found] or found


def read_trainings(words: Sequence[str]) -> list[Training]:
    """The trainings that words of the command line mean: run folders, RUN:STAGE, and folders left by `evaluate -o`.

    Raises:
        InputError: a word means none of these, or a record is damaged.

    >>> read_trainings(["nowhere"])
    Traceback (most recent call last):
    segdistill.errors.InputError: nowhere: no such folder: give a run, RUN:STAGE, or a folder of segdistill evaluate -o
    """
    found: dict[str, Training] = {}
    for word in words:
        for training in _read(word):
            found.setdefault(training.source, training)
    return list(found.values())


def _read(word: str) -> list[Training]:
    folder = Path(word)
    if folder.name == METRICS_FILE:
        folder = folder.parent
    run, colon, stage = ("", "", "") if folder.is_dir() else word.rpartition(":")
    if colon and Path(run).is_dir():
        return _named(Path(run), stage)
    if not folder.is_dir():
        raise InputError(
            f"{word}: no such folder: give a run, RUN:STAGE, or a folder of segdistill evaluate -o"
        )
    if (folder / StageRecord.FILE).exists() and (folder / METRICS_FILE).exists():
        return [_training(Source(folder.resolve().parents[1]), folder.name)]
    if (folder / "stages").is_dir() or (folder / FOLDS_FILE).exists():
        found = [_training(source, name) for source in _sources(folder) for name in source.stages()]
        if not found:
            raise InputError(f"{folder} has no evaluated stage: run its recipe to the end first")
        return found
    if (folder / METRICS_FILE).exists():
        return [_evaluation(folder)]
    raise InputError(
        f"{folder} is neither a run nor a folder of segdistill evaluate -o: it has no {METRICS_FILE}"
    )


def _named(run: Path, stage: str) -> list[Training]:
    """A stage of a run, or of every fold of a cross-validation."""
    sources = _sources(run)
    known = list(dict.fromkeys(name for source in sources for name in source.stages()))
    if stage not in known:
        raise InputError(f"{run} has no evaluated stage '{stage}': {near_names(stage, known)}")
    return [_training(source, stage) for source in sources if stage in source.stages()]


def _sources(folder: Path) -> list[Source]:
    """The run; of a cross-validation its finished folds."""
    if not (folder / FOLDS_FILE).exists():
        return [Source(folder)]
    facts = read_json(folder / FOLDS_FILE)
    count, finished = facts.get("folds", 1), facts.get("finished", [])
    if not isinstance(finished, list) or not all(type(number) is int for number in (count, *finished)):
        raise DamagedRecord(
            f"{folder / FOLDS_FILE} is damaged (folds and finished are no numbers): restore it, or run the recipe again"
        )
    return [Source(fold_folder(folder, fold), fold, count) for fold in finished]


def _scores(file: Path) -> Results:
    """The results in a metrics.csv, once each: cases are paired by their ids."""
    found, seen = read_metrics_csv(file), set[str]()
    for result in found:
        if result.case in seen:
            raise InputError(
                f"{file} has case {result.case!r} twice: remove the repeated rows, or evaluate again"
            )
        seen.add(result.case)
        dice = result.metrics["dice"]
        if not -1e-9 <= dice <= 1 + 1e-9:
            raise InputError(f"{file}, case {result.case!r}: dice {dice:g} is not in [0, 1]: evaluate again")
    return found


def _evaluation(folder: Path) -> Training:
    name, record = folder.resolve().name, EvaluationRecord.read(folder)
    known = record is not None and record.model == name  # else the user has named the folder
    return Training(
        record.variant or name if record is not None and known else name,
        _scores(folder / METRICS_FILE),
        record.seed if record is not None and known else None,
        settings=f"evaluations in {folder.resolve().parent}",
        stage=name,
        run=folder.resolve().parent.name,
        source=str(folder),
        weights=str(record.weights or "") if record is not None else "",
    )


def _training(source: Source, name: str) -> Training:
    folder = source.folder / "stages" / name
    record = StageRecord.read(folder)
    if record is None:
        raise InputError(f"{folder} has no {StageRecord.FILE}: run its recipe again")
    recipe = source.recipe if source.fold is None else _without_fold(source.recipe)
    return Training(
        record.variant,
        _scores(folder / METRICS_FILE),
        record.seed,
        role=record.role,
        network=json.dumps(record.network, sort_keys=True),
        settings=_settings(recipe, name) or f"stages in {source.run}",
        stage=name,
        run=source.run.name,
        source=f"{source.folder}:{name}",
        steps=record.steps,
        seconds=record.seconds or None,
        equal_time_to=record.equal_time_to,
        weights=str(record.weights or ""),
        fold=source.fold,
        folds=source.folds,
        teachers=_taught_by(source, name),
        external=_elsewhere(source, folder),
    )


def _elsewhere(source: Source, stage: Path) -> tuple[Elsewhere, ...]:
    """The results of a stage on the run's tables from elsewhere."""
    record = RunRecord.read(source.folder)
    tables = record.external if record is not None else {}
    places = {name: external_folder(stage, name) / METRICS_FILE for name in tables}
    return tuple(
        Elsewhere(name, tables[name].hash, _scores(place)) for name, place in places.items() if place.exists()
    )


def _taught_by(source: Source, name: str) -> tuple[str, ...]:
    """The teachers of a stage; those trained in this run with its folder, since other runs train their own."""
    stages = source.recipe.get("stages", {})
    names = teacher_names(stages.get(name, {}))
    return tuple(f"{source.folder.resolve()}:{each}" if each in stages else each for each in names)


def _settings(recipe: dict[str, Any], name: str, above: tuple[str, ...] = ()) -> str:
    """A hash of all settings of a stage but its seed, with those of the stages that it needs; "" where not known."""
    stages = recipe.get("stages", {})
    stage = stages.get(name)
    if not isinstance(stage, dict) or name in above:
        return ""
    own = {key: value for key, value in stage.items() if key not in _NO_FACTS}
    fit = {**recipe.get("fit", {}), **stage.get("fit", {})}
    facts = {
        "stage": map_stages(own, lambda other: stages.get(other, {}).get("variant") or other),
        "fit": {key: value for key, value in fit.items() if key not in _NO_SETTINGS},
        "data": {key: value for key, value in (recipe.get("data") or {}).items() if key != "table"},
        "others": [_settings(recipe, other, (*above, name)) for other in needed_stages(stage)],
    }
    return sha256_text(json.dumps(facts, sort_keys=True))


def _without_fold(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without its fold: what all folds of a cross-validation have in common."""
    data = recipe.get("data") or {}
    split = {key: value for key, value in (data.get("split") or {}).items() if key != "fold"}
    return recipe | {"data": data | {"split": split}}


def stated_margin(words: Sequence[str]) -> float | None:
    """The margin in the recipes of these runs, stated before training; None where none, or not one alone, was stated.

    >>> stated_margin(["nowhere"])
    """
    named = [Path(word) if Path(word).is_dir() else Path(word.rpartition(":")[0]) for word in words]
    folders = [source.folder for folder in named for source in _sources(folder)]
    recipes = [Source(folder).recipe for folder in folders if (folder / "recipe.yaml").is_file()]
    margins = {(recipe.get("evaluation") or {}).get("margin") for recipe in recipes} - {None}
    (margin,) = margins if len(margins) == 1 else (None,)
    return margin if isinstance(margin, float) else None


def choose_pairs(
    variants: Sequence[Variant], stages: Sequence[str] = (), baseline: str | None = None
) -> list[tuple[Variant, Variant]]:
    """Which variant is compared with which baseline.

    Args:
        variants: from `group_variants`.
        stages: names of the variants to compare; by default the students or, where there are none, all but teachers
            and baselines.
        baseline: name of what they are compared with; by default every baseline of the variant's own network (at
            equal steps, at equal time), else all baselines and comparators.

    Raises:
        InputError: an unknown name, or no baseline.
    """
    given = _find(variants, baseline, "baseline") if baseline else []
    chosen = [v for name in stages for v in _find(variants, name, "stage")]
    pairs = [
        (variant, partner)
        for variant in chosen or _by_default(variants, given)
        for partner in _partners(variant, variants, given)
        if partner is not variant
    ]
    if not pairs:
        sources = (t.source for v in variants for t in v.trainings)
        runs = ", ".join(dict.fromkeys(source.rpartition(":")[0] or source for source in sources))
        names = ", ".join(v.name for v in variants)
        raise InputError(
            f"no baseline to compare with in {runs}: train the student without distillation (role: baseline), or name "
            f"one with --baseline (there are: {names})"
        )
    return pairs


def _by_default(variants: Sequence[Variant], given: Sequence[Variant]) -> list[Variant]:
    free = [v for v in variants if v not in given]
    others = {"teacher"} if given else {"teacher", "baseline"}
    return [v for v in free if v.first.role == "student"] or [v for v in free if v.first.role not in others]


def _partners(variant: Variant, variants: Sequence[Variant], given: Sequence[Variant]) -> Sequence[Variant]:
    if given:
        return [b for b in given if b.runs & variant.runs] or given
    known = bool(variant.first.network)
    baselines = [v for v in variants if v.first.role == "baseline"]
    unknown = [b for b in baselines if not (known and b.first.network)]
    comparators = [v for v in variants if v.first.role == "comparator"]
    return own_baselines(variant, variants) or unknown or baselines or comparators


def _find(variants: Sequence[Variant], name: str, what: str) -> list[Variant]:
    found = [
        v
        for v in variants
        if name in (v.name, v.first.variant, *(n for t in v.trainings for n in (t.stage, t.source)))
    ]
    if not found:
        raise InputError(f"no {what} '{name}': {near_names(name, [v.name for v in variants])}")
    return found
