"""segdistill export RUN: a stage as one model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json
from segdistill.errors import needs


def export(
    run: Annotated[str, typer.Argument(help="the folder of a run, or that of a stage", metavar="RUN|MODEL")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the model file to write")] = Path("model.onnx"),
    stage: Annotated[
        str | None, typer.Option(help="stage of the run; by default the one that its recipe exports")
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained stage as one ONNX model file.

    The file is kept only if its masks on the test cases equal those of torch.
    """
    with needs("export", "train"):
        from segdistill.experiment.export import export_run
    agreement = export_run(run, out, stage, plugins or [])
    if as_json:
        print_json({"model": str(out), **agreement.to_dict()})
        return
    print(
        f"{out}: masks equal those of torch on {agreement.cases} test cases "
        f"({agreement.undecided_pixels} undecided pixels)"
    )
