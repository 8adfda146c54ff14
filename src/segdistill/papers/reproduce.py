"""A paper's tables with our numbers: published, ours at the paper's size and at CPU size, and what has not been run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import Recipe, StageRecipe
from segdistill.errors import CasesFailed, InputError
from segdistill.experiment.results import (
    FOLDS_FILE,
    external_folder,
    fold_folder,
    read_folds,
    read_recipe,
)
from segdistill.papers.tables import Paper, PaperPart, PaperRow, Size, Source, read_paper
from segdistill.records import EvaluationRecord, RunRecord, StageRecord
from segdistill.stats.repetitions import better_p, repeated

SIZES: tuple[Size, ...] = ("paper", "cpu")
DEVICES = {"paper": ("gpu", "one GPU"), "cpu": ("cpu", "two processor cores")}
SLICES = "training.slices"
"""Training images of a stage in one epoch, to the batch."""
UNITS = {"parameters": (1e6, "parameters M"), "operations": (1e9, "operations G"), "mb": (1.0, "MB")}
MEASURED, TRAINED, NOT_RUN = "measured", "trained, not evaluated", "not run"


@dataclass(frozen=True)
class Cell:
    """Our numbers of a row at one size.

    Attributes:
        status: measured; trained, not evaluated; not run; or "" where nothing fills it.
        recipe, stage: that fill it.
        run, folder: where it comes from; None where it is not run.
        values: metric -> mean over trainings and folds.
        spread: metric -> its spread, of the paper's kind; None with one training.
        difference: metric -> ours minus the paper's.
        p: metric -> one-sided t-test against the table's reference row; None where there is none.
        done, planned: trainings that were evaluated, and how many there are; `unit` is what they are.
        cost: of the network, as the evaluation recorded it.
        command: that fills it; "" where it is measured. hours: its estimate, with the teachers.
    """

    status: str = ""
    recipe: str = ""
    stage: str = ""
    run: str | None = None
    folder: str | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    spread: dict[str, float | None] = field(default_factory=dict)
    difference: dict[str, float | None] = field(default_factory=dict)
    p: dict[str, float | None] = field(default_factory=dict)
    done: int = 0
    planned: int = 0
    unit: str = "trainings"
    cost: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    hours: float | None = None

    @property
    def is_incomplete(self) -> bool:
        """Whether some trainings of it have no results yet."""
        return self.status == MEASURED and self.done < self.planned


@dataclass(frozen=True)
class Command:
    """A run that fills rows.

    Attributes:
        recipe: its name. stages: that the rows need.
        changes: of the recipe. folder: of the run.
        size: "paper" or "cpu".
        hours: estimated, on a GPU or on two cores, with the teachers of the stages; None without torch.
        external: names of tables from elsewhere that the user must give.
    """

    recipe: str
    stages: tuple[str, ...]
    changes: dict[str, int]
    folder: Path
    size: Size
    hours: float | None = None
    external: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As typed.

        >>> str(Command("lanet/busi", ("lanet_r18",), {"size": 512}, Path("runs/lanet/busi-size-512"), "paper"))
        'segdistill run lanet/busi --stages lanet_r18 --set size=512 --out runs/lanet/busi-size-512'
        """
        words = ["segdistill run", self.recipe, "--stages", ",".join(self.stages)]
        words += [f"--set {key}={value}" for key, value in self.changes.items()]
        words += [f"--set external.{name}={name.upper()}_TABLE" for name in self.external]
        if self.folder != Path("runs") / self.recipe:
            words += ["--out", self.folder.as_posix()]
        return " ".join(words)


def compare_with_paper(paper: str, runs: Path, table: str | None = None) -> list[dict[str, Any]]:
    """The tables of a paper beside the results in a folder of runs.

    Args:
        paper: lightbtseg, usseg, amtd, lanet or lightvessel.
        runs: folder below which runs and cross-validations are looked for.
        table: only this one.

    Returns:
        One entry per table, or part of one: number, title, metrics, spread_kind, note, sizes (size -> the recipe, its
        image size, and the runs that stand in the column), rows and commands (`Command`). A row has its name, the
        published numbers and spreads, `ours` (size -> `Cell` as plain types), its counted cost, and the reason where
        it cannot be run.

    Raises:
        InputError: unknown paper or table.

    >>> found = compare_with_paper("lightbtseg", Path("nowhere"), "3")[0]["rows"][0]["ours"]["paper"]
    >>> found["status"], found["stage"]
    ('not run', 'student_single')
    """
    content = read_paper(paper)
    if table is not None and table not in content.tables:
        raise InputError(f"{paper} has no table {table}: it has {', '.join(content.tables)}")
    found = _find_runs(runs)
    return [
        _Table(content, part, found, runs).to_dict() | {"table": name}
        for name, parts in content.tables.items()
        if table in (None, name)
        for part in parts
    ]


