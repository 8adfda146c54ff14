"""What a report says of a trained stage: its words, curves, cost, training and environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from segdistill.evaluation.class_report import read_class_report
from segdistill.evaluation.complexity import complexity
from segdistill.evaluation.report_data import StageReport
from segdistill.evaluation.results import read_metrics_csv
from segdistill.recipes.compare import equal_time_to
from segdistill.recipes.environment import ENVIRONMENT
from segdistill.recipes.results import METRICS_FILE, SUMMARY_FILE, read_json
from segdistill.recipes.schema_stage import StageRecipe
from segdistill.recipes.stage import TrainedStage
from segdistill.recipes.train import training_summary
from segdistill.training.curves import read_curves
from segdistill.training.inference import milliseconds_per_image


def stage_report(folder: Path, part: StageRecipe) -> StageReport:
    """All that a stage's folder holds for a report.

    Args:
        folder: of the stage.
        part: the stage in its recipe.
    """
    evaluated = read_json(folder / SUMMARY_FILE)
    curves = read_curves(folder / "curves.csv")
    words = part.about or f"{part.model.name}, {part.task}"
    if any(teacher.unseen for teacher in part.teachers):
        words += "; each case is taught by the teachers that never saw it: teachers.csv"
    return StageReport(
        name=folder.name,
        role=part.role,
        task=words,
        summary=evaluated.get("summary", {}),
        results=read_metrics_csv(folder / METRICS_FILE),
        curves=curves,
        cost=evaluated.get("cost", {}),
        training=training_summary(folder, curves)
        | {"equal_time_to": equal_time_to(folder.parents[1], folder.name)},
        teachers=[teacher.stage for teacher in part.teachers],
        pooled=evaluated.get("pooled", {}),
        calibration=evaluated.get("calibration", {}),
        robustness=evaluated.get("robustness", ()),
        environment=read_json(folder / ENVIRONMENT),
        classes=read_class_report(folder),
    )


def stage_cost(stage: TrainedStage, device: torch.device) -> dict[str, Any]:
    """Parameters, operations and size of a stage's network, and its time per image: `StageReport.cost`."""
    (height, width), patches = stage.preprocess.size, stage.preprocess.patches
    shape = (stage.preprocess.channels, height, width)
    threads = torch.get_num_threads()
    counted = complexity(stage.network, shape)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {threads} thread{'s' * (threads != 1)}"
    )
    return {
        "parameters": counted.parameters,
        "macs": counted.macs,
        "size_mb": counted.size_mb,
        "input": "x".join(map(str, shape)),
        "ms": milliseconds_per_image(stage.network, shape, device),
        "machine": name,
        "engine": "torch, float32, batch 1" + (f", one of {patches.count**2} patches" if patches else ""),
    }
