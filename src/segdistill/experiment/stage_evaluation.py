"""After training: evaluation of each stage, the report and the model card."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from segdistill.config.schema import EvaluationRecipe, Recipe, StageRecipe, parse_recipe
from segdistill.data.case import Case, select, table_hash
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.experiment.cases import LoadedCases
from segdistill.experiment.environment import ENVIRONMENT, environment
from segdistill.experiment.evaluate import Evaluation, Subject
from segdistill.experiment.events import Event
from segdistill.experiment.inputs import count_taught
from segdistill.experiment.results import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json, read_recipe
from segdistill.experiment.stage import TrainedStage, find_stage, load_stage
from segdistill.experiment.train import training_summary
from segdistill.files import atomic_write, sha256_text, write_json
from segdistill.imaging.contours import draw_overlay
from segdistill.imaging.postprocess import resize_probability
from segdistill.imaging.preprocess import prepare_mask
from segdistill.losses import probabilities
from segdistill.metrics.boxes import score_boxes
from segdistill.metrics.cases import Predict, read_metrics_csv, write_metrics_csv
from segdistill.metrics.overlap import FROM_COUNTS, count_pixels
from segdistill.models.complexity import complexity
from segdistill.report.data import DataReport, Report, StageReport
from segdistill.report.model_card import write_model_card
from segdistill.report.page import finish_report
from segdistill.stats.classification import (
    CAM_FOLDER,
    CLASSIFICATION_FILE,
    Classified,
    file_stem,
    read_class_report,
    summarise_classification,
    write_classification_csv,
)
from segdistill.stats.robustness import STRENGTHS, robustness
from segdistill.training.curves import read_curves
from segdistill.training.inference import (
    grad_cam,
    mask_predictor,
    milliseconds_per_image,
    scored_predictor,
    share_inside,
)

SHOWN = 2
"""Grad-CAM pictures kept of each class."""
_GREEN = (46, 204, 113)


def classify_stage(stage: TrainedStage, cases: Sequence[Case], device: torch.device) -> dict[str, Any]:
    """Writes classification.csv and grad_cam/ of a stage, and gives what evaluation.json keeps as "classification".

    Pictures whose label is one of the stage's classes count; volumes do not. Empty for a stage that only segments.

    Raises:
        InputError: a case cannot be read.
    """
    classes = stage.record.labels
    shutil.rmtree(stage.folder / CAM_FOLDER, ignore_errors=True)
    if not classes:
        return {}
    network = stage.network.eval().to(device)
    rows: list[Classified] = []
    drawn = dict.fromkeys(classes, 0)
    for case in (case for case in cases if case.label in classes and not case.is_volume):
        opened = open_case(case, stage.preprocess.intensity)
        images = torch.from_numpy(stage.preprocess.inputs(opened.pixels(0))).to(device)
        targets, foreground = _ask(network, images)
        located: dict[str, float] = {}
        if case.has_reference and foreground is not None and len(images) == 1:
            located |= _overlaps(opened, foreground, stage)
        activation = _activation(network, images)
        if activation is not None and case.has_reference:
            mask = torch.from_numpy(prepare_mask(opened.reference[0], stage.preprocess.size))[None]
            inside = float(share_inside(activation, mask)[0])
            located |= {} if math.isnan(inside) else {"cam_inside": inside}
        if activation is not None and drawn[case.label] < SHOWN:
            drawn[case.label] += 1
            _draw(activation[0].numpy(), opened, stage.folder / CAM_FOLDER / f"{file_stem(case.id)}.png")
        rows.append(Classified(case.id, case.group_key, case.label, targets, located))
    write_classification_csv(rows, classes, stage.folder / CLASSIFICATION_FILE)
    return summarise_classification(rows, classes)


def _ask(network: torch.nn.Module, images: torch.Tensor) -> tuple[tuple[float, ...], NDArray[Any] | None]:
    """Class probabilities, the mean over patches, and the foreground's probability (H, W) of the first image."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        output = network(images)
        targets = output.label.float().softmax(dim=1).mean(dim=0).double()
        targets = targets / targets.sum()
        if output.logits is None:
            return tuple(targets.tolist()), None
        stated = probabilities(output.logits)
        return tuple(targets.tolist()), (1 - stated[0, 0]).cpu().numpy()


