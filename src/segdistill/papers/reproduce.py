"""A paper's tables with our numbers: published, ours, the difference, and what has not been run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import Recipe
from segdistill.errors import InputError
from segdistill.experiment.results import (
    FOLDS_FILE,
    external_folder,
    fold_folder,
    read_folds,
    read_recipe,
)
from segdistill.papers.tables import PaperPart, PaperRow, read_paper
from segdistill.records import EvaluationRecord, RunRecord

NAME, PLAIN, SPREAD = 36, (10, 8, 8), (17, 15, 8)
"""Widths of the row's name, and of published, ours and difference without and with a spread."""


def render(tables: list[dict[str, Any]], everything: bool = True) -> str:
    """The tables of `compare_with_paper` as text: published, ours and difference for each metric.

    Without `everything` a table that no run fills is not printed, but named with the command that fills it.

    >>> row = {"name": "KD", "published": {"dice": 0.765}, "ours": None, "difference": None, "not_run": "no stage"}
    >>> table = {"title": "T", "run": None, "recipe": "r", "metrics": ["dice"], "rows": [row], "note": ""}
    >>> print(render([table]).splitlines()[-1].split())
    ['KD', '0.7650', 'not', 'run', '(no', 'stage)']
    """
    lines: list[str] = []
    for table in tables if everything else [table for table in tables if table["run"]]:
        spread = any(row.get("published_spread") or row.get("ours_spread") for row in table["rows"])
        widths = SPREAD if spread else PLAIN
        metrics = table["metrics"]
        lines += [f"{table['title']}   [{_source(table)}]"]
        lines += [" " * NAME + "".join(f"{metric.replace('.', ' '):>{sum(widths)}}" for metric in metrics)]
        titles = "".join(
            f"{word:>{width}}" for word, width in zip(("paper", "ours", "diff"), widths, strict=True)
        )
        lines += [" " * NAME + titles * len(metrics)]
        lines += [_line(row, metrics, widths) for row in table["rows"]]
        lines += [f"note: {table['note']}", ""] if table["note"] else [""]
    empty = [] if everything else [table for table in tables if not table["run"]]
    return "\n".join(lines + (_commands(empty) if empty else []))


def _source(table: dict[str, Any]) -> str:
    """Which run has filled a table, and its folder, since several runs may be of one recipe."""
    if table["run"]:
        return f"{table['run']}, {table['folder']}"
    return f"not run: segdistill run {table['recipe']}"


def _commands(tables: list[dict[str, Any]]) -> list[str]:
    """The commands that fill tables, and the tables that cannot be filled."""
    by_recipe: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        by_recipe.setdefault((table["recipes"] or [""])[0], []).append(table)
    without = by_recipe.pop("", [])
    lines = ["No run fills these tables yet:"] if by_recipe else []
    for recipe, filled in by_recipe.items():
        others = dict.fromkeys(other for table in filled for other in table["recipes"][1:])
        lines += [f"  segdistill run {recipe}", *(f"      {table['title']}" for table in filled)]
        lines += [f"      or, at another size or in part: {', '.join(others)}"] if others else []
    lines += ["These cannot be run:"] if without else []
    lines += [f"      {table['title']}: {table['rows'][0]['not_run']}" for table in without]
    return [*lines, "The published numbers: add --all, or --table with the number of one table."]


def _line(row: dict[str, Any], metrics: list[str], widths: tuple[int, int, int]) -> str:
    cells = []
    for metric in metrics:
        paper = _number(row, "published", metric) or "-"
        ours = _number(row, "ours", metric) or ("-" if row["ours"] else "not run")
        difference = (row["difference"] or {}).get(metric)
        signed = "" if difference is None else f"{difference:+.4f}"
        cells += [f"{text:>{width}}" for text, width in zip((paper, ours, signed), widths, strict=True)]
    reason = f"  ({row['not_run']})" if row.get("not_run") else ""
    return f"{row['name']:{NAME}}" + "".join(cells).rstrip() + reason


