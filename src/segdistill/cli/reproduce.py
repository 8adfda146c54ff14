"""segdistill reproduce PAPER: the paper's tables beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="such as lightbtseg; none lists what there is")] = None,
    table: Annotated[str | None, typer.Option(help="only this table, such as 1")] = None,
    runs: Annotated[Path, typer.Option(help="folder with the runs to compare")] = RUNS,
    everything: Annotated[bool, typer.Option("--all", help="also the tables that no run fills")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Print a paper's tables, our results, the difference, and the commands for what has not been run."""
    import json

    from segdistill.errors import InputError
    from segdistill.papers.reproduce import compare_with_paper, render
    from segdistill.papers.tables import published_papers, read_paper

    if paper is None:
        found = {name: read_paper(name) for name in published_papers()}
        known = {
            name: {"title": content.title, "tables": list(content.tables)} for name, content in found.items()
        }
        if as_json:
            print(json.dumps(known, indent=2))
            return
        for name, facts in known.items():
            print(f"{name:14}{facts['title']}: tables {', '.join(facts['tables'])}")
        return
    if not runs.is_dir() and (runs.exists() or runs != RUNS):
        raise InputError(f"{runs}: no such folder: give the folder with the runs to compare")
    tables = compare_with_paper(paper, runs, table)
    print(json.dumps(tables, indent=2) if as_json else render(tables, everything or table is not None))
