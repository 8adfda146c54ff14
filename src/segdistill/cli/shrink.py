"""segdistill shrink: how small can it get?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, names, print_json
from segdistill.errors import GateFailed
from segdistill.files import shown_lines


def shrink(
    data: Annotated[Path | None, typer.Option(help="cases.csv, or a folder with images/ and masks/")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="a folder of predictions, a model file (.onnx), a run, RUN:STAGE, or what a teacher states in a "
            "recipe, such as '{predictions: FOLDER, foreground: [1]}'; by default trained here"
        ),
    ] = None,
    trained_on: Annotated[
        str,
        typer.Option(
            help="cases that a teacher from elsewhere was trained on: all, none, unknown or a file of ids"
        ),
    ] = "unknown",
    margin: Annotated[
        float, typer.Option(help="accepted loss in Dice; state it before the results are known")
    ] = 0.02,
    max_ms: Annotated[
        float | None,
        typer.Option(help="milliseconds that one image, or volume, may take, on one thread of this machine"),
    ] = None,
    max_mb: Annotated[float | None, typer.Option(help="MiB that the model file may have")] = None,
    effort: Annotated[
        str, typer.Option(help="quick, normal or patient: networks, folds, seeds and steps")
    ] = "normal",
    rungs: Annotated[
        str | None,
        typer.Option(
            help="comma-separated networks, NAME or NAME/PRESET, such as simplified_unet,lite_unet/tiny"
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="of the cross-validation; by default the effort's")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="trainings of each fold; by default the effort's")] = None,
    test: Annotated[
        float | None,
        typer.Option(
            help="share of the cases for the last test, by default 0.15; a table's own test rows come first"
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the recipe, such as size=128 or fit.steps=2000"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder, by default runs/shrink; the same folder continues it")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    jobs: Annotated[int | None, typer.Option(help="train so many stages and folds at once")] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="further key=value after --set", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Find the smallest network that is not worse than the large ones.

    Run the same command again to continue. Exit code 5: no network is shown to be not worse.
    """
    import segdistill

    result = segdistill.shrink(
        data,
        teacher=teacher,
        trained_on=trained_on,
        margin=margin,
        max_ms=max_ms,
        max_mb=max_mb,
        effort=effort,
        rungs=None if rungs is None else names(rungs),
        folds=folds,
        seeds=seeds,
        test=test,
        set=[*(changes or []), *(more or [])],
        out=out,
        device=device,
        jobs=jobs,
        plugins=plugins or [],
    )
    if as_json:
        files = {"report": str(result.report), "model": result.model_file and str(result.model_file)}
        print_json(result.record.to_dict() | files)
    else:
        print("\n".join(map(shown_lines, result.lines())))
    if result.failed:
        raise GateFailed(result.failed)
