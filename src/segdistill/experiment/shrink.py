"""How small can it get? A ladder of students by cross-validation, the smallest that is not worse, and one last test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from segdistill.config.effort import DataFacts
from segdistill.config.ladder import (
    DISTILLED,
    LadderEffort,
    ladder_effort,
    ladder_recipe,
    parse_rungs,
    times_longer,
)
from segdistill.config.load import chooses_slices, load_recipe, parse_changes, with_length
from segdistill.config.schema import DataRecipe, Recipe, SplitRecipe
from segdistill.data.case import Case, select
from segdistill.data.duplicates import find_duplicates
from segdistill.data.levels import with_intensity
from segdistill.data.store import prepare_store
from segdistill.data.table import read_cases, write_cases
from segdistill.errors import CasesFailed, InputError
from segdistill.experiment.build import with_class_count
from segdistill.experiment.cases import (
    LoadedCases,
    absolute,
    find_facts,
    load_cases,
    with_table_classes,
    write_unused,
)
from segdistill.experiment.check import check_parts, require_outside, require_outside_models
from segdistill.experiment.compare import read_trainings
from segdistill.experiment.environment import ENVIRONMENT, environment
from segdistill.experiment.events import Event, show_events
from segdistill.experiment.export import export_run
from segdistill.experiment.folder import only_writer
from segdistill.experiment.folds import fold_recipe
from segdistill.experiment.inputs import OpenedPredictions, StageInputs
from segdistill.experiment.machine import Machine, make_fabric
from segdistill.experiment.result import MODEL_FILE, REPORT, RunResult
from segdistill.experiment.results import fold_folder
from segdistill.experiment.run import patches_note, run
from segdistill.experiment.rungs import measure_rungs, over_budget, require_candidates
from segdistill.experiment.stage import find_stage
from segdistill.experiment.teachers import case_dice, predict_teacher, with_predictions
from segdistill.files import atomic_write, json_text, sha256_text, write_json, write_text
from segdistill.plugins import load_plugins, name_code, use_installed
from segdistill.records import Interval, Rung, ShrinkRecord, StageRecord
from segdistill.report.ladder import ladder_page, ladder_text
from segdistill.runtime.machine import machine
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.comparison import Variant, compare_variants, group_variants
from segdistill.stats.ladder import (
    claimed_rung,
    count_tested,
    decidable_margin,
    decidable_text,
    passing_margin,
)
from segdistill.stats.text import amount
from segdistill.stats.verdict import MARGIN, Verdict

FOLDS, FINAL = "folds", "final"
"""Folders of the two runs: all rungs by cross-validation, and the chosen one trained on all but the test cases."""
TABLE, DEVELOPMENT = "cases.csv", "development.csv"
"""All cases with their split, and those outside the test split, which the folds are made of."""
TEACHER_FILE, TEACHER_CASES = "teacher.onnx", "teacher_cases.txt"
_Tell = Callable[[str], None]


@dataclass(frozen=True)
class ShrinkResult:
    """What `shrink` found.

    Attributes:
        folder: with everything.
        record: the ladder and the choice.
    """

    folder: Path
    record: ShrinkRecord

    @property
    def report(self) -> Path:
        """The report, an HTML page that needs no other file."""
        return self.folder / REPORT

    @property
    def model_file(self) -> Path | None:
        """The model file of the chosen network; None where none is chosen."""
        return self.folder / MODEL_FILE if self.record.chosen else None

    @property
    def failed(self) -> str:
        """Why no network is chosen, with how far the first one is; "" where one is."""
        return "" if self.record.chosen else f"{self.record.sentence} What was trained stays in {self.folder}"

    def lines(self) -> list[str]:
        """The ladder for a terminal."""
        lines = [ladder_text(self.record), f"report      {self.report}"]
        return lines if self.model_file is None else [*lines, f"model file  {self.model_file}"]


@dataclass(frozen=True)
class _Call:
    """What a call states, checked."""

    folder: Path
    source: Path | None
    teacher: str | Path | Mapping[str, Any] | None
    trained_on: str
    margin: float
    max_ms: float | None
    max_mb: float | None
    effort: str
    level: LadderEffort
    rungs: Sequence[str] | Mapping[str, Mapping[str, Any]] | None
    folds: int
    seeds: int
    test: float | None
    changes: dict[str, Any]
    device: str
    plugins: Sequence[str]
    progress: bool
    jobs: int | None

    def models(self, facts: DataFacts) -> dict[str, dict[str, Any]]:
        """The networks of the ladder: those of the call, or the effort's for these data."""
        own = self.level.rungs if facts.volumes is None else self.level.volume_rungs
        return parse_rungs(own if self.rungs is None else self.rungs)

    def recipe(
        self,
        facts: DataFacts,
        models: Mapping[str, Mapping[str, Any]],
        outside: Mapping[str, Any] | None = None,
        reference: str | None = None,
        **more: Any,
    ) -> Recipe:
        """The ladder's recipe with the changes of the call; the reference is by default the first network."""
        ladder = ladder_recipe(
            models,
            self.effort,
            facts,
            reference=reference or next(iter(models)),
            margin=self.margin,
            seeds=more.pop("seeds", self.seeds),
            folds=self.folds,
            outside=outside,
            plain_only=more.pop("plain_only", ()),
            longer=more.pop("longer", None),
        )
        return load_recipe(with_length(ladder, self.changes) | more, self.changes)

    def run(self, recipe: Recipe, folder: Path, stages: Sequence[str] | None = None) -> RunResult:
        """Runs a recipe, or continues it.

        Raises:
            CasesFailed: trainings have failed.
        """
        result = run(
            recipe,
            out=folder,
            stages=stages,
            device=self.device,
            plugins=self.plugins,
            progress=self.progress,
            jobs=self.jobs,
        )
        if result.failed:
            raise CasesFailed(result.failed)
        return result


