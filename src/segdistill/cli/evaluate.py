"""segdistill evaluate MODEL|RUN [TABLE]: metrics per case and per class, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli.shared import AsJson, Plugins, names, print_json, progress_bars
from segdistill.errors import CasesFailed
from segdistill.files import shown


def evaluate(
    model: Annotated[
        str, typer.Argument(help="model file (.onnx), or the folder of a run", metavar="MODEL|RUN")
    ],
    table: Annotated[
        Path | None,
        typer.Argument(
            help="cases.csv, or a folder with images/ and masks/; by default the table of the run"
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="stage of the run; by default the one that its recipe exports")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="test, train, val or all; by default test, or all where the table has no test case"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="folder for metrics.csv, evaluation.json and report.html"),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="comma-separated further metrics (segdistill list metrics), such as voe,hd95")
    ] = "",
    pooled: Annotated[
        bool, typer.Option("--pooled", help="also accuracy, sensitivity, F1, mIoU and AUC over all pixels")
    ] = False,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="also whether the probabilities are calibrated")
    ] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="also Dice under gamma, speckle and blur (ten more passes)")
    ] = False,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on cases, with intervals.

    Dice, IoU, precision, recall and accuracy with bootstrap 95 % intervals, for all cases, each class and each site.
    """
    import segdistill
    from segdistill.stats.summary import summary_lines

    with progress_bars() as progress:
        found = segdistill.evaluate(
            model,
            table,
            stage=stage,
            split=split,
            out=out,
            metrics=names(metrics),
            pooled=pooled,
            calibration=calibration,
            robustness=robustness,
            plugins=plugins or [],
            progress=progress,
        )
    record = found.record
    for line in (*found.notes, *(f"{case}: {reason}" for case, reason in record.failed.items())):
        typer.echo(shown(line), err=True)
    if as_json:
        print_json(record.to_dict())
    else:
        print("\n".join(map(shown, summary_lines(record.summary, record.cases, record.pooled))))
    if record.failed:
        total = record.cases + len(record.skipped) + len(record.failed)
        raise CasesFailed(
            f"{len(record.failed)} of {total} cases failed (listed above); the others were evaluated"
        )