def _number(row: dict[str, Any], whose: str, metric: str) -> str:
    value, spread = ((row.get(key) or {}).get(metric) for key in (whose, f"{whose}_spread"))
    if value is None:
        return ""
    return f"{value:.4f}" + ("" if spread is None else f"±{spread:.4f}")


@dataclass(frozen=True)
class _Run:
    """A run, or a cross-validation, whose folds are the parts."""

    folder: Path
    recipe: str
    parts: tuple[Path, ...]

    @cached_property
    def content(self) -> dict[str, Any]:
        """Its resolved recipe; empty where it cannot be read. It is read once for all tables."""
        return read_recipe(self.parts[0])

    @property
    def data(self) -> dict[str, Any]:
        """The part of its recipe on data."""
        data = self.content.get("data")
        return data if isinstance(data, dict) else {}

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
        folds = f", {len(self.parts)} folds" if len(self.parts) > 1 else ""
        return f"{self.recipe} ({sides}) on {data}{folds}"


def compare_with_paper(paper: str, runs: Path, table: str | None = None) -> list[dict[str, Any]]:
    """The paper's tables with our numbers filled in.

    Our numbers come from runs anywhere below `runs`: those of the table's recipe first, then those of other recipes on
    the same dataset with stages of the same names (such as lightbtseg/cpu); each is labelled with its recipe and size.
    Numbers of several seeds or folds are their mean, with the standard deviation.

    Args:
        paper: one of `published_papers`.
        runs: folder with runs.
        table: only this one.

    Returns:
        One entry per table and run: title, recipe, recipes (all whose runs fill it; none where it cannot be run), run
        and its folder (None: not run), metrics, note, and rows with published, ours and difference (None where there
        is none), their spreads, and the reason if a row cannot be run.

    Raises:
        InputError: unknown paper or table.

    >>> compare_with_paper("lightbtseg", Path("nowhere"), "3")[0]["rows"][0]["ours"] is None
    True
    """
    content = read_paper(paper)
    if table is not None and table not in content.tables:
        raise InputError(f"{paper} has no table {table}: it has {', '.join(content.tables)}")
    found = _find_runs(runs)
    compared = []
    for name, parts in content.tables.items():
        if table not in (None, name):
            continue
        for part in parts:
            tables = [_compare(part, content.metrics_of(part), run) for run in _runs_for(part, found)]
            filled = [one for one in tables if any(row["ours"] for row in one["rows"])]
            compared += filled or [_compare(part, content.metrics_of(part), None)]
    return compared


def _find_runs(folder: Path) -> list[_Run]:
    """All runs and cross-validations below a folder."""
    found: dict[Path, _Run] = {}
    folds: set[Path] = set()
    for path in folder.glob(f"**/{FOLDS_FILE}"):
        facts = read_folds(path.parent)
        own = [fold_folder(path.parent, fold) for fold in range(1, facts.get("folds", 0) + 1)]
        if parts := tuple(part for part in own if (part / RunRecord.FILE).exists()):
            found[path.parent] = _Run(path.parent, facts.get("recipe", ""), parts)
        folds |= set(own)
    for path in folder.glob(f"**/{RunRecord.FILE}"):
        record = RunRecord.read(path.parent)
        if path.parent not in folds and record is not None:
            found[path.parent] = _Run(path.parent, record.recipe, (path.parent,))
    return [found[place] for place in sorted(found)]


def _runs_for(part: PaperPart, runs: list[_Run]) -> list[_Run]:
    """Runs of the table's recipe first, then others that fit it."""
    found = [run for run in runs if _fits(part, run.recipe, run.data.get("dataset"), run.variants)]
    return sorted(found, key=lambda run: (run.recipe != part.recipe, run.folder))


