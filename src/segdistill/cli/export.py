"""segdistill export RUN: a stage as one model file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json
from segdistill.errors import InputError, needs


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="the folder of a run, or that of a stage; with --int8, --web or --target also a model file",
            metavar="RUN|MODEL",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="the file to write, by default model.onnx, model-int8.onnx or model.html; with --target a folder",
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="stage of the run; by default the one that its recipe exports")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="in int8, kept only if it loses little on validation cases")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="for --int8: case table with training and validation cases; by default the run's"),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="for --int8: mean_drop (0.005), case_drop (0.05), case_share (0.02), good (0.8), floor (0.6)",
        ),
    ] = None,
    gate_on: Annotated[
        str, typer.Option(help="for --int8: the cases of its gate, val, or train where there are none")
    ] = "val",
    web: Annotated[
        bool,
        typer.Option("--web", help="as an HTML page that segments in a browser, from a run or a model file"),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(help="for another engine or server: openvino (its IR), ovms or triton (a repository)"),
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Write a trained stage as one ONNX model file.

    The file is kept only if its masks on the test cases equal those of torch. An int8 file is calibrated on 32 training
    images, and kept only if it loses little against fp32 on the validation cases: the mean Dice falls by at most
    mean_drop, at most case_share of the cases lose more than case_drop, none falls from above good to below floor.

    With --web it becomes one HTML page that holds the network and a viewer: it opens in a browser from a disk, and
    sends nothing.
    """
    if web:
        if int8 or target is not None:
            raise InputError(
                "--web alone makes a page: export the int8 file first, then its page: export model-int8.onnx --web"
            )
        _export_page(run, out or Path("model.html"), stage, plugins or [], as_json)
        return
    if not int8 and (data is not None or gate or gate_on != "val"):
        raise InputError("--data, --gate and --gate-on are for --int8: add it, or remove them")

    def make(file: Path) -> tuple[str, dict[str, Any]]:
        if int8:
            return _int8(run, file, stage, data, gate or [], gate_on, plugins or [])
        return _fp32(run, file, stage, plugins or [])

    if target is None:
        file = out or Path("model-int8.onnx" if int8 else "model.onnx")
        words, facts = make(file)
    else:
        words, facts = _for_target(run, target, out or Path(f"model-{target}"), int8, make)
    if as_json:
        print_json(facts)
    else:
        print(words)


def _fp32(run: str, file: Path, stage: str | None, plugins: list[str]) -> tuple[str, dict[str, Any]]:
    if Path(run).is_file() and run.lower().endswith(".onnx"):
        raise InputError(
            f"{run} is a model file already: add --int8, --web or --target, or give the folder of a run"
        )
    with needs("export", "train"):
        from segdistill.experiment.export import export_run
    agreement = export_run(run, file, stage, plugins)
    words = (
        f"{file}: masks equal those of torch on {agreement.cases} test cases "
        f"({agreement.undecided_pixels} undecided pixels)"
    )
    return words, {"model": str(file), **agreement.to_dict()}


def _int8(
    run: str,
    file: Path,
    stage: str | None,
    data: Path | None,
    gate: list[str],
    gate_on: str,
    plugins: list[str],
) -> tuple[str, dict[str, Any]]:
    with needs("export", "train"):
        from segdistill.experiment.int8 import Gate, export_int8
    limits = Gate.parse(gate)
    found = export_int8(run, file, stage, data=data, gate=limits, gate_on=gate_on, plugins=plugins)
    if found.warning:
        typer.echo(f"warning: {found.warning}", err=True)
    return str(found), found.to_dict()


def _for_target(
    run: str, target: str, out: Path, int8: bool, make: Callable[[Path], tuple[str, dict[str, Any]]]
) -> tuple[str, dict[str, Any]]:
    """A model file that is there, or that is made first, for another engine or server."""
    from segdistill.runtime.targets import write_target

    with TemporaryDirectory() as folder:
        model = Path(run)
        if int8 or not model.is_file():
            model = Path(folder) / ("model-int8.onnx" if int8 else "model.onnx")
            make(model)
        files = [str(path) for path in write_target(model, target, out)]
    return f"{out}: {len(files)} files for {target}; not loaded by it here", {"files": files}


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
