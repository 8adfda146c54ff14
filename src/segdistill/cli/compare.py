"""segdistill compare RUN RUN...: paired differences with intervals, and a verdict in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="run folders, RUN:STAGE, or folders of segdistill evaluate -o")
    ],
    stages: Annotated[
        str | None, typer.Option(help="only these methods (comma between); without: every student")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="what they are compared with; without: the stages with role baseline")
    ] = None,
    metric: Annotated[str, typer.Option(help="a column of metrics.csv")] = "dice",
    margin: Annotated[
        float | None, typer.Option(help="accepted loss, stated beforehand; without: that of the recipe")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder for comparison.csv, forest.svg and report.html")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare methods case by case, seeds averaged: helps, hurts, or no evidence (docs/concepts/verdicts.md)."""
    import json

    from segdistill.errors import InputError
    from segdistill.experiment.compare import choose_pairs, read_trainings, stated_margin
    from segdistill.report.comparison import comparison_text, write_comparison
    from segdistill.stats.comparison import compare_variants, group_variants, require_seeds

    margin = stated_margin(runs) if margin is None else margin
    if margin is not None and not 0 < margin < float("inf"):
        raise InputError(f"--margin must be above 0, not {margin:g}: it is the loss that would be accepted")
    variants, notes = group_variants(read_trainings(runs))
    pairs = choose_pairs(variants, [s.strip() for s in stages.split(",")] if stages else [], baseline)
    require_seeds(list({id(v): v for pair in pairs for v in pair}.values()))
    found = compare_variants(pairs, metric, margin)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if out is not None:
        write_comparison(found, pairs, out, f"Comparison of {', '.join(Path(run).name for run in runs)}")
    if as_json:
        print(
            json.dumps(
                {"metric": metric, "margin": margin, "comparisons": [c.to_dict() for c in found]}, indent=2
            )
        )
    else:
        print(comparison_text(found))
        if out is not None:
            print(f"report      {out / 'report.html'}")