def shrink(
    data: str | Path | None = None,
    *,
    teacher: str | Path | Mapping[str, Any] | None = None,
    trained_on: str = "unknown",
    margin: float = MARGIN,
    max_ms: float | None = None,
    max_mb: float | None = None,
    effort: str = "normal",
    rungs: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    folds: int | None = None,
    seeds: int | None = None,
    test: float | None = None,
    out: str | Path | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    device: str = "auto",
    jobs: int | None = None,
    plugins: Sequence[str] = (),
    progress: bool = True,
    **shortcuts: Any,
) -> ShrinkResult:
    """Finds the smallest network that is not worse than the largest by a margin; called again, it continues.

    Every network is timed on this machine first, and those over the budget are not trained. The others are trained with
    and without a teacher by cross-validation on all but the test cases. Each distilled one is compared with the slowest
    network of the ladder without a teacher; they are tested from large to small, and the first that is not shown to be
    "not worse" ends the claim (stats/ladder.py). The chosen network is trained once more, on all but the test cases,
    tested on these, and exported. Volumes are seen as patches of volumes or slice by slice, chosen as `distill` does.

    Args:
        data: cases.csv, or a folder with images/ and masks/. Where a table has test rows, these are the test cases.
        teacher: a folder of predictions, a model file (.onnx), the folder of a run or of a stage, "RUN:STAGE", or
            what an entry of `teachers` in a recipe states, as a dict or as its text, such as
            "{predictions: FOLDER, foreground: [1]}"; by default an ensemble of unlike networks trained here.
        trained_on: the cases that a teacher from elsewhere was trained on: "all", "none", "unknown" or a file of ids;
            of a run it is known.
        margin: the accepted loss in Dice; state it before the results are known.
        max_ms: milliseconds that one image, or volume, may take, in ONNX Runtime with one thread.
        max_mb: MiB that the model file may have.
        effort: "quick", "normal" or "patient": networks, folds, seeds and steps.
        rungs: networks as NAME or NAME/PRESET, or name -> {"name": network, option: value, ...}; by default
            the effort's.
        folds: of the cross-validation, instead of the effort's.
        seeds: trainings of each fold, instead of the effort's.
        test: share of the cases for the last test; by default 0.15.
        out: folder; by default runs/shrink.
        set: changes of the recipe, {"fit.steps": 2000}.
        device: "auto", "cpu" or "gpu".
        jobs: train so many stages and folds at once.
        plugins: files and modules to run first, because they register parts of your own.
        progress: show on stderr what is done.
        shortcuts: changes of the recipe by a short name or a key without dots, such as size=128.

    Returns:
        The ladder and the choice. Where no network is shown to be not worse, `failed` tells how far the first one is.

    Raises:
        InputError: data, teacher, networks or folder cannot be used, or no network meets the budget.
        CasesFailed: trainings have failed.

    >>> shrink("cases.csv", margin=2)
    Traceback (most recent call last):
    segdistill.errors.InputError: margin is 2: it is the accepted loss in Dice: give a number above 0 and below 1
    """
    changes = {**(set if isinstance(set, Mapping) else parse_changes(set)), **shortcuts}
    _require_numbers(margin, max_ms, max_mb, folds, seeds, test)
    level = ladder_effort(effort)
    if isinstance(teacher, str) and teacher.lstrip().startswith("{"):
        teacher = parse_changes([f"teacher={teacher}"])["teacher"]
    call = _Call(
        folder=Path("runs/shrink") if out is None else Path(out),
        source=None if data is None else Path(data),
        teacher=teacher,
        trained_on=trained_on,
        margin=margin,
        max_ms=max_ms,
        max_mb=max_mb,
        effort=effort,
        level=level,
        rungs=rungs,
        folds=folds or level.folds,
        seeds=seeds or level.seeds,
        test=test,
        changes=changes,
        device=device,
        plugins=plugins,
        progress=progress,
        jobs=jobs,
    )
    with use_installed(True):
        load_plugins(plugins)
        models = call.models(DataFacts()).values()
        name_code(str(model["name"]) for model in models if ":" in str(model.get("name")))
    _require_own(call.folder)
    with only_writer(call.folder):
        return _shrink(call, partial(_tell, progress))