def commands(tables: Sequence[Mapping[str, Any]], size: Size | None = None) -> list[Command]:
    """The runs that fill what is missing in tables, each recipe once, with the stages of all of them."""
    merged: dict[tuple[Any, ...], Command] = {}
    for stated in (one for table in tables for one in table["commands"]):
        command = Command(**{key: value for key, value in stated.items() if key != "command"})
        if size not in (None, command.size):
            continue
        key = (command.recipe, command.folder, command.size)
        known = merged.get(key)
        stages = (*known.stages, *command.stages) if known else command.stages
        external = (*known.external, *command.external) if known else command.external
        merged[key] = _command(
            command.recipe,
            tuple(dict.fromkeys(stages)),
            command.changes,
            command.folder,
            command.size,
            tuple(dict.fromkeys(external)),
        )
    return list(merged.values())


def _command(
    recipe: str,
    stages: tuple[str, ...],
    changes: dict[str, int],
    folder: Path,
    size: Size,
    external: tuple[str, ...] = (),
) -> Command:
    hours = None
    with suppress(ImportError):  # torch is not installed
        from segdistill.papers.hours import stage_hours

        whole = _recipe(recipe, tuple(changes.items()))
        hours = round(stage_hours(whole, whole.with_teachers(list(stages)), DEVICES[size][0]), 2)
    return Command(recipe, stages, changes, folder, size, hours, external)


@dataclass(frozen=True)
class _Run:
    """A run, or a cross-validation, whose folds are the parts."""

    folder: Path
    recipe: str
    parts: tuple[Path, ...]
    folds: int = 0

    @cached_property
    def content(self) -> dict[str, Any]:
        """Its resolved recipe; empty where it cannot be read. It is read once for all tables."""
        return read_recipe(self.parts[0])

    @property
    def data(self) -> dict[str, Any]:
        """The part of its recipe on data."""
        data = self.content.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def sides(self) -> tuple[int, ...] | None:
        """Height and width of its images; None where they are not known."""
        size = self.data.get("size")
        sides = tuple(size[-2:]) if isinstance(size, list) else (size, size)
        return sides if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None

    @cached_property
    def variants(self) -> dict[str, list[str]]:
        """Variant -> its stages, one per seed, whether they have been trained or not."""
        found: dict[str, list[str]] = {}
        for name, stage in (self.content.get("stages") or {}).items():
            found.setdefault(stage.get("variant") or name, []).append(name)
        return found

    @property
    def label(self) -> str:
        """Recipe, size, data and number of folds, for the line above a table."""
        size = self.data.get("size", "size unknown")
        sides = (
            size
            if isinstance(size, str)
            else "x".join(map(str, size if isinstance(size, list) else [size] * 2))
        )
        record = RunRecord.read(self.parts[0])
        data = self.data.get("dataset") or (record.data if record is not None else "data unknown")
        folds = f", {self.folds} folds" if self.folds else ""
        return f"{self.recipe} ({sides}) on {data}{folds}"


def _find_runs(folder: Path) -> list[_Run]:
    """All runs and cross-validations below a folder."""
    found: dict[Path, _Run] = {}
    folds: set[Path] = set()
    for path in folder.glob(f"**/{FOLDS_FILE}"):
        facts = read_folds(path.parent)
        own = [fold_folder(path.parent, fold) for fold in range(1, facts.get("folds", 0) + 1)]
        if parts := tuple(part for part in own if (part / RunRecord.FILE).exists()):
            found[path.parent] = _Run(path.parent, facts.get("recipe", ""), parts, len(own))
        folds |= set(own)
    for path in folder.glob(f"**/{RunRecord.FILE}"):
        record = RunRecord.read(path.parent)
        if path.parent not in folds and record is not None:
            found[path.parent] = _Run(path.parent, record.recipe, (path.parent,))
    return [found[place] for place in sorted(found)]


