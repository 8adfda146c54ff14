"""segdistill predict MODEL.onnx INPUT...: masks, overlays and one table of measurements. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

FORMATS = ("png",)


def predict(
    model: Annotated[Path, typer.Argument(help="model file (.onnx) made by segdistill export")],
    inputs: Annotated[
        list[Path], typer.Argument(help="images, volumes, DICOM series, or folders to search for them")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder to write to")] = Path("predictions"),
    output_format: Annotated[
        str, typer.Option("--format", help="of pictures' masks: png; volumes are written as NIfTI")
    ] = "png",
    threshold: Annotated[float | None, typer.Option(help="in place of the model file's own")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the measurements as JSON")] = False,
) -> None:
    """Segment images: NAME.png (mask), NAME_overlay.png and predictions.csv with areas and diameters.

    Of a volume: NAME.nii.gz with its own geometry, NAME_overlay.png with a few slices, and its size in millilitres.
    """
    from segdistill.errors import CasesFailed, InputError
    from segdistill.imaging.read_volume import is_volume
    from segdistill.runtime.inputs import find_inputs
    from segdistill.runtime.predictor import Predictor
    from segdistill.runtime.write import output_paths, unique_stems, write_rows
    from segdistill.runtime.write_volume import unknown_size_note, volume_paths

    if output_format not in FORMATS:
        raise InputError(f"unknown format {output_format!r}: choose {', '.join(FORMATS)}")
    predictor = Predictor(model, threads, threshold)
    files = find_inputs(inputs, out)
    stems = unique_stems(files)
    given = {file.resolve() for file in files}
    table = out / "predictions.csv"
    for file, stem in zip(files, stems, strict=True):
        for path in volume_paths(stem, out) if is_volume(file) else output_paths(stem, out):
            if path.resolve() in given:
                raise InputError(f"{path} is an input and would be replaced: choose another folder with -o")
            if path.exists() and not table.exists():
                raise InputError(
                    f"{path} would be replaced, and no prediction has written it ({table.name} is not beside it): "
                    "choose another folder with -o"
                )
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    with _progress(len(files)) as advance:
        for file, stem in zip(files, stems, strict=True):
            _one(predictor, file, stem, out, rows, failed)
            if rows and not table.exists():
                write_rows(
                    rows, table
                )  # from now on the folder is known as one of predictions, also after Ctrl-C
            advance()
    if not rows:
        reason = failed[0]["reason"]
        raise InputError(
            reason if len(failed) == 1 else f"none of {len(failed)} images can be used: {reason}"
        )
    write_rows(rows, table)
    if as_json:
        import json

        print(json.dumps({"model": predictor.info.name, "predictions": rows, "failed": failed}, indent=2))
    else:
        print(f"{len(rows)} of {len(files)} images segmented: {table}")
    if note := unknown_size_note(rows):
        typer.echo(f"note: {note}", err=True)
    for failure in failed:
        typer.echo(failure["reason"], err=True)
    if failed:
        raise CasesFailed(
            f"{len(failed)} of {len(files)} images failed (listed above); the others are in {out}"
        )


def _one(
    predictor: Any, file: Path, stem: str, out: Path, rows: list[dict[str, Any]], failed: list[dict[str, str]]
) -> None:
    """One image or volume; what is wrong with it is noted, what is wrong with the output folder is raised."""
    import time

    from segdistill.errors import InputError
    from segdistill.imaging.read import read_picture
    from segdistill.imaging.read_volume import is_volume
    from segdistill.runtime.predictor import slice_levels
    from segdistill.runtime.write import prediction_row, write_prediction
    from segdistill.runtime.write_volume import volume_row, write_volume

    began = time.perf_counter()
    try:
        if is_volume(file):
            found = predictor.predict_volume(file)
        else:
            picture = read_picture(file)
            prediction = predictor.predict_pixels(picture.pixels)
    except InputError as error:
        failed.append({"file": str(file), "reason": str(error)})
        return
    seconds = time.perf_counter() - began
    if is_volume(file):
        write_volume(
            found, slice_levels(predictor.info.preprocess.intensity, found.volume.turned()), stem, out
        )
        rows.append(volume_row(found, seconds))
        return
    write_prediction(prediction, picture, stem, out)
    rows.append(prediction_row(prediction, picture, seconds))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    import sys

    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("predict", total=total)
        yield lambda: progress.advance(bar)