def _tell(progress: bool, line: str) -> None:
    if progress:
        show_events([Event(line)])


def _require_numbers(
    margin: float,
    max_ms: float | None,
    max_mb: float | None,
    folds: int | None,
    seeds: int | None,
    test: float | None,
) -> None:
    if not 0 < margin < 1:
        raise InputError(
            f"margin is {margin:g}: it is the accepted loss in Dice: give a number above 0 and below 1"
        )
    if test is not None and not 0 < test < 1:
        raise InputError(f"test is {test:g}: it is a share of the cases: give a number above 0 and below 1")
    for name, value in (("max_ms", max_ms), ("max_mb", max_mb)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} is {value:g}: give a number above 0, or leave it out")
    for name, count, least in (("folds", folds, 2), ("seeds", seeds, 1)):
        if count is not None and count < least:
            raise InputError(f"{name} is {count}: use at least {least}")


def _require_own(folder: Path) -> None:
    if (folder / ENVIRONMENT).exists() and not (folder / ShrinkRecord.FILE).exists():
        raise InputError(f"{folder} holds a run of another command: choose another --out")


def _shrink(call: _Call, tell: _Tell) -> ShrinkResult:
    known = ShrinkRecord.read(call.folder)
    seen = _facts(call, call.recipe(DataFacts(), call.models(DataFacts())).data)
    draft = call.recipe(seen, call.models(seen), seeds=0)
    draft = with_class_count(with_table_classes(draft, call.source))
    data = draft.data
    loaded = _cases(call, data)
    for line in loaded.warnings:
        tell(f"warning: {line}")
    if data.dimensions == 3:
        tell(patches_note(data))
    settings = _settings(call, draft, seen, known)
    outside, taught = _outside(call, loaded.cases, tell)
    _require_teacher(call, seen, outside, loaded.cases)
    record = _measured(call, draft, seen, known, settings, loaded, tell)
    for line in _opening(record):
        tell(line)
    if warning := _seen_test_cases(taught, loaded.cases):
        record = replace(record, warnings=[warning])
        tell(f"warning: {warning}")
    record.write(call.folder)
    write_json(call.folder / ENVIRONMENT, environment(Machine(call.device).resolve(), draft.fit.precision))
    write_tables(call.folder, loaded)
    bare = find_facts(_data(data, call.folder / DEVELOPMENT), None).without_mask
    make = partial(
        call.recipe,
        replace(seen, without_mask=bare),
        {rung.name: rung.model for rung in record.rungs if _is_trained(rung, record)},
        outside,
        record.reference,
        plain_only=[rung.name for rung in record.rungs if rung.excluded],
        longer=times_longer({rung.name: rung.ms for rung in record.rungs}),
    )
    recipe = make()
    recipe = recipe.model_copy(update={"data": _data(data, call.folder / DEVELOPMENT)})
    call.run(recipe, call.folder / FOLDS)
    record = _decided(record, call.folder / FOLDS, recipe.seed)
    teacher_words = _teacher_words(recipe, call.teacher)
    score = _teacher_score(recipe, call.folder / FOLDS, Machine(call.device))
    record = replace(record, teacher=teacher_words, teacher_score=score)
    (call.folder / MODEL_FILE).unlink(missing_ok=True)  # of an earlier choice
    _finish(call, record)
    if not record.chosen:
        return ShrinkResult(call.folder, record)

    stage = f"{record.chosen}{DISTILLED}"
    recipe = make(seeds=0, name="shrink/final", export=stage)
    recipe = recipe.model_copy(update={"data": _data(data, call.folder / TABLE, given=True)})
    tell(f"{record.chosen} is trained on all but the test cases, and tested on them")
    final = call.run(recipe, call.folder / FINAL, [stage])
    evaluation = final.records[stage][1]
    record = replace(record, test=evaluation.score("dice"), test_cases=evaluation.cases)
    with atomic_write(call.folder / MODEL_FILE) as temporary:
        shutil.copyfile(call.folder / FINAL / MODEL_FILE, temporary)
    _finish(call, record)
    return ShrinkResult(call.folder, record)


