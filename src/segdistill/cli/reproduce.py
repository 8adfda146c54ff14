"""segdistill reproduce PAPER: the paper's tables beside ours, and the runs that fill them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from segdistill.cli.shared import AsJson, print_json

RUNS = Path("runs")


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="such as lightbtseg; none lists them all")] = None,
    table: Annotated[str | None, typer.Option(help="only this table, such as 1")] = None,
    runs: Annotated[Path, typer.Option(help="folder with the runs to compare")] = RUNS,
    everything: Annotated[bool, typer.Option("--all", help="also the tables without a run of ours")] = False,
    fill: Annotated[bool, typer.Option("--run", help="first run what is missing, at --size")] = False,
    size: Annotated[
        str, typer.Option(help="with --run: cpu (small, for two processor cores) or paper (for a GPU)")
    ] = "cpu",
    jobs: Annotated[int | None, typer.Option(help="with --run: train so many stages at once")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="with --run: the data, where SEGDISTILL_DATA does not name their folder"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="with --run: key=value for every recipe, such as epochs=2"),
    ] = None,
    device: Annotated[str, typer.Option(help="with --run: auto, cpu or gpu")] = "auto",
    figures: Annotated[
        Path | None,
        typer.Option(help="folder: draw the paper's figures, with our numbers and images, into it"),
    ] = None,
    as_json: AsJson = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="further key=value after --set", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Print a paper's tables beside our results.

    With the differences, and the commands for the runs that are missing; --run runs them.
    """
    from segdistill.config.load import parse_changes
    from segdistill.errors import CasesFailed, InputError
    from segdistill.papers.reproduce import compare_with_paper, render, run_missing

    if paper is None:
        _list_papers(as_json)
        return
    given = parse_changes([*(changes or []), *(more or [])])
    if size not in ("paper", "cpu"):
        raise InputError(f"--size {size}: choose paper or cpu")
    if not fill and not runs.is_dir() and (runs.exists() or runs != RUNS):
        raise InputError(f"{runs}: no such folder: give the folder with the runs to compare")
    failed: CasesFailed | None = None
    if fill:
        chosen = cast(Literal["paper", "cpu"], size)
        lines = run_missing(
            paper, runs, chosen, table=table, changes=given, data=data, jobs=jobs, device=device
        )
        try:
            for line in lines:
                print(line, file=sys.stderr)
        except CasesFailed as error:
            failed = error
    tables = compare_with_paper(paper, runs, table)
    if figures is not None:
        _draw(tables, figures)
    if as_json:
        print_json(tables)
    else:
        print(render(tables, everything or table is not None))
    if failed is not None:
        raise failed


def _draw(tables: list[dict[str, Any]], folder: Path) -> None:
    from segdistill.papers.figures import draw_figures

    for path in draw_figures(tables, folder):
        print(path, file=sys.stderr)


def _list_papers(as_json: bool) -> None:
    from segdistill.papers.tables import published_papers, read_paper

    found = {name: read_paper(name) for name in published_papers()}
    known = {
        name: {"title": content.title, "tables": list(content.tables)} for name, content in found.items()
    }
    if as_json:
        print_json(known)
        return
    for name, facts in known.items():
        print(f"{name:14}{facts['title']}: tables {', '.join(facts['tables'])}")
