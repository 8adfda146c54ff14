"""segdistill compare RUN RUN...: paired differences with intervals, and a verdict in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, names, print_json
from segdistill.files import shown


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="run folders, RUN:STAGE, or folders of segdistill evaluate -o")
    ],
    stages: Annotated[
        str | None, typer.Option(help="comma-separated variants to compare; by default every student")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="compare with this one; by default the stages with the role baseline")
    ] = None,
    metric: Annotated[str, typer.Option(help="a column of metrics.csv")] = "dice",
    margin: Annotated[
        float | None,
        typer.Option(help="accepted loss, stated before training; by default that of the recipe, else 0.02"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="folder for comparison.csv, forest.svg and report.html")
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Compare trained networks, with a verdict on each pair.

    Case by case, averaged over seeds; the rule: docs/concepts/verdicts.md.
    """
    import segdistill
    from segdistill.report.comparison import comparison_text

    found = segdistill.compare(
        runs, names(stages), baseline=baseline, metric=metric, margin=margin, out=out, plugins=plugins or []
    )
    for note in found.notes:
        typer.echo(f"note: {shown(note)}", err=True)
    if as_json:
        facts: dict[str, object] = {"metric": metric, "margin": found.margin}
        facts["comparisons"] = [verdict.to_dict() for verdict in found.verdicts]
        facts["external"] = {
            name: [verdict.to_dict() for verdict in verdicts] for name, verdicts in found.external.items()
        }
        print_json(facts)
        return
    if found.verdicts:
        print(comparison_text(found.verdicts))
    for name, verdicts in found.external.items():
        print(f"\nat {shown(name)}:\n{comparison_text(verdicts)}")
    if found.report is not None:
        print(f"report      {found.report}")