def _facts(call: _Call, data: DataRecipe) -> DataFacts:
    """What is known of the data; `volumes` where networks see patches of volumes."""
    facts = find_facts(data, call.source)
    chosen = call.rungs is not None or chooses_slices(call.changes)
    return replace(facts, volumes=None) if chosen and data.dimensions == 2 else facts


def _finish(call: _Call, record: ShrinkRecord) -> None:
    write_text(call.folder / REPORT, ladder_page(record))
    record.write(call.folder)


def _cases(call: _Call, data: DataRecipe) -> LoadedCases:
    """All cases, the test cases among them.

    Raises:
        InputError: none is tested, or they have changed since the first call.
    """
    if call.test is not None:
        data = data.model_copy(update={"split": data.split.model_copy(update={"test": call.test})})
    loaded = load_cases(data, call.source, call.folder)
    if not select(loaded.cases, split="test"):
        raise InputError(f"no case is left for the last test ({loaded.split}): add cases, or raise --test")
    table = call.folder / TABLE
    if table.exists():
        before = {case.id: case.split for case in read_cases(table)}
        now = {case.id: case.split for case in loaded.cases if case.split}
        if odd := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
            raise InputError(
                f"{len(odd)} cases are new, lost or in another split since this ladder began, such as '{odd[0]}': "
                "restore them, or choose another --out"
            )
    return loaded


def write_tables(folder: Path, loaded: LoadedCases) -> None:
    """The two tables, and what is in neither; groups are those that near-copies were joined in."""
    write_unused(loaded, folder)
    kept = absolute([case for case in loaded.cases if case.split])
    write_cases(kept, folder / TABLE)
    inner = [replace(case, split="") for case in kept if case.split != "test"]
    write_cases(inner, folder / DEVELOPMENT)


def _data(data: DataRecipe, table: Path, given: bool = False) -> DataRecipe:
    """The same data from one of the two tables, which already hold the images without masks."""
    split = SplitRecipe(method="given") if given else SplitRecipe(val=data.split.val, seed=data.split.seed)
    changes = {"table": str(table.absolute()), "dataset": None, "unlabelled": None, "split": split}
    return data.model_copy(update=changes)