@cache
def _bundled() -> frozenset[str]:
    return frozenset(bundled_recipes())


@cache
def _recipe(name: str, changes: tuple[tuple[str, int], ...] = ()) -> Recipe:
    return load_recipe(name, dict(changes))


def _stands_for(run: _Run, recipe: str, named: set[str]) -> bool:
    """Whether a run has the stages of a recipe: it is of it, or on the same dataset and has two of the stages named.

    These must also be half of them, but for a recipe of the same paper, where either is enough. Baselines do not count:
    most recipes have one, nor do stages with other settings under the same name.
    """
    if run.recipe == recipe:
        return True
    if recipe not in _bundled():
        return False
    known, dataset = _recipe(recipe), run.data.get("dataset")
    if dataset is None or dataset != known.data.dataset:
        return False
    baselines = {known.variant(name) for name, stage in known.stages.items() if stage.role == "baseline"}
    shared = [stage for stage in named - baselines if _agrees(run, Source(recipe, stage))]
    two, half = len(shared) >= 2, 2 * len(shared) >= len(named) > 0
    same_paper = run.recipe.split("/")[0] == recipe.split("/")[0]
    return two or half if same_paper else two and half


def _agrees(run: _Run, source: Source) -> bool:
    """Whether a run's stage is the one that a recipe has under this name: all runs of the recipe have it.

    One of another recipe is where all agrees that decides its result but size, epochs and the other training settings.
    """
    if run.recipe == source.recipe:
        return True
    names = run.variants.get(source.stage)
    if not names or source.recipe not in _bundled():
        return False
    try:
        own = StageRecipe.model_validate(run.content["stages"][names[0]])
    except (ValidationError, InputError):
        return False
    known = _recipe(source.recipe)
    return any(_facts(own) == _facts(known.stages[name]) for name in known.named(source.stage)[:1])


def _facts(stage: StageRecipe) -> dict[str, Any]:
    """What decides a stage's result but its seed, also at the end of other stages' names, and but for its cache."""
    facts = stage.facts() | {"sites": stage.sites, "locations": stage.locations, "cache": None}
    found: dict[str, Any] = json.loads(re.sub(r"@\d+", "", json.dumps(facts)))
    return found


