"""A paper's tables beside ours: what was published, what our runs gave, the difference, and what has not been run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import Recipe
from segdistill.errors import InputError
from segdistill.experiment.results import RUN_FILE, SUMMARY_FILE, read_json, read_recipe
from segdistill.papers.tables import PaperPart, PaperRow, read_paper
from segdistill.stats.comparison import split_name

NAME, PLAIN, SPREAD = 36, (10, 8, 8), (17, 15, 8)
"""Widths of the row's name, and of published, ours and difference without and with a spread."""


def render(tables: list[dict[str, Any]], everything: bool = True) -> str:
    """The tables of `reproduce.compare_with_paper`: published, ours and difference for each metric.

    Without `everything` the tables that no run fills are named with the commands that would, and not printed.

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
    """Which run has filled a table, and where it lies: several may be of one recipe."""
    if table["run"]:
        return f"{table['run']}, {table['folder']}"
    return f"not run: segdistill run {table['recipe']}"


def _commands(tables: list[dict[str, Any]]) -> list[str]:
    """What to run for tables that nothing has filled, and which of them cannot be filled."""
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


_FOLD = re.compile(r"fold-\d+")
_OF_A_FOLD = re.compile(r"[ /]fold-\d+$")


@dataclass(frozen=True)
class _Run:
    """A run, or the runs of a cross-validation's folds, which lie in its folder as fold-1, fold-2, ..."""

    folder: Path
    parts: tuple[Path, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says; of the first fold where the folder above has none."""
        return read_json(self.folder / RUN_FILE) or read_json(self.parts[0] / RUN_FILE)

    @property
    def recipe(self) -> str:
        return _OF_A_FOLD.sub("", str(self.facts.get("recipe", "")))

    @cached_property
    def content(self) -> dict[str, Any]:
        """Its resolved recipe; empty where it cannot be read. Read once: every table asks for it."""
        return read_recipe(self.parts[0])

    @property
    def data(self) -> dict[str, Any]:
        """What its recipe says of the data."""
        data = self.content.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def stages(self) -> list[str]:
        """The stages of its recipe, whether they have been trained or not."""
        return list(self.content.get("stages") or {})

    @property
    def label(self) -> str:
        """Recipe, size, data and number of folds, for the line above a table."""
        size = self.data.get("size", "size unknown")
        size = f"{size}x{size}" if isinstance(size, int) else size
        words = size if isinstance(size, str) else "x".join(map(str, size))
        data = re.split("[,(]", str(self.facts.get("data", "data unknown")))[0].strip()
        folds = f", {len(self.parts)} folds" if len(self.parts) > 1 else ""
        return f"{self.recipe} ({words}) on {data}{folds}"


def compare_with_paper(paper: str, runs: Path, table: str | None = None) -> list[dict[str, Any]]:
    """The paper's tables with our numbers filled in.

    Our numbers come from runs anywhere below `runs`: those of the table's recipe first, then those of other recipes on
    the same dataset whose stages are called alike (such as lightbtseg/cpu); each carries its recipe's name and size. Of
    a cross-validation they are the mean over its folds, with the standard deviation.

    Args:
        paper: one of `published_papers`.
        runs: folder with runs.
        table: only this one.

    Returns:
        One entry per table and run: title, recipe, recipes (all whose runs fill it; none where it cannot be run), run
        and its folder (None: not run), metrics, note, and rows with published, ours and difference (None where there
        is none), their spreads, and why a row cannot be run.

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


def _find_runs(runs: Path) -> list[_Run]:
    """All runs below a folder; folds together."""
    together: dict[Path, list[Path]] = {}
    for path in sorted(runs.glob(f"**/{RUN_FILE}")) if runs.is_dir() else []:
        folder = path.parent
        if _FOLD.fullmatch(folder.name):
            together.setdefault(folder.parent, []).append(folder)
        else:
            together.setdefault(folder, [])
    return [_Run(folder, tuple(parts) or (folder,)) for folder, parts in together.items()]


def _runs_for(part: PaperPart, runs: list[_Run]) -> list[_Run]:
    """Runs of the table's recipe first, then others that fit it."""
    found = [run for run in runs if _fits(part, run.recipe, run.data.get("dataset"), run.stages)]
    return sorted(found, key=lambda run: (run.recipe != part.recipe, run.folder))


def _fits(part: PaperPart, recipe: str, dataset: object, stages: Iterable[str]) -> bool:
    """Whether a recipe's run has numbers for a table: it is the one that the table names, or is of the same dataset and
    has two of the table's stages and half of them; of the paper's own recipes either will do.
    """
    if recipe == part.recipe:
        return True
    known = _known_recipes().get(part.recipe)
    if known is None or dataset is None or dataset != known.data.dataset:
        return False
    named = {row.stage for row in part.rows if row.stage}
    shared = named & {name for stage in stages for name in (stage, split_name(stage)[0])}
    two, half = len(shared) >= 2, 2 * len(shared) >= len(named) > 0
    own = recipe.split("/")[0] == part.recipe.split("/")[0]
    return two or half if own else two and half


@cache
def _known_recipes() -> dict[str, Recipe]:
    return {name: load_recipe(name) for name in bundled_recipes()}


def _filling(part: PaperPart) -> list[str]:
    """The recipes that fill a table, its own first, then the paper's; none where it has no row that can be run."""
    if not any(row.stage for row in part.rows):
        return []
    paper = part.recipe.split("/")[0]
    fit = [
        name
        for name, recipe in _known_recipes().items()
        if _fits(part, name, recipe.data.dataset, recipe.stages)
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
    evaluated = [one for part in run.parts for one in _evaluations(part, row)]
    values = [_value(one, metric, row.labels) for one in evaluated]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _evaluations(run: Path, row: PaperRow) -> list[dict[str, Any]]:
    """What is known of a row's stage and its repetitions: from the run itself, or of another dataset as `segdistill
    evaluate` wrote it.
    """
    if not row.external:
        return [read_json(folder / SUMMARY_FILE) for folder in _repetitions(run / "stages", str(row.stage))]
    report = read_json(run / "external" / row.external / SUMMARY_FILE)
    return [{"summary": {"all": report, **report.get("by_label", {})}} if report else {}]


def _repetitions(stages: Path, name: str) -> list[Path]:
    """The stage's folder, or those of its repetitions with other seeds, NAME@0, NAME@1, ..."""
    found = sorted(stages.glob(f"{name}@*")) if not (stages / name).exists() else []
    return found or [stages / name]


def _value(evaluated: dict[str, Any], metric: str, labels: list[str]) -> float | None:
    """A number of evaluation.json; over several groups of cases the mean over all their cases."""
    section, _, name = metric.rpartition(".")
    found = evaluated.get(section or "summary") or {}
    groups = [found.get(name, found.get(label, {}).get(name)) for label in labels]
    numbers = [
        (group.get("mean"), group.get("n", 1)) if isinstance(group, dict) else (group, 1) for group in groups
    ]
    known = [(float(value), int(n)) for value, n in numbers if isinstance(value, int | float)]
    cases = sum(n for _, n in known)
    if len(known) < len(labels) or not cases:
        return None
    return sum(value * n for value, n in known) / cases