def _models(call: _Call, draft: Recipe, seen: DataFacts) -> dict[str, dict[str, Any]]:
    """What the draft states of each network of the ladder."""
    return {
        name: draft.stages[name].model.model_dump(mode="json", exclude_unset=True)
        for name in call.models(seen)
    }


def _settings(call: _Call, draft: Recipe, seen: DataFacts, known: ShrinkRecord | None) -> str:
    """Hash of what a ladder keeps from its first call on.

    Raises:
        InputError: the folder holds another ladder.
    """
    data = draft.data
    facts: dict[str, Any] = {"models": _models(call, draft, seen), "size": data.sides}
    facts |= {"channels": data.channels} | ({} if data.spacing is None else {"spacing": data.spacing})
    settings = sha256_text(json_text(facts | {"effort": call.effort}))
    if known is not None and known.settings != settings:
        raise InputError(
            f"{call.folder} holds a ladder with other networks, images or effort: repeat its options, or choose "
            "another --out"
        )
    return settings


def _require_teacher(
    call: _Call, seen: DataFacts, outside: Mapping[str, Any] | None, cases: list[Case]
) -> None:
    """Refuses a teacher from elsewhere that cannot be used, before anything is measured or trained."""
    if outside is None:
        return
    recipe = call.recipe(seen, call.models(seen), outside, seeds=0)
    recipe = with_class_count(with_table_classes(recipe, call.source))
    student = next(name for name, stage in recipe.stages.items() if stage.teachers)
    opened = OpenedPredictions()
    require_outside(recipe, [student], cases, opened)
    require_outside_models(recipe, [student], cases, opened)


def _measured(
    call: _Call,
    draft: Recipe,
    seen: DataFacts,
    known: ShrinkRecord | None,
    settings: str,
    loaded: LoadedCases,
    tell: _Tell,
) -> ShrinkRecord:
    """The record before training: the networks with their cost, which is measured once, and what can be decided."""
    data = draft.data
    models = _models(call, draft, seen)
    if known is None:
        check_parts(draft, list(models))
        tell(f"measuring {len(models)} networks on this machine")
    shape = None if seen.volumes is None else seen.volumes.shape
    measured = measure_rungs(models, data, shape) if known is None else known.rungs
    rungs = [
        Rung(
            rung.name,
            rung.model,
            rung.parameters,
            rung.ms,
            rung.mb,
            over_budget(rung, call.max_ms, call.max_mb),
        )
        for rung in measured
    ]
    require_candidates(rungs, call.max_ms, call.max_mb)
    cases = [
        case
        for case in select(loaded.cases, split="train") + select(loaded.cases, split="val")
        if case.is_located and not case.is_normal and case.id not in loaded.empty
    ]
    groups = len({case.group_key for case in cases})
    return ShrinkRecord(
        settings=settings,
        effort=call.effort,
        margin=call.margin,
        stated_margin=call.margin if known is None else known.stated_margin,
        machine=machine()["processor"] if known is None else known.machine,
        size=" x ".join(map(str, (data.channels, *data.sides))),
        unit="image" if data.dimensions == 2 else "volume",
        reference=rungs[0].name,
        rungs=rungs,
        max_ms=call.max_ms,
        max_mb=call.max_mb,
        cases=len(cases),
        groups=groups,
        folds=call.folds,
        seeds=call.seeds,
        decidable=decidable_margin(len(cases), groups, call.folds, call.seeds) if cases else None,
        test_cases=len(select(loaded.cases, split="test")),
    )


def _opening(record: ShrinkRecord) -> Iterator[str]:
    """What is told before training."""
    yield decidable_text(record.margin, record.decidable, record.cases, record.folds, record.seeds)
    for rung in record.rungs:
        role = "the reference" if rung.name == record.reference else ""
        excluded = f"{rung.excluded}: no candidate" if rung.excluded else ""
        words = ", ".join(filter(None, [role, excluded]))
        size = f"{amount(rung.parameters)} parameters, {rung.ms:.2f} ms, {rung.mb:.2f} MB"
        yield f"network {rung.name}: {size}{f' ({words})' if words else ''}"


