"""segdistill reproduce PAPER: the paper's tables beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, print_json

RUNS = Path("runs")


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="such as lightbtseg; none lists them all")] = None,
    table: Annotated[str | None, typer.Option(help="only this table, such as 1")] = None,
    runs: Annotated[Path, typer.Option(help="folder with the runs to compare")] = RUNS,
    everything: Annotated[bool, typer.Option("--all", help="also the tables without a run of ours")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a paper's tables beside our results.

    With the differences, and the commands for the runs that are missing.
    """
    from segdistill.errors import InputError
    from segdistill.papers.reproduce import compare_with_paper, render
    from segdistill.papers.tables import published_papers, read_paper

    if paper is None:
        found = {name: read_paper(name) for name in published_papers()}
        known = {
            name: {"title": content.title, "tables": list(content.tables)} for name, content in found.items()
        }
        if as_json:
            print_json(known)
            return
        for name, facts in known.items():
            print(f"{name:14}{facts['title']}: tables {', '.join(facts['tables'])}")
        return
    if not runs.is_dir() and (runs.exists() or runs != RUNS):
        raise InputError(f"{runs}: no such folder: give the folder with the runs to compare")
    tables = compare_with_paper(paper, runs, table)
    if as_json:
        print_json(tables)
    else:
        print(render(tables, everything or table is not None))