class _Table:
    """One part of a paper, and the runs that may fill it."""

    def __init__(self, paper: Paper, part: PaperPart, runs: Sequence[_Run], folder: Path) -> None:
        self.paper, self.part, self.runs, self.folder = paper, part, runs, folder
        self.metrics = paper.metrics_of(part)
        self.sides = {size: self._sides(size) for size in SIZES}

    def _sides(self, size: Size) -> tuple[int, int] | None:
        """Height and width of the images of a column; None where its recipe is not bundled."""
        own = self.part.recipe if size == "paper" else self.part.cpu
        changes = tuple(self._changes(size).items())
        return _recipe(own, changes).data.height_width if own in _bundled() else None

    def _changes(self, size: Size) -> dict[str, int]:
        return self.part.set if size == "paper" else self.part.cpu_set

    def sources(self, row: PaperRow, size: Size) -> list[Source]:
        """The stages that fill a row; at CPU size without those that the recipe lacks."""
        own = self.part.recipe if size == "paper" else self.part.cpu
        return [
            source
            for source in row.sources(size, own)
            if source.recipe not in _bundled() or _recipe(source.recipe).named(source.stage)
        ]

    @cached_property
    def _named(self) -> dict[str, set[str]]:
        """Recipe -> its stages that the rows name."""
        found: dict[str, set[str]] = {}
        for row in self.part.rows:
            for size in SIZES:
                for source in self.sources(row, size):
                    found.setdefault(source.recipe, set()).add(source.stage)
        return found

    @cached_property
    def _columns(self) -> list[tuple[_Run, str, Size]]:
        """Each run that has numbers for the table, the recipe that it stands for, and its column; the best first."""
        found: list[tuple[_Run, str, Size]] = []
        for run in self.runs:
            column = self._column(run)
            if column is not None:
                fits = [name for name, named in self._named.items() if _stands_for(run, name, named)]
                found += [(run, recipe, column) for recipe in fits]
        return sorted(found, key=lambda one: (one[0].recipe != one[1], one[0].folder))

    def _column(self, run: _Run) -> Size | None:
        """The column whose images have exactly the size of a run's; None where neither has.

        A run of a recipe for processor cores stands in their column alone, and one at the paper's own size never there.
        """
        if self.part.recipe not in _bundled():
            return "cpu" if run.recipe == self.part.cpu != self.part.recipe else "paper"
        if run.sides is None:
            return None
        own = _recipe(self.part.recipe).data.height_width[0]
        small = run.recipe in _bundled() and _recipe(run.recipe).data.height_width[0] < own
        if run.sides == self.sides["paper"] and not small:
            return "paper"
        smaller = small or run.sides[0] < own
        return "cpu" if smaller and run.sides == self.sides["cpu"] else None

    def to_dict(self) -> dict[str, Any]:
        """As `compare_with_paper` returns it."""
        cells = {size: {row.name: self._cell(row, size) for row in self.part.rows} for size in SIZES}
        rows = [self._row(row, {size: cells[size][row.name] for size in SIZES}) for row in self.part.rows]
        return {
            "title": self.part.title,
            "metrics": self.metrics,
            "spread_kind": self.paper.spread,
            "reference": self.part.reference or None,
            "figures": [
                {**figure.model_dump(), "metrics": self.metrics if figure.metrics is None else figure.metrics}
                for figure in self.part.figures
            ],
            "sizes": {size: self._size(size, cells[size].values()) for size in SIZES},
            "rows": rows,
            "commands": [
                asdict(one) | {"command": str(one)}
                for size in SIZES
                for one in self._missing(size, cells[size])
            ],
            "note": self.part.note,
        }

    def _size(self, size: Size, cells: Iterable[tuple[Cell, Any]]) -> dict[str, Any]:
        own = self.part.recipe if size == "paper" else self.part.cpu
        runs = {cell.folder: cell.run for cell, _ in cells if cell.run is not None}
        sides = self.sides[size]
        return {"recipe": own or None, "side": None if sides is None else sides[0], "runs": runs}

    def _cell(self, row: PaperRow, size: Size) -> tuple[Cell, dict[str, list[float]]]:
        """Our numbers of a row, and the value of every training behind them."""
        sources = self.sources(row, size)
        others = [] if size == "paper" else self.sources(row, "paper")
        best: Cell | None = None
        for source in [*sources, *others]:
            for run, recipe, column in self._columns:
                if recipe == source.recipe and column == size and _agrees(run, source):
                    cell, values = self._measured(row, source, run)
                    if cell.status == MEASURED:
                        return cell, values
                    best = best or (cell if cell.status == TRAINED else None)
        if best is not None:
            return best, {}
        if not sources:
            return Cell(), {}
        return Cell(NOT_RUN, *sources[0]), {}

    def _measured(self, row: PaperRow, source: Source, run: _Run) -> tuple[Cell, dict[str, list[float]]]:
        stages = run.variants.get(source.stage, [source.stage])
        records = [_read(part / "stages" / name, row.external) for part in run.parts for name in stages]
        done = [one for one in records if one is not None]
        planned = max(run.folds, 1) * len(stages)
        unit = "trainings" if not run.folds else "folds" if len(stages) == 1 else "folds and seeds"
        place: dict[str, Any] = {
            "run": run.label,
            "folder": str(run.folder),
            "planned": planned,
            "unit": unit,
        }
        groups = row.labels if row.site is None else [f"site {row.site}"]
        values = {
            metric: [v for one in done if (v := _value(one, metric, groups)) is not None]
            for metric in self.metrics
        }
        if SLICES in self.metrics:
            places = [part / "stages" / name for part in run.parts for name in stages]
            values[SLICES] = [v for place in places if (v := _slices(place, run.content)) is not None]
        if not any(values.values()):
            folders = [part / "stages" / name for part in run.parts for name in stages]
            trained = any((record := StageRecord.read(f)) is not None and record.is_finished for f in folders)
            return Cell(TRAINED if trained else NOT_RUN, *source, **place), {}
        published = dict(zip(self.metrics, row.values or [None] * len(self.metrics), strict=True))
        means = {metric: fmean(found) if found else None for metric, found in values.items()}
        return Cell(
            MEASURED,
            *source,
            **place,
            values=means,
            spread={metric: self._spread(found) for metric, found in values.items()},
            difference={metric: _minus(means[metric], published[metric]) for metric in self.metrics},
            done=len(done),
            cost={key: value for key, value in asdict(done[0].cost).items() if value},
        ), values

    def _spread(self, values: list[float]) -> float | None:
        if len(values) < 2:
            return None
        return repeated(values).half if self.paper.spread == "t_interval" else stdev(values)

    def _row(
        self, row: PaperRow, cells: Mapping[Size, tuple[Cell, dict[str, list[float]]]]
    ) -> dict[str, Any]:
        cost = self._cost(row)
        published = None if row.values is None else dict(zip(self.metrics, row.values, strict=True))
        spreads = None if row.spreads is None else dict(zip(self.metrics, row.spreads, strict=True))
        ours = {}
        for size, (cell, values) in cells.items():
            own = self._command_for([row], size, cell)
            ours[size] = asdict(cell) | {
                "incomplete": cell.is_incomplete,
                "p": self._p(row, size, values),
                "command": "" if own is None else str(own),
                "hours": None if own is None else own.hours,
            }
        return {
            "name": row.name,
            "line": row.line or None,
            "at": row.at,
            "published": published,
            "published_spread": spreads,
            "ours": ours,
            "cost": cost,
            "not_run": row.not_run,
        }

    def _p(self, row: PaperRow, size: Size, values: dict[str, list[float]]) -> dict[str, float]:
        """The paper's test of each metric: that the reference row is not better than this one."""
        if not self.part.reference or row.name == self.part.reference or not values:
            return {}
        wanted = next(other for other in self.part.rows if other.name == self.part.reference)
        _, best = self._cell(wanted, size)
        found = {metric: better_p(best.get(metric, []), values[metric]) for metric in values}
        return {metric: p for metric, p in found.items() if p is not None}

    def _cost(self, row: PaperRow) -> dict[str, dict[str, float]] | None:
        """Its network's cost, printed and counted, in the paper's convention; None where the row names none."""
        if not row.network:
            return None
        try:
            from segdistill.papers.costs import published_cost
        except ImportError:  # torch is not installed
            return None

        found = published_cost(self.paper.title, row.network)
        return {key: {"published": printed, "counted": counted} for key, (printed, counted) in found.items()}

    def _missing(self, size: Size, cells: Mapping[str, tuple[Cell, Any]]) -> Iterator[Command]:
        """The runs that fill what is empty in a column."""
        by_recipe: dict[str, list[PaperRow]] = {}
        for row in self.part.rows:
            if self._command_for([row], size, cells[row.name][0]) is not None:
                by_recipe.setdefault(self.sources(row, size)[0].recipe, []).append(row)
        for rows in by_recipe.values():
            command = self._command_for(rows, size)
            assert command is not None
            yield command

    def _command_for(self, rows: Sequence[PaperRow], size: Size, cell: Cell | None = None) -> Command | None:
        """The run that fills rows of one recipe; None where the cell needs none, or the recipe is not ours."""
        first = [(self.sources(row, size) or [Source("", "")])[0] for row in rows]
        recipe = first[0].recipe
        settled = cell is not None and (
            not cell.status or (cell.status == MEASURED and not cell.is_incomplete)
        )
        if settled or recipe not in _bundled():
            return None
        own = self.part.recipe if size == "paper" else self.part.cpu
        changes = self._changes(size) if recipe == own else {}
        folder = self.folder / "-".join([recipe, *(f"{key}-{value}" for key, value in changes.items())])
        external = dict.fromkeys(row.external for row in rows if row.external)
        stages = tuple(dict.fromkeys(source.stage for source in first))
        return _command(recipe, stages, changes, folder, size, tuple(external))