def _is_trained(rung: Rung, record: ShrinkRecord) -> bool:
    return not rung.excluded or rung.name == record.reference


def _outside(call: _Call, cases: Sequence[Case], tell: _Tell) -> tuple[dict[str, Any] | None, frozenset[str]]:
    """The teacher from elsewhere as an entry of `teachers`, and the cases that a run has trained it on.

    Raises:
        InputError: it is none of these, or cannot be exported.
    """
    teacher = call.teacher
    if teacher is None:
        return None, frozenset()
    if isinstance(teacher, Mapping):
        return {"trained_on": call.trained_on, **teacher}, frozenset()
    path = Path(teacher)
    place, _, stage = ("", "", "") if path.exists() else str(teacher).rpartition(":")
    is_run = path.is_dir() and ((path / StageRecord.FILE).exists() or (path / "stages").is_dir())
    if place or is_run:
        return _exported(call, Path(place) if place else path, stage or None, cases, tell)
    seen = call.trained_on
    if seen not in ("all", "none", "unknown"):
        seen = str(Path(seen).absolute())
    if path.suffix == ".onnx" and path.is_file():
        return {"onnx": str(path.absolute()), "trained_on": seen}, frozenset()
    if path.is_dir():
        return {"predictions": str(path.absolute()), "trained_on": seen}, frozenset()
    raise InputError(
        f"teacher: {teacher} is no folder of predictions, no model file (.onnx), no run and no RUN:STAGE: check "
        "the path"
    )


def _exported(
    call: _Call, run_folder: Path, stage: str | None, cases: Sequence[Case], tell: _Tell
) -> tuple[dict[str, Any], frozenset[str]]:
    """A stage of another run as a model file, with those of the cases that it was trained on."""
    folder = find_stage(run_folder, stage)
    table = folder.parent.parent / TABLE
    target = call.folder / TEACHER_FILE
    export_run(folder, target, plugins=call.plugins)
    entry = {"onnx": str(target.absolute()), "trained_on": "unknown"}
    if not table.exists():
        return entry, frozenset()
    seen = _trained_cases([case for case in read_cases(table) if case.split in ("train", "val")], cases)
    if seen.isdisjoint(case.id for case in cases if case.split != "test"):
        if not seen:
            tell(f"the teacher's run was trained on none of the {len(cases)} cases: trained_on: none")
        return entry | {"trained_on": "none"}, seen
    write_text(call.folder / TEACHER_CASES, "\n".join(sorted(seen)) + "\n")
    return entry | {"trained_on": str((call.folder / TEACHER_CASES).absolute())}, seen


def _trained_cases(trained: Sequence[Case], cases: Sequence[Case]) -> frozenset[str]:
    """The ids of the cases whose images are among those that another run was trained on, or copies of them.

    Where images of that run are no longer there, ids alone decide.
    """
    theirs = [replace(case, id=f"0 {case.id}") for case in trained]
    ours = [replace(case, id=f"1 {case.id}") for case in cases]
    try:
        pairs = find_duplicates([*theirs, *ours])
    except InputError:
        return frozenset({case.id for case in trained} & {case.id for case in cases})
    found = (sorted((pair.first, pair.second)) for pair in pairs)
    return frozenset(second[2:] for first, second in found if first[0] != second[0])


def _seen_test_cases(seen: frozenset[str], cases: Sequence[Case]) -> str:
    tested = {case.id for case in select(cases, split="test")}
    if not (both := tested & seen):
        return ""
    return (
        f"the teacher was trained on {len(both)} of the {len(tested)} test cases, so the last test is not independent: "
        "give a table whose test rows are those of the teacher's run"
    )


