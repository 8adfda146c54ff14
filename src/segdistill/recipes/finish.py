"""After training: evaluation of each stage, the report and the model card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from segdistill.data.cases import Case, select, table_hash
from segdistill.evaluation.evaluating import Evaluation
from segdistill.evaluation.model_card import write_model_card
from segdistill.evaluation.report_build import finish_report
from segdistill.evaluation.report_data import DataReport, Report, StageReport
from segdistill.evaluation.results import Predict, write_metrics_csv
from segdistill.evaluation.robustness import STRENGTHS, robustness
from segdistill.files import sha256_text, write_json
from segdistill.recipes.classify import classify_stage
from segdistill.recipes.environment import ENVIRONMENT
from segdistill.recipes.event import Event
from segdistill.recipes.gather import Gathered
from segdistill.recipes.results import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json
from segdistill.recipes.schema import Recipe
from segdistill.recipes.schema_evaluation import EvaluationRecipe
from segdistill.recipes.stage import TrainedStage, load_stage
from segdistill.recipes.stage_report import stage_cost, stage_report
from segdistill.recipes.unseen import count_taught
from segdistill.training.inference import mask_predictor, scored_predictor


def evaluate_stage(
    folder: Path, cases: list[Case], device: torch.device, evaluation: EvaluationRecipe
) -> Iterator[Event]:
    """Writes metrics.csv and evaluation.json of a stage, unless they already are of these weights, files and measures.

    Raises:
        InputError: no such stage, or a case cannot be read.
    """
    stage = load_stage(folder)
    inputs = _evaluation_inputs(stage, cases, evaluation)
    known = read_json(folder / SUMMARY_FILE)
    if known.get("inputs") == inputs and (folder / METRICS_FILE).exists():
        return
    make = scored_predictor if evaluation.needs_scores else mask_predictor
    predict: Predict = make(stage.network, stage.preprocess, stage.postprocess, device)
    found = Evaluation(evaluation.metrics, evaluation.pooled, evaluation.calibration)
    intensity = stage.preprocess.intensity
    for done, case in enumerate(cases if stage.marks else [], 1):
        found.add(case, predict, intensity)
        yield Event(f"evaluating {stage.name}", done, len(cases))
    write_metrics_csv(found.results, folder / METRICS_FILE)
    facts: dict[str, Any] = {
        "inputs": inputs,
        "skipped": found.results.skipped,
        "cost": stage_cost(stage, device),
        "summary": found.summary,
    }
    if evaluation.disturbs(stage.name) and any(not one.normal for one in found.results):
        total = sum(len(strengths) for strengths in STRENGTHS.values())
        for disturbed in robustness(cases, predict, found.results, intensity=intensity):
            found.robustness.append(disturbed.to_dict())
            yield Event(f"disturbing {stage.name}", len(found.robustness), total)
    measured = {
        "calibration": found.calibration,
        "robustness": found.robustness,
        "classification": classify_stage(stage, cases, device),
        "pooled": found.pooled,
    }
    write_json(folder / SUMMARY_FILE, facts | {name: value for name, value in measured.items() if value})


def _evaluation_inputs(stage: TrainedStage, cases: list[Case], evaluation: EvaluationRecipe) -> str:
    """A hash of all that decides the results; what is not set leaves no trace, so that earlier results stay valid."""
    facts: list[Any] = [stage.info["weights_sha256"], table_hash(cases)]
    if evaluation.facts() != EvaluationRecipe().facts():
        facts.append(evaluation.facts())
    if evaluation.disturbs(stage.name):
        facts.append("robustness")
    return sha256_text(json.dumps(facts))


def stated_yaml(recipe: Recipe) -> str:
    """What the recipe itself says, with its bases and the changes of the command line, without the defaults.

    >>> print(stated_yaml(Recipe(name="r", stages={"net": {"model": {"name": "unet", "depth": 3}}})))
    name: r
    stages:
      net:
        model:
          name: unet
          depth: 3
    <BLANKLINE>
    """
    stated = recipe.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(stated, sort_keys=False, allow_unicode=True)


def report_run(
    run: Path, recipe: Recipe, gathered: Gathered, chosen: list[str], device: torch.device
) -> None:
    """Writes report.html and model_card.md of a run."""
    shown = recipe.export if recipe.export in chosen else chosen[-1]
    facts = read_json(run / RUN_FILE)
    report = Report(
        title=recipe.name,
        description=recipe.about,
        stages=[stage_report(run / "stages" / name, recipe.stages[name]) for name in chosen],
        data=DataReport(
            name=gathered.name,
            hash=facts.get("data_hash", ""),
            split=gathered.split,
            leaks=facts.get("leaks", []),
            near_duplicates=facts.get("near_duplicates", []),
            skipped=read_json(run / "stages" / shown / SUMMARY_FILE).get("skipped", []),
            taught=count_taught(recipe, chosen, gathered.cases),
        ),
        settings=stated_yaml(recipe),
        environment=read_json(run / ENVIRONMENT) | {"seed": recipe.seed},
        seed=recipe.seed,
        student=shown if shown == recipe.export else "",  # else the report chooses
        margin=recipe.evaluation.margin,
    )

    def predictor_of(stage: StageReport) -> Predict:
        trained = load_stage(run / "stages" / stage.name)
        return mask_predictor(trained.network, trained.preprocess, trained.postprocess, device)

    test = select(gathered.cases, split="test")
    intensity = recipe.data.preprocess().intensity
    finish_report(report, gathered.cases, test, predictor_of, intensity, run / "report.html")
    write_model_card(report, run / "model_card.md")