def _minus(ours: float | None, published: float | None) -> float | None:
    return None if ours is None or published is None else round(ours - published, 4)


def _read(stage: Path, external: str) -> EvaluationRecord | None:
    return EvaluationRecord.read(external_folder(stage, external) if external else stage)


def _slices(stage: Path, recipe: Mapping[str, Any]) -> float | None:
    """Training images of a finished stage in one epoch, from its steps: whole batches."""
    record = StageRecord.read(stage)
    if record is None or not record.steps or not record.epochs:
        return None
    own = (recipe.get("stages") or {}).get(stage.name, {}).get("fit") or {}
    fit = {**(recipe.get("fit") or {}), **own}
    images: float = record.steps / record.epochs * fit.get("batch_size", 1) * fit.get("accumulate", 1)
    return images


def _value(evaluated: EvaluationRecord, metric: str, groups: list[str]) -> float | None:
    """The mean of a metric; over several groups of cases that over all their cases."""
    scores = [evaluated.score(metric, group) for group in groups]
    known = [(score.mean, score.n) for score in scores if score is not None and score.mean is not None]
    cases = sum(n for _, n in known)
    if len(known) < len(groups) or not cases:
        return None
    return sum(mean * n for mean, n in known) / cases


def run_missing(
    paper: str,
    runs: Path,
    size: Size,
    *,
    table: str | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
    **named: Any,
) -> Iterator[str]:
    """Runs what is missing in a paper's tables, one recipe after the other; a run that fails does not stop the others.

    Args:
        paper: as for `compare_with_paper`.
        runs: folder below which runs are looked for and written.
        size: "paper" or "cpu".
        table: only this one.
        changes: of every recipe.
        named: further arguments of `segdistill.run`, such as data, device, jobs.

    Yields:
        A line before each run.

    Raises:
        CasesFailed: some of them failed; it names each with its reason.
    """
    from segdistill.experiment.run import run
    from segdistill.training.checkpoint import TrainingStopped

    failed: dict[str, str] = {}
    found = commands(compare_with_paper(paper, runs, table), size)
    for number, command in enumerate(found, 1):
        yield f"run {number} of {len(found)}: {command}"
        lacking = [name for name in command.external if f"external.{name}" not in changes]
        if lacking:
            yield f"rows on {', '.join(lacking)} stay empty: add --set external.NAME=TABLE to fill them"
        try:
            result = run(
                command.recipe,
                out=command.folder,
                set={**command.changes, **changes},
                stages=command.stages,
                **named,
            )
        except (InputError, TrainingStopped, CasesFailed) as error:
            failed[command.recipe] = str(error)
        else:
            failed |= {command.recipe: result.failed} if result.failed else {}
    if failed:
        told = "; ".join(f"{recipe}: {why}" for recipe, why in failed.items())
        raise CasesFailed(f"{len(failed)} of {len(found)} runs failed: {told}")


