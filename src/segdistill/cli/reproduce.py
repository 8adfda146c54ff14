"""segdistill reproduce PAPER: the paper's tables beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    paper: Annotated[str, typer.Argument(help="lightbtseg")],
    table: Annotated[str | None, typer.Option(help="only this table, such as 1")] = None,
    runs: Annotated[Path, typer.Option(help="folder with the runs to compare")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False,
) -> None:
    """Print a paper's tables, our results, the difference, and which rows have not been run."""
    from segdistill.recipes.reproduce import compare_with_paper, render

    tables = compare_with_paper(paper, runs, table)
    if as_json:
        import json

        print(json.dumps(tables, indent=2))
        return
    print(render(tables))
