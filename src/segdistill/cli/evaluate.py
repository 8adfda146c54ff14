"""segdistill evaluate MODEL CASES: metrics per case and per class, with intervals."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from segdistill.cli.extras import needs


def evaluate(
    model: Annotated[str, typer.Argument(help="model file (.onnx), RUN, RUN:STAGE or a stage's folder")],
    cases: Annotated[Path, typer.Argument(help="cases.csv, or a folder with images/ and masks/")],
    split: Annotated[str, typer.Option(help="split to evaluate; all for every case")] = "test",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="folder for metrics.csv, evaluation.json and report.html"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the results as JSON")] = False,
) -> None:
    """Measure a model on cases: Dice, IoU, precision, recall and accuracy with bootstrap 95 % intervals."""
    import json

    from segdistill.errors import CasesFailed, InputError
    from segdistill.evaluation.results import Results, evaluate_cases, summarise, write_metrics_csv
    from segdistill.files import write_json

    chosen = _cases(cases, split)
    predict, intensity = _predictor(model)
    results, failed = Results(), []
    for case in _shown(chosen):
        try:
            one = evaluate_cases([case], predict, intensity=intensity)
        except InputError as error:
            failed.append({"case": case.id, "reason": str(error)})
            typer.echo(f"{case.id}: {error}", err=True)
            continue
        results.extend(one)
        results.skipped += one.skipped
    if not results:
        reason = failed[0]["reason"] if failed else "none of them has a reference mask"
        raise InputError(f"no case of {cases} could be evaluated: {reason}")
    summary = summarise(results)
    report: dict[str, Any] = {
        **summary.get("all", {}),
        "by_label": {name: values for name, values in summary.items() if name not in ("all", "normal")},
        "normal": summary.get("normal"),
        "cases": len(results),
        "skipped": results.skipped,
        "failed": failed,
        "split": split,
    }
    if out is not None:
        write_metrics_csv(results, out / "metrics.csv")
        write_json(out / "evaluation.json", report)
        _write_report(out, model, cases, chosen, results, predict, intensity)
    print(json.dumps(report, indent=2)) if as_json else _print(summary, len(results))
    if failed:
        raise CasesFailed(
            f"{len(failed)} of {len(chosen)} cases failed (listed above); the others were evaluated"
        )


def _shown(cases: list[Any]) -> Iterable[Any]:
    """The cases, with a progress bar on a terminal."""
    if not sys.stderr.isatty():
        return cases
    from rich.console import Console
    from rich.progress import track

    return track(cases, "evaluating", console=Console(stderr=True))


def _write_report(
    out: Path, model: str, table: Path, cases: list[Any], results: Any, predict: Any, intensity: Any
) -> None:
    """report.html of this one model; without the extra [report] a line says what is missing."""
    from datetime import UTC, datetime

    from segdistill.data.cases import table_hash
    from segdistill.errors import MissingExtra
    from segdistill.evaluation.report import (
        DataReport,
        Report,
        StageReport,
        choose_examples,
        collect_examples,
        count_cases,
        write_report,
    )

    chosen = choose_examples(results)
    examples = collect_examples(cases, [i for ids in chosen.values() for i in ids], predict, intensity)
    counts, groups = count_cases(cases)
    report = Report(
        title=f"Evaluation of {model}",
        stages=[StageReport(name=Path(model).name, role="student", results=results, examples=examples)],
        data=DataReport(table.name, table_hash(cases), counts, groups, skipped=results.skipped),
        date=datetime.now(UTC).date().isoformat(),
    )
    try:
        write_report(report, out / "report.html")
    except MissingExtra as error:
        typer.echo(f"no report.html: {error}", err=True)


def _cases(table: Path, split: str) -> list[Any]:
    from segdistill.data.cases import read_cases, select
    from segdistill.data.datasets import index_dataset
    from segdistill.errors import InputError

    if not table.exists():
        raise InputError(f"no such case table or folder: {table}")
    cases = index_dataset("folder", table) if table.is_dir() else read_cases(table)
    splits = {case.split for case in cases}
    if splits == {""} and split != "all":
        note = "no split in this table: every case is measured, also any that the model was trained on"
        typer.echo(note, err=True)
        return cases
    if split == "all":
        return cases
    chosen = select(cases, split=split)
    if not chosen:
        raise InputError(
            f"{table} has no case in split '{split}': its splits are {', '.join(sorted(splits))}; or --split all"
        )
    return chosen


def _predictor(model: str) -> tuple[Any, Any]:
    """What segments a picture, and how the values of a volume become one."""
    if model.endswith(".onnx"):
        from segdistill.runtime.predictor import Predictor

        predictor = Predictor(model)
        return (
            lambda picture: predictor.predict_pixels(picture.pixels).mask,
            predictor.info.preprocess.intensity,
        )
    with needs("evaluating a stage of a run", "train"):
        import torch

        from segdistill.recipes.stage import find_stage, load_stage
        from segdistill.training.inference import mask_predictor
    stage = load_stage(find_stage(model))
    predict = mask_predictor(stage.network, stage.preprocess, stage.postprocess, torch.device("cpu"))
    return predict, stage.preprocess.intensity


def _print(summary: dict[str, Any], count: int) -> None:
    print(f"{'':12}{'n':>5}  " + "".join(f"{name:>24}" for name in summary.get("all", {})))
    for label, metrics in summary.items():
        if label == "normal":
            continue
        cells = "".join(f"{_cell(value):>24}" for value in metrics.values())
        print(f"{label:12}{next(iter(metrics.values()))['n']:>5}  {cells}")
    if normal := summary.get("normal"):
        print("normal      " + ", ".join(f"{name} {_cell(value)}" for name, value in normal.items()))
    print(f"{count} cases; mean [bootstrap 95 % interval], groups resampled")


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.4f}" if isinstance(value, float) else str(value)
    if value.get("mean") is None:
        return "-"
    if value.get("low") is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"