def has_results(table: Mapping[str, Any]) -> bool:
    """Whether a run of ours stands in a table.

    >>> has_results({"rows": [{"ours": {"paper": {"status": "not run"}}}]})
    False
    """
    return any(cell["status"] == MEASURED for row in table["rows"] for cell in row["ours"].values())


def render(tables: Sequence[Mapping[str, Any]], everything: bool = True) -> str:
    """The tables of `compare_with_paper` as text: a line per metric, with the paper's number and ours at both sizes.

    Without `everything` a table that no run fills is not printed, but named with the commands that fill it.

    >>> cell = {"status": "not run", "values": {}}
    >>> row = {"name": "KD", "published": {"dice": 0.765}, "ours": {"paper": cell}, "not_run": "", "cost": None}
    >>> sizes = {"paper": {"side": 384, "runs": {}}}
    >>> table = {"title": "T", "metrics": ["dice"], "rows": [row], "note": "", "sizes": sizes, "commands": [],
    ...          "spread_kind": "sd"}
    >>> print(render([table]).splitlines()[2].split())
    ['KD', 'dice', '0.7650', 'not', 'run']
    """
    lines: list[str] = []
    shown = [table for table in tables if everything or has_results(table)]
    for table in shown:
        lines += [*_table_lines(table), *_command_lines(commands([table]), "empty here: "), ""]
    hidden = [table for table in tables if table not in shown]
    if hidden:
        lines += ["Tables without a run of ours:", *(f"  {_title(table)}" for table in hidden)]
        lines += _command_lines(commands(hidden), "")
        lines += ["The published numbers: add --all, or --table with the number of one table."]
    return "\n".join(lines).rstrip()


def _title(table: Mapping[str, Any]) -> str:
    reasons = {row["not_run"] for row in table["rows"]}
    reason = reasons.pop() if len(reasons) == 1 else ""
    return f"{table['title']}{f': {reason}' if reason else ''}"


