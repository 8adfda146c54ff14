"""segdistill export RUN: a stage as one model file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json
from segdistill.errors import InputError, needs


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="the folder of a run, or that of a stage; with --web also a model file", metavar="RUN|MODEL"
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="the file to write; by default model.onnx, with --web model.html"),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="stage of the run; by default the one that its recipe exports")
    ] = None,
    web: Annotated[
        bool,
        typer.Option("--web", help="as an HTML page that segments in a browser, from a run or a model file"),
    ] = False,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained stage as one ONNX model file.

    The file is kept only if its masks on the test cases equal those of torch. With --web it becomes one HTML page that
    holds the network and a viewer: it opens in a browser from a disk, and sends nothing.
    """
    target = out or Path("model.html" if web else "model.onnx")
    if web:
        _export_page(run, target, stage, plugins or [], as_json)
        return
    with needs("export", "train"):
        from segdistill.experiment.export import export_run
    agreement = export_run(run, target, stage, plugins or [])
    if as_json:
        print_json({"model": str(target), **agreement.to_dict()})
        return
    print(
        f"{target}: masks equal those of torch on {agreement.cases} test cases "
        f"({agreement.undecided_pixels} undecided pixels)"
    )


def _export_page(run: str, out: Path, stage: str | None, plugins: list[str], as_json: bool) -> None:
    from segdistill.server.page import write_page

    if Path(run).is_dir():
        with needs("export", "train"):
            from segdistill.experiment.export import export_run
        with TemporaryDirectory() as folder:
            model = Path(folder) / "model.onnx"
            export_run(run, model, stage, plugins)
            size = write_page(model, out)
    elif stage is not None or plugins:
        raise InputError(f"{run} is a model file: --stage and --plugins are for the folder of a run")
    else:
        size = write_page(run, out)
    if as_json:
        print_json({"page": str(out), "bytes": size})
        return
    print(f"{out}: {size / 1e6:.1f} MB: open it in a browser")