def _decided(record: ShrinkRecord, folder: Path, seed: int) -> ShrinkRecord:
    """The record with the Dice of every rung, the verdicts, and the claimed rung.

    Args:
        record: with the networks and the margin.
        folder: of the cross-validation, whose folds are finished.
        seed: of the bootstrap.

    Raises:
        InputError: results are missing.
    """
    variants, _ = group_variants(read_trainings([str(folder)]))
    named = {variant.first.variant: variant for variant in variants}
    reference = named[record.reference]
    decide = partial(_verdicts, named, reference, record.margin, seed)
    candidates = record.candidates
    distilled = decide([f"{rung.name}{DISTILLED}" for rung in candidates])
    plain = decide([rung.name for rung in candidates if rung.name != record.reference])
    outcomes = [distilled[f"{rung.name}{DISTILLED}"].non_inferiority for rung in candidates]
    last, tested = claimed_rung(outcomes), count_tested(outcomes)
    later = {rung.name for rung in candidates[tested:]}
    rungs = []
    for rung in record.rungs:
        own, alone = distilled.get(f"{rung.name}{DISTILLED}"), plain.get(rung.name)
        rungs.append(
            replace(
                rung,
                distilled=_dice(named.get(f"{rung.name}{DISTILLED}")),
                plain=_dice(named.get(rung.name)),
                verdict=None if own is None else own.to_dict(),
                plain_verdict=None if alone is None else alone.to_dict(),
                passing_margin=None if own is None else passing_margin(own),
                exploratory=rung.name in later,
            )
        )
    chosen = "" if last is None else candidates[last].name
    return replace(record, rungs=rungs, chosen=chosen, decided=True)


def _verdicts(
    named: Mapping[str, Variant], reference: Variant, margin: float, seed: int, names: Sequence[str]
) -> dict[str, Verdict]:
    found = compare_variants([(named[name], reference) for name in names], "dice", margin, seed)
    return dict(zip(names, found, strict=True))


def _dice(variant: Variant | None) -> Interval | None:
    """Mean Dice over the cases of all folds, each averaged over seeds."""
    if variant is None:
        return None
    scores = variant.averaged("dice")
    groups = {case.case: case.group for case in variant.cases}
    return bootstrap_mean(list(scores.values()), [groups[name] for name in scores])


def _teacher_words(recipe: Recipe, given: str | Path | Mapping[str, Any] | None) -> str:
    if given is not None:
        return f"from elsewhere ({given})"
    taught = next(stage for stage in recipe.stages.values() if stage.role == "student")
    names = dict.fromkeys(recipe.stages[name].model.name for name in taught.taught_by)
    return f"an ensemble of {len(taught.taught_by)} networks ({', '.join(names)}), trained here"


def _teacher_score(recipe: Recipe, folder: Path, on: Machine) -> Interval | None:
    """Dice of the teacher on the tested cases of all folds, at the size of training; None where it has none of them."""
    name, stage = next((name, stage) for name, stage in recipe.stages.items() if stage.role == "student")
    (teacher,) = stage.teachers.values()
    fabric = make_fabric(on, recipe.fit_settings(name).precision, stage.model.name)
    fabric.launch()
    scores: list[float] = []
    groups: list[str] = []
    for fold in range(1, (recipe.folds or 0) + 1):
        part, place = fold_recipe(recipe, fold), fold_folder(folder, fold)
        cases = read_cases(place / TABLE)
        preprocess = with_intensity(part.data.preprocess(), cases)
        store = prepare_store(cases, preprocess, folder / ".store", keep_small=part.data.keep_small)
        tested = [case for case in select(cases, split="test") if case.masks and not case.is_normal]
        asked = [replace(case, split="train") for case in tested]  # a teacher predicts training cases
        known = select(cases, split="val")  # by which the members of an ensemble count
        inputs = StageInputs(part, name, asked + known, store, preprocess, place / "stages" / name)
        tested = with_predictions(inputs, teacher.members, inputs.of("train"))
        if not tested:
            continue
        found = case_dice(inputs, tested, predict_teacher(inputs, teacher, tested, fabric))
        for case, value in zip(tested, found, strict=True):
            if any(store.mask(row).any() for row in store.rows(case.id)):
                scores.append(value)
                groups.append(case.group_key)
    return bootstrap_mean(scores, groups) if scores else None
