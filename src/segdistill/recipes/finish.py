"""After training: evaluation of each stage, the report and the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from segdistill.data.cases import Case, select, table_hash
from segdistill.evaluation.complexity import complexity
from segdistill.evaluation.model_card import write_model_card
from segdistill.evaluation.report import (
    DataReport,
    Report,
    StageReport,
    choose_examples,
    collect_examples,
    count_cases,
    write_report,
)
from segdistill.evaluation.results import (
    Results,
    evaluate_cases,
    read_metrics_csv,
    summarise,
    write_metrics_csv,
)
from segdistill.files import sha256_text, write_json
from segdistill.recipes.event import Event
from segdistill.recipes.gather import Gathered
from segdistill.recipes.results import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json
from segdistill.recipes.schema import Recipe
from segdistill.recipes.stage import TrainedStage, load_stage
from segdistill.recipes.train import training_summary
from segdistill.training.curves import read_curves
from segdistill.training.inference import mask_predictor, milliseconds_per_image


def evaluate_stage(folder: Path, cases: list[Case], device: torch.device) -> Iterator[Event]:
    """Writes metrics.csv and evaluation.json of a stage, unless they already are of these weights and files."""
    stage = load_stage(folder)
    inputs = sha256_text(json.dumps([stage.info["weights_sha256"], table_hash(cases)]))
    known = read_json(folder / SUMMARY_FILE)
    if known.get("inputs") == inputs and (folder / METRICS_FILE).exists():
        return
    predict = mask_predictor(stage.network, stage.preprocess, stage.postprocess, device)
    results = Results()
    for done, case in enumerate(cases, 1):
        one = evaluate_cases([case], predict, intensity=stage.preprocess.intensity)
        results.extend(one)
        results.skipped += one.skipped
        yield Event(f"evaluating {stage.name}", done, len(cases))
    write_metrics_csv(results, folder / METRICS_FILE)
    facts = {
        "inputs": inputs,
        "skipped": results.skipped,
        "cost": _cost(stage, device),
        "summary": summarise(results),
    }
    write_json(folder / SUMMARY_FILE, facts)


def _cost(stage: TrainedStage, device: torch.device) -> dict[str, Any]:
    height, width = stage.preprocess.size
    shape = (stage.preprocess.channels, height, width)
    counted = complexity(stage.network, shape)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return {
        "parameters": counted.parameters,
        "macs": counted.macs,
        "size_mb": counted.size_mb,
        "input": "x".join(map(str, shape)),
        "ms": milliseconds_per_image(stage.network, shape, device),
        "machine": name,
        "engine": "torch, float32, batch 1",
    }


def report_run(
    run: Path, recipe: Recipe, gathered: Gathered, chosen: list[str], device: torch.device
) -> None:
    """Writes report.html and model_card.md of a run."""
    test = select(gathered.cases, split="test")
    shown = recipe.export if recipe.export in chosen else chosen[-1]
    examples = choose_examples(read_metrics_csv(run / "stages" / shown / METRICS_FILE))
    ids = [case for kind in ("worst", "median", "best") for case in examples[kind]]
    stages = [_stage_report(run / "stages" / name, recipe, test, ids, device) for name in chosen]
    counts, groups = count_cases(gathered.cases)
    evaluated = read_json(run / "stages" / shown / SUMMARY_FILE)
    facts = read_json(run / RUN_FILE)
    report = Report(
        title=recipe.name,
        description=recipe.about,
        stages=stages,
        data=DataReport(
            name=gathered.name,
            hash=facts.get("data_hash", ""),
            counts=counts,
            groups=groups,
            split=gathered.split,
            leaks=facts.get("leaks", []),
            near_duplicates=facts.get("near_duplicates", []),
            skipped=evaluated.get("skipped", []),
        ),
        settings=(run / "recipe.yaml").read_text(encoding="utf-8"),
        environment=read_json(run / "environment.json") | {"seed": recipe.seed},
        date=datetime.now(UTC).date().isoformat(),
        seed=recipe.seed,
        student=shown,
    )
    write_report(report, run / "report.html")
    write_model_card(report, run / "model_card.md")


def _stage_report(
    folder: Path, recipe: Recipe, test: list[Case], ids: list[str], device: torch.device
) -> StageReport:
    part = recipe.stages[folder.name]
    stage = load_stage(folder)
    predict = mask_predictor(stage.network, stage.preprocess, stage.postprocess, device)
    evaluated = read_json(folder / SUMMARY_FILE)
    curves = read_curves(folder / "curves.csv")
    words = part.about or f"{part.model.name}, {part.task}"
    return StageReport(
        name=folder.name,
        role=part.role,
        task=words,
        summary=evaluated.get("summary", {}),
        results=read_metrics_csv(folder / METRICS_FILE),
        curves=curves,
        cost=evaluated.get("cost", {}),
        training=training_summary(folder, curves),
        examples=collect_examples(test, ids, predict, stage.preprocess.intensity),
        teachers=[teacher.stage for teacher in part.teachers],
    )