def _table_lines(table: Mapping[str, Any]) -> Iterator[str]:
    yield table["title"]
    sizes = [size for size in SIZES if size in table["sizes"] and _is_used(table, size)]
    heads = ["", "", "paper"]
    for size in sizes:
        heads += [_head(table, size), "difference"]
    if not sizes:  # of costs, or of what cannot be run
        heads += ["ours", "difference"]
    body = [line for row in table["rows"] for line in _row_lines(row, table, sizes)]
    body = [[*line, *[""] * (len(heads) - len(line))] for line in body]
    used = [k for k in range(len(heads)) if k < 3 or any(line[k] for line in body)]
    chosen = [[line[k] for k in used] for line in [heads, *body]]
    widths = [max(len(line[k]) for line in chosen) for k in range(len(used))]
    for line in chosen:
        left = [f"{text:<{width}}" for text, width in zip(line[:2], widths[:2], strict=True)]
        right = [f"{text:>{width}}" for text, width in zip(line[2:], widths[2:], strict=True)]
        yield "  ".join([*left, *right]).rstrip()
    kind = {"sd": "standard deviation", "t_interval": "95 % interval of Student's t, half its width"}
    if any("±" in text for line in body for text in line):
        yield f"±: {kind[table['spread_kind']]}, over trainings and folds"
    for size in sizes:
        for folder, run in table["sizes"][size]["runs"].items():
            yield f"{_head(table, size)}: {run}, {folder}"
    if table["note"]:
        yield f"note: {table['note']}"


def _is_used(table: Mapping[str, Any], size: Size) -> bool:
    return any(row["ours"].get(size, {}).get("status") for row in table["rows"])


def _head(table: Mapping[str, Any], size: Size) -> str:
    side = table["sizes"][size]["side"]
    words = "ours, paper's size" if size == "paper" else "ours, CPU size"
    return words + (f" ({side})" if side else "")


def _row_lines(
    row: Mapping[str, Any], table: Mapping[str, Any], sizes: Sequence[Size]
) -> Iterator[list[str]]:
    name = row["name"]
    for metric in table["metrics"]:
        line = [
            name,
            metric.replace(".", " "),
            _number(row["published"], row.get("published_spread"), metric),
        ]
        for size in sizes:
            line += _cell_text(row["ours"][size], metric)
        if row["not_run"]:
            line[3:] = [f"({row['not_run']})"]
        yield line
        name = ""
    for key, found in (row["cost"] or {}).items():
        scale, words = UNITS[key]
        printed, counted = (found[whose] / scale for whose in ("published", "counted"))
        own = [f"{counted:.3f} counted", f"{counted - printed:+.3f}"]
        yield [name, words, f"{printed:.3f}", *own]
        name = ""


def _cell_text(cell: Mapping[str, Any], metric: str) -> list[str]:
    if cell["status"] != MEASURED:
        return [cell["status"], ""]
    text = _number(cell["values"], cell["spread"], metric)
    if cell["done"] < cell["planned"]:
        text += f" ({cell['done']} of {cell['planned']} {cell['unit']})"
    difference = cell["difference"].get(metric)
    return [text, "" if difference is None else f"{difference:+.{4 if abs(difference) < 10 else 0}f}"]


def _number(values: Mapping[str, Any] | None, spreads: Mapping[str, Any] | None, metric: str) -> str:
    value, spread = ((found or {}).get(metric) for found in (values, spreads))
    if value is None:
        return "-"
    digits = 4 if value < 10 else 0
    return f"{value:.{digits}f}" + ("" if spread is None else f"±{spread:.{digits}f}")


def _command_lines(found: Sequence[Command], words: str) -> Iterator[str]:
    for command in found:
        hours = (
            ""
            if command.hours is None
            else f"   (about {_hours(command.hours)} on {DEVICES[command.size][1]})"
        )
        yield f"{words}{command}{hours}"


def _hours(hours: float) -> str:
    """Hours in words.

    >>> _hours(0.2), _hours(3.4), _hours(250)
    ('12 minutes', '3.4 hours', '250 hours')
    """
    if hours < 1:
        return f"{max(1, round(60 * hours))} minutes"
    return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"
