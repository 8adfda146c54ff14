"""segdistill export RUN: a stage as one model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.progress import needs


def export(
    run: Annotated[str, typer.Argument(help="RUN, RUN:STAGE or a stage's folder")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the model file to write")] = Path("model.onnx"),
    stage: Annotated[
        str | None, typer.Option(help="stage of the run; by default the one that its recipe exports")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the agreement with torch as JSON")] = False,
) -> None:
    """Write a trained stage as one ONNX file; it is kept only if its masks on the test cases are those of torch."""
    with needs("export", "train"):
        from segdistill.experiment.export import export_stage
        from segdistill.experiment.stage import find_stage
    from segdistill.data.case import select
    from segdistill.data.table import read_cases
    from segdistill.errors import InputError

    if out.suffix != ".onnx":
        raise InputError(f"the model file must end in .onnx: {out}")
    folder = find_stage(f"{run}:{stage}" if stage else run)
    table = folder.parent.parent / "cases.csv"
    cases = select(read_cases(table), split="test") if table.exists() else []
    agreement = export_stage(folder, out, cases)
    if as_json:
        import json

        print(json.dumps({"model": str(out), **agreement.to_dict()}, indent=2))
        return
    print(
        f"{out}: masks equal those of torch on {agreement.cases} test cases "
        f"({agreement.undecided_pixels} undecided pixels)"
    )
