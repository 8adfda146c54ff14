"""segdistill benchmark MODEL...: times of model files and runs, part by part, in every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, names, print_json, progress_bar


def benchmark(
    models: Annotated[
        list[str],
        typer.Argument(
            help="model files, or folders of runs: these bring their teachers", metavar="MODEL|RUN..."
        ),
    ],
    engine: Annotated[
        str, typer.Option(help="comma-separated: onnxruntime, openvino; by default all that are installed")
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="a picture or a folder of them; by default synthetic ones")
    ] = None,
    rounds: Annotated[int, typer.Option(help="how often each picture is segmented")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads of each engine")] = 1,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="also start processes: cold start and peak of memory")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Time models from the picture's file to the written mask.

    Reading, pre-processing, network, post-processing and writing, all models and engines in turn in one run. A run is
    its exported stage and that stage's teachers, as model files and in torch.
    """
    from segdistill.experiment.benchmark import benchmark_models

    with progress_bar("measuring") as progress:
        found = benchmark_models(
            models,
            engines=names(engine),
            images=images,
            threads=threads,
            rounds=rounds,
            cold=cold,
            progress=progress,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        print("\n".join(found.lines()))
