"""segdistill predict MODEL INPUT...: masks, overlays and one table of measurements; a model file needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segdistill.cli.shared import AsJson, Plugins, print_json, progress_bar
from segdistill.errors import CasesFailed
from segdistill.files import shown


def predict(
    model: Annotated[
        str, typer.Argument(help="model file (.onnx), or the folder of a run", metavar="MODEL|RUN")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="images, volumes, DICOM series, folders with any of these, patterns, or a case table",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write to")] = Path("predictions"),
    stage: Annotated[
        str | None, typer.Option(help="stage of the run; by default the one that its recipe exports")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="probability above which a pixel is foreground; by default the model's own"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads for a model file; by default all cores")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="runs a model file: onnxruntime, or openvino (an extra)")
    ] = "onnxruntime",
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="only part I of N of the files, for processes side by side"),
    ] = None,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="write a DICOM SEG, NAME.seg.dcm, for every DICOM series, too")
    ] = False,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="NAME=FILE", help="one channel of an image, for a model of several channels"
        ),
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Segment images and volumes with a trained model.

    A picture gives NAME.png (the mask) and NAME_overlay.png. A volume gives NAME.nii.gz with its own geometry and an
    overlay of a few slices. A model of several channels takes them from a case table, as --image NAME=FILE for each, or
    from a folder in which NAME_0000, NAME_0001, ... are one image. predictions.csv names the mask of every file, and
    holds areas, diameters or volumes. The same command again continues where it stopped.
    """
    import segdistill
    from segdistill.errors import InputError

    channels = dict(_channel(text) for text in image or [])
    given: list[Any] = [*(inputs or []), *([channels] if channels else [])]
    if not given:
        raise InputError("nothing to segment: give images, folders, a case table, or --image NAME=FILE")
    with progress_bar("predicting") as progress:
        found = segdistill.predict(
            model,
            given,
            out,
            stage=stage,
            threads=threads,
            threshold=threshold,
            engine=engine,
            shard=shard,
            dicom_seg=dicom_seg,
            plugins=plugins or [],
            progress=progress,
        )
    total = len(found.rows) + len(found.failed)
    if as_json:
        print_json({"model": model, "predictions": found.rows, "failed": found.failed})
    else:
        typer.echo(f"{len(found.rows)} of {total} images segmented: {shown(found.table)}")
    for note in filter(None, [*found.notes, found.note]):
        typer.echo(f"note: {shown(note)}", err=True)
    for failure in found.failed:
        typer.echo(shown(failure["reason"]), err=True)
    if found.failed:
        raise CasesFailed(
            f"{len(found.failed)} of {total} images failed (listed above); the others are in {out}"
        )


def _channel(text: str) -> tuple[str, str]:
    """The name and the file of --image."""
    from segdistill.errors import InputError

    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise InputError(
            f"--image {text}: give the name of a channel and its file, such as --image flair=a.nii.gz"
        )
    return name, file
