"""segdistill evaluate MODEL CASES: metrics per case and per class, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from segdistill.cli.shared import progress_bar
from segdistill.errors import needs

if TYPE_CHECKING:
    from segdistill.data.case import Case
    from segdistill.experiment.evaluate import Subject

T = TypeVar("T")


def evaluate(
    model: Annotated[str, typer.Argument(help="model file (.onnx), RUN, RUN:STAGE or a stage's folder")],
    cases: Annotated[Path, typer.Argument(help="cases.csv, or a folder with images/ and masks/")],
    split: Annotated[str, typer.Option(help="split to evaluate; all for every case")] = "test",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="folder for metrics.csv, evaluation.json and report.html"),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="further metrics, comma between: voe, voe_emkd, sensitivity, hd95, msd, rmse_map, box_iou, ..."
        ),
    ] = "",
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled", help="also accuracy, sensitivity, F1, mIoU and AUC over all pixels of the set"
        ),
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibration", help="also whether the probabilities mean what they say")
    ] = False,
    disturb: Annotated[
        bool, typer.Option("--robustness", help="also Dice under gamma, speckle and blur (ten more passes)")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
) -> None:
    """Measure a model on cases: Dice, IoU, precision, recall and accuracy with bootstrap 95 % intervals."""
    from segdistill.errors import CasesFailed, MissingExtra
    from segdistill.experiment.evaluate import (
        evaluate_subject,
        require_own_folder,
        write_report_of,
        write_scores,
    )
    from segdistill.metrics.base import METRICS
    from segdistill.stats.summary import summary_lines

    extra = _metrics(metrics)
    table, chosen, split = _cases(cases, split)
    if out is not None:
        require_own_folder(out)
    subject = _subject(model, scores=pooled or calibrate or METRICS.need_probability(extra))
    found = evaluate_subject(_shown(chosen), subject, extra, pooled, calibrate)
    for case, reason in found.results.failed.items():
        typer.echo(f"{case}: {reason}", err=True)
    if disturb:
        for _ in _shown(found.disturb(chosen), "disturbing", 10):
            pass
    record = found.record(split)
    if out is not None:
        write_scores(out, found.results, record)
        try:
            with progress_bar("looking for leaks") as progress:
                write_report_of(out, found, record, table, cases.name, progress)
        except MissingExtra as error:
            typer.echo(f"no report.html: {error}", err=True)
    if as_json:
        print(record.to_json())
    else:
        print("\n".join(summary_lines(record.summary, record.cases, record.pooled)))
    if record.failed:
        raise CasesFailed(
            f"{len(record.failed)} of {len(chosen)} cases failed (listed above); the others were evaluated"
        )


def _shown(cases: Iterable[T], what: str = "evaluating", total: int | None = None) -> Iterable[T]:
    """The cases, with a progress bar on a terminal."""
    if not sys.stderr.isatty():
        return cases
    from rich.console import Console
    from rich.progress import track

    return track(cases, what, total=total, console=Console(stderr=True))


def _metrics(text: str) -> list[str]:
    from segdistill.errors import InputError
    from segdistill.metrics.base import METRICS

    try:
        return METRICS.asked(name.strip() for name in text.split(",") if name.strip())
    except InputError as error:
        raise InputError(f"--metrics: {error}") from error


def _cases(table: Path, split: str) -> tuple[list[Case], list[Case], str]:
    """All cases of the table, those to evaluate, and their split: all where the table has none."""
    from segdistill.data.case import SPLITS, select
    from segdistill.data.datasets import create_dataset
    from segdistill.data.table import read_cases
    from segdistill.errors import InputError
    from segdistill.registry import near_names

    if split not in (*SPLITS, "all"):
        raise InputError(f"--split: unknown split '{split}': {near_names(split, [*SPLITS, 'all'])}")
    if not table.exists():
        raise InputError(f"no such case table or folder: {table}")
    cases = create_dataset("folder", table) if table.is_dir() else read_cases(table)
    splits = {case.split for case in cases}
    if splits == {""} and split != "all":
        note = "no split in this table: every case is measured, also any that the model was trained on"
        typer.echo(note, err=True)
    if splits == {""} or split == "all":
        return cases, cases, "all"
    chosen = select(cases, split=split)
    if not chosen:
        raise InputError(
            f"{table} has no case in split '{split}': its splits are {', '.join(sorted(splits))}; or --split all"
        )
    return cases, chosen, split


def _subject(model: str, scores: bool) -> Subject:
    """A model file is opened without torch."""
    if model.endswith(".onnx"):
        from segdistill.experiment.evaluate import open_model_file

        return open_model_file(Path(model), scores)
    with needs("evaluating a stage of a run", "train"):
        from segdistill.experiment.stage_evaluation import open_stage
    return open_stage(model, scores)
