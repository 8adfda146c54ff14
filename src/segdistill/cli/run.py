"""segdistill run RECIPE: train, evaluate, report, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, names, print_json
from segdistill.errors import CasesFailed, InputError
from segdistill.files import shown


def run(
    recipe: Annotated[
        str, typer.Argument(help="name of a recipe (segdistill list recipes), or a .yaml file")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="cases.csv, or a folder with images/ and masks/; by default that of the recipe"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, such as epochs=20 or stages.student.model.name=unet"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; the same folder continues it")] = None,
    stages: Annotated[
        str | None, typer.Option(help="comma-separated stages to run (their teachers are included), or 'all'")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu")] = "auto",
    devices: Annotated[int, typer.Option(help="number of devices per node")] = 1,
    nodes: Annotated[int, typer.Option(help="number of nodes")] = 1,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="train so many stages and folds at once, each in a process with its share of threads"
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="slurm: submit each stage as a job; local: the same on this machine")
    ] = None,
    cluster_options: Annotated[
        list[str] | None,
        typer.Option("--cluster-option", help="key=value for the jobs, such as partition=gpu or mem_gb=16"),
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(
            help="quick, normal or patient: choose teachers and steps from the data (as --set effort=...)"
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="stop (exit code 5) where distillation is unlikely to help")
    ] = False,
    plugins: Plugins = None,
    as_json: AsJson = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="further key=value after --set", metavar="[KEY=VALUE]...")
    ] = None,
) -> None:
    """Train a recipe's networks, evaluate, report, export.

    Run the same command again to continue an interrupted run.
    """
    import segdistill

    if stages is not None and not names(stages):
        raise InputError("--stages is empty: give comma-separated names, or all")
    result = segdistill.run(
        recipe,
        data=data,
        out=out,
        set=[
            *([f"effort={effort}"] if effort else []),
            *(["strict=true"] if strict else []),
            *(changes or []),
            *(more or []),
        ],
        stages=names(stages) or None,
        device=device,
        devices=devices,
        nodes=nodes,
        plugins=plugins or [],
        jobs=jobs,
        cluster=cluster,
        cluster_options=cluster_options or [],
    )
    from segdistill.experiment.machine import is_first_process

    if is_first_process():
        print_json(result.summary()) if as_json else print("\n".join(map(shown, result.lines())))
    if result.failed:
        raise CasesFailed(result.failed)