def _fits(part: PaperPart, recipe: str, dataset: object, variants: Iterable[str]) -> bool:
    """Whether a run of a recipe has numbers for a table.

    It has if it is the recipe that the table names, or is on the same dataset and has two of the table's stages and
    half of them; of the recipes of the same paper either is enough. Baselines do not count: most recipes have one.
    """
    if recipe == part.recipe:
        return True
    known = _known_recipes().get(part.recipe)
    if known is None or dataset is None or dataset != known.data.dataset:
        return False
    named = {row.stage for row in part.rows if row.stage}
    baselines = {known.variant(name) for name, stage in known.stages.items() if stage.role == "baseline"}
    shared = (named - baselines) & set(variants)
    two, half = len(shared) >= 2, 2 * len(shared) >= len(named) > 0
    same_paper = recipe.split("/")[0] == part.recipe.split("/")[0]
    return two or half if same_paper else two and half


@cache
def _known_recipes() -> dict[str, Recipe]:
    return {name: load_recipe(name) for name in bundled_recipes()}


def _filling(part: PaperPart) -> list[str]:
    """The recipes that fill a table: its own, those of its paper, others; none where no row can be run."""
    if not any(row.stage for row in part.rows):
        return []
    paper = part.recipe.split("/")[0]
    fit = [
        name
        for name, recipe in _known_recipes().items()
        if _fits(part, name, recipe.data.dataset, map(recipe.variant, recipe.stages))
    ]
    return sorted(
        {part.recipe, *fit}, key=lambda name: (name != part.recipe, name.split("/")[0] != paper, name)
    )


def _compare(part: PaperPart, metrics: list[str], run: _Run | None) -> dict[str, Any]:
    return {
        "title": part.title,
        "recipe": part.recipe,
        "recipes": _filling(part),
        "run": run.label if run else None,
        "folder": str(run.folder) if run else None,
        "metrics": metrics,
        "rows": [_row(row, metrics, run) for row in part.rows],
        "note": part.note,
    }


def _row(row: PaperRow, metrics: list[str], run: _Run | None) -> dict[str, Any]:
    published = None if row.values is None else dict(zip(metrics, row.values, strict=True))
    spreads = None if row.spreads is None else dict(zip(metrics, row.spreads, strict=True))
    measured = {metric: _measured(run, row, metric) for metric in metrics} if run else {}
    ours = {metric: fmean(values) if values else None for metric, values in measured.items()}
    known = any(value is not None for value in ours.values())
    both = {m: (ours.get(m), (published or {}).get(m)) for m in metrics}
    difference = {
        m: None if ours is None or paper is None else round(ours - paper, 4)
        for m, (ours, paper) in both.items()
    }
    folds = {m: stdev(values) if len(values) > 1 else None for m, values in measured.items()}
    return {
        "name": row.name,
        "published": published,
        "published_spread": spreads,
        "ours": ours if known else None,
        "ours_spread": folds if any(value is not None for value in folds.values()) else None,
        "difference": difference if published is not None and known else None,
        "not_run": row.not_run,
    }


def _measured(run: _Run | None, row: PaperRow, metric: str) -> list[float]:
    """The metric in every part of a run; empty where a part lacks it."""
    if run is None or row.stage is None:
        return []
    stages = run.variants.get(row.stage, [row.stage])
    evaluated = [one for part in run.parts for one in _evaluations(part, row, stages)]
    groups = row.labels if row.site is None else [f"site {row.site}"]
    values = [_value(one, metric, groups) for one in evaluated]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _evaluations(run: Path, row: PaperRow, stages: list[str]) -> list[EvaluationRecord | None]:
    """The evaluations of a row's stage: of each seed that was evaluated, or of another dataset with `external`."""
    folders = [run / "stages" / name for name in stages]
    if row.external:
        folders = [external_folder(folder, row.external) for folder in folders]
    found = [EvaluationRecord.read(folder) for folder in folders]
    return [one for one in found if one is not None] or [None]


def _value(evaluated: EvaluationRecord | None, metric: str, groups: list[str]) -> float | None:
    """The mean of a metric; over several groups of cases that over all their cases."""
    scores = [evaluated.score(metric, group) for group in groups] if evaluated is not None else []
    known = [(score.mean, score.n) for score in scores if score is not None and score.mean is not None]
    cases = sum(n for _, n in known)
    if len(known) < len(groups) or not cases:
        return None
    return sum(mean * n for mean, n in known) / cases
