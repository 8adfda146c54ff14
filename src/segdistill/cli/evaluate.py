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
    import json

    from segdistill.errors import CasesFailed, InputError
    from segdistill.evaluation.calibration import Calibration
    from segdistill.evaluation.pooled import Pool
    from segdistill.evaluation.results import (
        Results,
        class_names,
        evaluate_cases,
        site_names,
        site_of,
        summarise,
        write_metrics_csv,
    )
    from segdistill.evaluation.robustness import robustness
    from segdistill.files import write_json

    extra = _metrics(metrics)
    chosen = _cases(cases, split)
    pool = Pool() if pooled else None
    calibration = Calibration(then=pool) if calibrate else None
    predict, intensity = _predictor(model, scores=pooled or calibrate or "rmse_map" in extra)
    results, failed = Results(), []
    for case in _shown(chosen):
        try:
            one = evaluate_cases([case], predict, intensity=intensity, extra=extra, pool=calibration or pool)
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
        "by_label": {name: summary[name] for name in class_names(summary) if name != "all"},
        "normal": summary.get("normal"),
        **(
            {"by_site": {name: summary[site_of(name)] for name in site_names(summary)}}
            if site_names(summary)
            else {}
        ),
        **({"pooled": pool.metrics()} if pool is not None else {}),
        **({"calibration": calibration.metrics()} if calibration is not None else {}),
        "cases": len(results),
        "skipped": results.skipped,
        "failed": failed,
        "split": split,
    }
    if disturb:
        found = _shown(robustness(chosen, predict, results, intensity=intensity), "disturbing", 10)
        report["robustness"] = [one.to_dict() for one in found]
    if out is not None:
        write_metrics_csv(results, out / "metrics.csv")
        write_json(out / "evaluation.json", report)
        _write_report(out, model, cases.name, chosen, results, predict, intensity, report)
    print(json.dumps(report, indent=2)) if as_json else _print(summary, len(results), report.get("pooled"))
    if failed:
        raise CasesFailed(
            f"{len(failed)} of {len(chosen)} cases failed (listed above); the others were evaluated"
        )


def _shown(cases: Iterable[Any], what: str = "evaluating", total: int | None = None) -> Iterable[Any]:
    """The cases, with a progress bar on a terminal."""
    if not sys.stderr.isatty():
        return cases
    from rich.console import Console
    from rich.progress import track

    return track(cases, what, total=total, console=Console(stderr=True))


def _write_report(
    out: Path,
    model: str,
    table: str,
    cases: list[Any],
    results: Any,
    predict: Any,
    intensity: Any,
    facts: dict[str, Any],
) -> None:
    """report.html of this one model; without the extra [report] a line says what is missing."""
    from segdistill.errors import MissingExtra
    from segdistill.evaluation.report_build import finish_report
    from segdistill.evaluation.report_data import DataReport, Report, StageReport

    measured = {name: facts[name] for name in ("pooled", "calibration", "robustness") if name in facts}
    stage = StageReport(name=Path(model).name, role="student", results=results, **measured)
    report = Report(
        title=f"Evaluation of {model}",
        stages=[stage],
        data=DataReport(table, skipped=results.skipped),
    )
    try:
        finish_report(report, cases, cases, lambda _: predict, intensity, out / "report.html")
    except MissingExtra as error:
        typer.echo(f"no report.html: {error}", err=True)


def _metrics(text: str) -> list[str]:
    from segdistill.errors import InputError
    from segdistill.evaluation.results import EXTRA_METRICS
    from segdistill.registry import near_names

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in EXTRA_METRICS:
            raise InputError(f"--metrics: unknown metric '{name}': {near_names(name, EXTRA_METRICS)}")
    return names


def _cases(table: Path, split: str) -> list[Any]:
    from segdistill.data.case import SPLITS
    from segdistill.data.cases import read_cases, select
    from segdistill.data.datasets import index_dataset
    from segdistill.errors import InputError
    from segdistill.registry import near_names

    if not table.exists():
        raise InputError(f"no such case table or folder: {table}")
    cases = index_dataset("folder", table) if table.is_dir() else read_cases(table)
    splits = {case.split for case in cases}
    if split not in (*SPLITS, "all"):
        raise InputError(f"--split: unknown split '{split}': {near_names(split, [*SPLITS, 'all'])}")
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


def _predictor(model: str, scores: bool) -> tuple[Any, Any]:
    """What segments a picture (with probabilities if asked for), and how the values of a volume become 8 bits."""
    from segdistill.errors import InputError

    if model.endswith(".onnx"):
        from segdistill.evaluation.results import Scored
        from segdistill.runtime.predictor import Predictor

        predictor = Predictor(model)

        def segment(picture: Any) -> Any:
            answer = predictor.predict_pixels(picture.pixels)
            return Scored(answer.mask, answer.probability) if scores else answer.mask

        return segment, predictor.info.preprocess.intensity
    with needs("evaluating a stage of a run", "train"):
        import torch

        from segdistill.recipes.stage import find_stage, load_stage
        from segdistill.training.inference import mask_predictor, scored_predictor
    stage = load_stage(find_stage(model))
    if not stage.marks:
        raise InputError(
            f"stage {stage.name} is a classifier without a mask: its measures stand in the report of its run"
        )
    make: Any = scored_predictor if scores else mask_predictor
    predict = make(stage.network, stage.preprocess, stage.postprocess, torch.device("cpu"))
    return predict, stage.preprocess.intensity


def _print(summary: dict[str, Any], count: int, pooled: dict[str, Any] | None = None) -> None:
    names = list(summary.get("all", {}))
    print(f"{'':12}{'n':>5}  " + "".join(f"{name:>24}" for name in names))
    for label, metrics in summary.items():
        if label == "normal":
            continue
        cells = "".join(f"{_cell(metrics.get(name, {})):>24}" for name in names)
        print(f"{label:12}{next(iter(metrics.values()))['n']:>5}  {cells}")
    if normal := summary.get("normal"):
        print("normal      " + ", ".join(f"{name} {_cell(value)}" for name, value in normal.items()))
    if pooled:
        shown = ", ".join(f"{name} {_cell(value)}" for name, value in pooled.items() if value is not None)
        print(f"pooled      {shown}")
    print(f"{count} cases; mean [bootstrap 95 % interval], groups resampled")


def _cell(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:.4f}" if isinstance(value, float) else str(value)
    if value.get("mean") is None:
        return "-"
    if value.get("low") is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"
