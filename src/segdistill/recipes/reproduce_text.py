"""A paper's tables beside ours as plain text."""

from __future__ import annotations

from typing import Any

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
