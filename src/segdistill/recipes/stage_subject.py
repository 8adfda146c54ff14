"""A stage of a run as what is evaluated: its masks, and what its report says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from segdistill.errors import InputError
from segdistill.evaluation.evaluating import Subject
from segdistill.evaluation.report_data import Report
from segdistill.recipes.environment import environment
from segdistill.recipes.results import RUN_FILE, read_json, read_recipe
from segdistill.recipes.schema import Recipe, parse_recipe
from segdistill.recipes.schema_stage import StageRecipe
from segdistill.recipes.stage import TrainedStage, find_stage, load_stage
from segdistill.recipes.stage_report import stage_cost, stage_report
from segdistill.training.inference import mask_predictor, scored_predictor


def open_stage(model: str, scores: bool = False) -> Subject:
    """A stage of a run on the CPU, ready to be evaluated.

    Args:
        model: RUN, RUN:STAGE or a stage's folder.
        scores: give probabilities beside the masks.

    Raises:
        InputError: no such stage, or one that marks nothing.
    """
    stage = load_stage(find_stage(model))
    if not stage.marks:
        raise InputError(
            f"stage {stage.name} is a classifier without a mask: its measures stand in the report of its run"
        )
    device = torch.device("cpu")
    make: Any = scored_predictor if scores else mask_predictor
    predict = make(stage.network, stage.preprocess, stage.postprocess, device)
    facts = read_json(_run_of(stage) / RUN_FILE)
    return Subject(
        predict,
        stage.preprocess.intensity,
        lambda: _describe(stage, f"Evaluation of {model}", device),
        str(facts.get("data_hash") or ""),
    )


def _run_of(stage: TrainedStage) -> Path:
    return stage.folder.absolute().parent.parent


def _describe(stage: TrainedStage, title: str, device: torch.device) -> Report:
    """The stage as the report of its run shows it, but for its scores there."""
    run = _run_of(stage)
    recipe = _recorded(run)
    part = recipe.stages.get(stage.name) if recipe is not None else None
    known = stage_report(stage.folder, part or _from_folder(stage))
    own = replace(
        known,
        cost=known.cost or stage_cost(stage, device),
        teachers=(),  # they are not of this report
        classes=None,
    )
    return Report(
        title=title,
        stages=[own],
        description=recipe.about if recipe is not None else "",
        settings=_settings(run, recipe),
        environment=environment(device, "32-true"),
    )


def _recorded(run: Path) -> Recipe | None:
    """The recipe of the stage's run; None where it is absent or of another version."""
    content = read_recipe(run)
    try:
        return parse_recipe(content, str(run / "recipe.yaml")) if content else None
    except InputError:
        return None


def _from_folder(stage: TrainedStage) -> StageRecipe:
    """What stage.json alone says, where there is no recipe."""
    known = {name: stage.info[name] for name in ("role", "about") if name in stage.info}
    return StageRecipe.model_validate({**known, "model": {**stage.info["model"], "pretrained": None}})


def _settings(run: Path, recipe: Recipe | None) -> str:
    """What the recipe stated; of a run that did not keep it, what differs from the defaults."""
    stated = read_json(run / RUN_FILE).get("settings")
    if isinstance(stated, str):
        return stated
    if recipe is None:
        return ""
    return yaml.safe_dump(
        recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