def _overlaps(opened: OpenedCase, foreground: NDArray[Any], stage: TrainedStage) -> dict[str, float]:
    """Map against reference at the network's size; boxes at the image's own. A box stands for boxes at both."""
    reference = opened.reference[0]
    wide = resize_probability(foreground[None].astype(np.float32), opened.size)[0]
    boxes = score_boxes(wide > stage.postprocess.threshold, reference)
    found = {"box_iou": boxes.iou, "box_dice": boxes.dice}
    # only a box is known: the outline of the map cannot be judged
    if opened.case.box is not None and not opened.case.masks:
        return found | {"iou": boxes.iou, "dice": boxes.dice}
    counts = count_pixels(
        foreground > stage.postprocess.threshold, prepare_mask(reference, stage.preprocess.size)
    )
    return found | {name: FROM_COUNTS[name](counts) for name in ("iou", "dice")}


def _activation(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    """Grad-CAM (1, H, W) of a picture that is no patches; None for a network without the feature."""
    if len(images) > 1:
        return None
    try:
        return grad_cam(network, images).cpu()
    except (InputError, IndexError):  # a network without such a map
        return None


def _draw(activation: NDArray[Any], opened: OpenedCase, path: Path, longest: int = 192) -> None:
    """The picture, redder where the class was seen, with the outline of the reference."""
    height, width = opened.size
    scale = longest / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    grey = Image.fromarray(opened.pixels(0)).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
    heat = resize_probability(activation[None].astype(np.float32), size)[0][..., None]
    base = np.repeat(np.asarray(grey, np.float32)[..., None], 3, axis=2)
    warm = np.array([255, 80, 0], np.float32)
    mixed = np.clip(base * (1 - 0.6 * heat) + warm * 0.6 * heat, 0, 255).astype(np.uint8)
    mixed = draw_overlay(mixed, [(prepare_mask(opened.reference[0], size), _GREEN)])
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(mixed).save(temporary, "PNG")


def stage_report(folder: Path, part: StageRecipe) -> StageReport:
    """All that a stage's folder holds for a report.

    Args:
        folder: of the stage.
        part: the stage in its recipe.
    """
    evaluated = read_json(folder / SUMMARY_FILE)
    curves = read_curves(folder / "curves.csv")
    words = part.about or f"{part.model.name}, {part.task}"
    if any(teacher.out_of_fold for teacher in part.teachers.values()):
        words += "; each case is taught by the teachers that did not train on it: teachers.csv"
    return StageReport(
        name=folder.name,
        role=part.role or "comparator",
        task=words,
        summary=evaluated.get("summary", {}),
        results=read_metrics_csv(folder / METRICS_FILE),
        curves=curves,
        cost=evaluated.get("cost", {}),
        training=training_summary(folder, curves),
        teachers=part.taught_by,
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


def open_stage(model: str, scores: bool = False) -> Subject:
    """A stage of a run on the CPU, ready to be evaluated.

    Args:
        model: RUN, RUN:STAGE or a stage's folder.
        scores: give probabilities beside the masks.

    Raises:
        InputError: no such stage, or one that marks nothing.
    """
    stage = load_stage(find_stage(model))
    if not stage.segments:
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
    model = {**stage.record.network, "pretrained": None}
    return StageRecipe.model_validate(
        {"role": stage.record.role, "about": stage.record.about, "model": model}
    )


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
    for done, case in enumerate(cases if stage.segments else [], 1):
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
    facts: list[Any] = [stage.record.weights_sha256, table_hash(cases)]
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
    run: Path, recipe: Recipe, loaded_cases: LoadedCases, chosen: list[str], device: torch.device
) -> None:
    """Writes report.html and model_card.md of a run."""
    shown = recipe.export if recipe.export in chosen else chosen[-1]
    facts = read_json(run / RUN_FILE)
    report = Report(
        title=recipe.name,
        description=recipe.about,
        stages=[stage_report(run / "stages" / name, recipe.stages[name]) for name in chosen],
        data=DataReport(
            name=loaded_cases.name,
            hash=facts.get("data_hash", ""),
            split=loaded_cases.split,
            leaks=facts.get("leaks", []),
            near_duplicates=facts.get("near_duplicates", []),
            skipped=read_json(run / "stages" / shown / SUMMARY_FILE).get("skipped", []),
            taught=count_taught(recipe, chosen, loaded_cases.cases),
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

    test = select(loaded_cases.cases, split="test")
    intensity = recipe.data.preprocess().intensity
    finish_report(report, loaded_cases.cases, test, predictor_of, intensity, run / "report.html")
    write_model_card(report, run / "model_card.md")
