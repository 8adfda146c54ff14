"""After training: evaluation of each stage, the report and the model card."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from segdistill.config.matrix import teacher_names
from segdistill.config.schema import EvaluationRecipe, Recipe
from segdistill.data.case import Case, select, table_hash
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.experiment.cases import UNUSED, LoadedCases
from segdistill.experiment.environment import ENVIRONMENT, environment
from segdistill.experiment.evaluation import Evaluation, Subject, write_scores
from segdistill.experiment.events import Event
from segdistill.experiment.inputs import count_taught
from segdistill.experiment.results import external_folder, read_json, read_recipe
from segdistill.experiment.stage import TrainedStage, load_stage
from segdistill.files import atomic_write, sha256_text
from segdistill.imaging.contours import draw_overlay
from segdistill.imaging.grid import VolumePreprocess
from segdistill.imaging.postprocess import resize_probability
from segdistill.imaging.preprocess import Preprocess, prepare_mask
from segdistill.losses import probabilities
from segdistill.metrics.base import Pair
from segdistill.metrics.boxes import score_boxes
from segdistill.metrics.cases import METRICS_FILE, Predict, read_metrics_csv
from segdistill.metrics.classification import (
    CAM_FOLDER,
    CLASSIFICATION_FILE,
    Classified,
    file_stem,
    read_class_report,
    write_classification_csv,
)
from segdistill.metrics.overlap import dice, iou
from segdistill.metrics.robustness import STRENGTHS
from segdistill.models.complexity import complexity
from segdistill.records import (
    Classification,
    Cost,
    DamagedRecord,
    EvaluationRecord,
    GuardRecord,
    RunRecord,
    StageRecord,
    TableRecord,
)
from segdistill.report.approval import FILE as APPLIED_CARD
from segdistill.report.approval import write_applied_model_card
from segdistill.report.data import (
    DataReport,
    ExternalReport,
    PlannedStage,
    Report,
    StageReport,
    TrainingReport,
)
from segdistill.report.model_card import write_model_card
from segdistill.report.page import finish_report
from segdistill.stats.classification import summarise_classification
from segdistill.stats.verdict import Verdict
from segdistill.training.curves import read_curves
from segdistill.training.gradients import find_imbalance
from segdistill.training.inference import (
    grad_cam,
    mask_predictor,
    milliseconds_per_image,
    scored_predictor,
    share_inside,
)
from segdistill.training.saturation import find_saturation

SHOWN = 2
"""Grad-CAM pictures kept of each class."""
_GREEN = (46, 204, 113)
Load = Callable[[Path], TrainedStage]
"""Loads a stage from its folder; a run passes one that keeps what it has loaded."""


def classify_stage(
    stage: TrainedStage, cases: Sequence[Case], device: torch.device, folder: Path
) -> Classification | None:
    """Writes classification.csv and grad_cam/ of a stage into a folder, and gives its scores.

    None for a stage that only segments. Measured are pictures whose label is one of the stage's classes; no volumes.

    Raises:
        InputError: a case cannot be read.
    """
    classes, preprocess = stage.record.labels, stage.preprocess
    shutil.rmtree(folder / CAM_FOLDER, ignore_errors=True)
    if not classes or isinstance(preprocess, VolumePreprocess):
        return None
    network = stage.network.eval().to(device)
    rows: list[Classified] = []
    drawn = dict.fromkeys(classes, 0)
    for case in (case for case in cases if case.label in classes and not case.is_volume):
        opened = open_case(case, stage.preprocess.intensity)
        images = torch.from_numpy(preprocess.inputs(opened.pixels(0))).to(device)
        probability, foreground = _predict(network, images)
        located: dict[str, float] = {}
        if case.has_reference and foreground is not None and len(images) == 1:
            located |= _overlaps(opened, foreground, preprocess, stage.postprocess.threshold)
        activation = _activation(network, images)
        if activation is not None and case.has_reference:
            mask = torch.from_numpy(prepare_mask(opened.reference[0], preprocess.size))[None]
            inside = float(share_inside(activation, mask)[0])
            located |= {} if math.isnan(inside) else {"cam_inside": inside}
        if activation is not None and drawn[case.label] < SHOWN:
            drawn[case.label] += 1
            _draw(activation[0].numpy(), opened, folder / CAM_FOLDER / f"{file_stem(case.id)}.png")
        rows.append(Classified(case.id, case.group_key, case.label, probability, located))
    write_classification_csv(rows, classes, folder / CLASSIFICATION_FILE)
    return summarise_classification(rows, classes)


def _predict(network: torch.nn.Module, images: torch.Tensor) -> tuple[tuple[float, ...], NDArray[Any] | None]:
    """Class probabilities, the mean over patches, and the foreground's probability (H, W) of the first image."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        output = network(images)
        classes = output.label.float().softmax(dim=1).mean(dim=0).double()
        classes = classes / classes.sum()
        if output.logits is None:
            return tuple(classes.tolist()), None
        return tuple(classes.tolist()), (1 - probabilities(output.logits)[0, 0]).cpu().numpy()


def _overlaps(
    opened: OpenedCase, foreground: NDArray[Any], preprocess: Preprocess, threshold: float
) -> dict[str, float]:
    """Map against reference at the network's size, boxes at the image's own; a box gives boxes only."""
    reference = opened.reference[0]
    wide = resize_probability(foreground[None].astype(np.float32), opened.size)[0]
    boxes = score_boxes(wide > threshold, reference)
    found = {"box_iou": boxes.iou, "box_dice": boxes.dice}
    if opened.case.box is not None and not opened.case.masks:
        return found | {"iou": boxes.iou, "dice": boxes.dice}
    pair = Pair(foreground > threshold, prepare_mask(reference, preprocess.size))
    return found | {"iou": iou(pair), "dice": dice(pair)}


def _activation(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    """Grad-CAM (1, H, W) of a picture; None where it is cut into patches, or the network has no such feature."""
    if len(images) > 1:
        return None
    try:
        return grad_cam(network, images).cpu()
    except (InputError, IndexError):
        return None


def _draw(activation: NDArray[Any], opened: OpenedCase, path: Path, longest: int = 192) -> None:
    """The picture, redder where the activation is higher, with the outline of the reference."""
    height, width = opened.size
    scale = longest / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    grey = Image.fromarray(opened.shown(0)).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
    heat = resize_probability(activation[None].astype(np.float32), size)[0][..., None]
    base = np.repeat(np.asarray(grey, np.float32)[..., None], 3, axis=2)
    warm = np.array([255, 80, 0], np.float32)
    mixed = np.clip(base * (1 - 0.6 * heat) + warm * 0.6 * heat, 0, 255).astype(np.uint8)
    mixed = draw_overlay(mixed, [(prepare_mask(opened.reference[0], size), _GREEN)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(mixed).save(temporary, "PNG")


def stage_cost(stage: TrainedStage, device: torch.device, timed: bool = True) -> Cost:
    """Parameters, operations and size of a stage's network, and its time per image where `timed`."""
    patches, shape = stage.preprocess.patches, (stage.preprocess.channels, *stage.preprocess.size)
    threads = torch.get_num_threads()
    counted = complexity(stage.network, shape)
    cost = Cost(counted.parameters, counted.macs, counted.size_mb, input="x".join(map(str, shape)))
    if not timed:
        return cost
    is_gpu = device.type == "cuda"
    return replace(
        cost,
        ms=milliseconds_per_image(stage.network, shape, device),
        machine=torch.cuda.get_device_name(device)
        if is_gpu
        else f"CPU, {threads} thread{'s' * (threads != 1)}",
        engine="torch, float32, batch 1" + (f", one of {patches.count**2} patches" if patches else ""),
    )


def _subject(stage: TrainedStage, scores: bool, device: torch.device) -> Subject:
    make: Any = scored_predictor if scores else mask_predictor
    predict = make(stage.network, stage.preprocess, stage.postprocess, device)
    record = stage.record
    return Subject(
        stage.name,
        predict,
        stage.preprocess.intensity,
        record.variant,
        record.seed,
        record.weights,
        classes=tuple(record.classes[1:]),
        channels=stage.preprocess.channel_names,
    )


def open_stage(folder: Path, scores: bool = False) -> Subject:
    """A stage of a run on the CPU, ready to be evaluated.

    Args:
        folder: of the stage.
        scores: give probabilities beside the masks.

    Raises:
        InputError: no such stage, or one that does not segment.
    """
    stage, device = load_stage(folder), torch.device("cpu")
    if not stage.segments:
        raise InputError(
            f"stage {stage.name} classifies whole images and gives no mask: its scores are in the report of its run"
        )
    run = stage.folder.absolute().parent.parent
    record = RunRecord.read(run)

    def describe() -> Report:
        known = stage_report(stage.folder)
        cost = known.cost if known.cost != Cost() else stage_cost(stage, device)
        return Report(
            title=f"Evaluation of {run.name}, stage {stage.name}",
            stages=[
                replace(known, cost=cost, teachers=(), classes=None)
            ],  # its teachers are not in this report
            description=str(read_recipe(run).get("about") or ""),
            settings=_yaml(record.settings) if record is not None else "",
            environment=environment(device, "32-true"),
        )

    data_hash = record.data_hash if record is not None else ""
    return replace(_subject(stage, scores, device), data_hash=data_hash, describe=describe)


def evaluate_stage(
    folder: Path,
    cases: list[Case],
    device: torch.device,
    evaluation: EvaluationRecipe,
    load: Load = load_stage,
    timed: bool = True,
) -> Iterator[Event]:
    """Writes metrics.csv and evaluation.json of a stage, unless they are there of these weights, files and measures.

    Args:
        folder: of the stage.
        cases: to measure.
        device: of the network.
        evaluation: what is measured.
        load: gives the network.
        timed: also measure the time per image, which other work on the machine would falsify; a later call with it
            adds the time to an evaluation without it.

    Raises:
        InputError: no such stage, or a case cannot be read.
    """
    try:
        EvaluationRecord.read(folder)
    except DamagedRecord as error:
        yield Event(f"warning: {error}: {folder.name} is evaluated again")
    known = standing_evaluation(folder, cases, evaluation)
    if known is not None:
        if timed and known.cost.ms is None:
            stage = load(folder)
            replace(known, cost=stage_cost(stage, device)).write(folder)
            stage.network.cpu()
        return
    stage = load(folder)
    inputs = _evaluation_inputs(stage.record, cases, evaluation, evaluation.disturbs(stage.name))
    found = _begin(stage, evaluation, device)
    for done in found.measure(cases if stage.segments else []):
        yield Event(f"evaluating {stage.name}", done, len(cases))
    cost = stage_cost(stage, device, timed)
    if evaluation.disturbs(stage.name):
        total = sum(len(strengths) for strengths in STRENGTHS.values())
        for done in found.disturb(cases):
            yield Event(f"disturbing {stage.name}", done, total)
    classification = classify_stage(stage, cases, device, folder)
    stage.network.cpu()  # the run keeps it
    own = {"inputs": inputs, "cost": cost, "classification": classification}
    write_scores(folder, found.results, found.record("test", **own))


def _begin(stage: TrainedStage, evaluation: EvaluationRecipe, device: torch.device) -> Evaluation:
    """The evaluation of a stage as the recipe measures it, before the first case."""
    subject = _subject(stage, evaluation.needs_scores, device)
    return Evaluation(
        subject, evaluation.metrics, evaluation.pooled, evaluation.calibration, evaluation.missed
    )


def evaluate_elsewhere(
    folder: Path,
    table: str,
    cases: Sequence[Case],
    device: torch.device,
    evaluation: EvaluationRecipe,
    load: Load = load_stage,
) -> Iterator[Event]:
    """Writes what `evaluate_stage` does of a table from elsewhere, into the stage's external/TABLE; without cost.

    Args:
        folder: of the stage.
        table: its name.
        cases: to measure; those without a reference are skipped.
        device: of the network.
        evaluation: what is measured; nothing is disturbed.
        load: gives the network.

    Raises:
        InputError: no such stage, or a case cannot be read.
    """
    if standing_evaluation(folder, cases, evaluation, table) is not None:
        return
    place = external_folder(folder, table)
    stage = load(folder)
    found = _begin(stage, evaluation, device)
    for done in found.measure(cases if stage.segments else []):
        yield Event(f"evaluating {stage.name} at {table}", done, len(cases))
    place.mkdir(parents=True, exist_ok=True)
    classification = classify_stage(stage, cases, device, place)
    stage.network.cpu()  # the run keeps it
    inputs = _evaluation_inputs(stage.record, cases, evaluation, disturbed=False)
    write_scores(place, found.results, found.record("all", inputs=inputs, classification=classification))


def standing_evaluation(
    folder: Path, cases: Sequence[Case], evaluation: EvaluationRecipe, table: str = ""
) -> EvaluationRecord | None:
    """The evaluation of a stage if it is of its present weights, these files and measures.

    Args:
        folder: of the stage.
        cases: that are to be measured.
        evaluation: what is to be measured.
        table: from elsewhere; "" for the test cases.

    >>> standing_evaluation(Path("nowhere"), [], EvaluationRecipe())
    """
    place = external_folder(folder, table) if table else folder
    record, known = StageRecord.find(folder), EvaluationRecord.find(place)
    if record is None or known is None or not (place / METRICS_FILE).exists():
        return None
    disturbed = not table and evaluation.disturbs(record.name)
    return known if known.inputs == _evaluation_inputs(record, cases, evaluation, disturbed) else None


def _evaluation_inputs(
    stage: StageRecord, cases: Sequence[Case], evaluation: EvaluationRecipe, disturbed: bool
) -> str:
    """A hash of all that decides the results."""
    facts = [stage.weights_sha256, table_hash(cases), evaluation.facts(), disturbed]
    return sha256_text(json.dumps(facts))


def stage_report(
    folder: Path, note: str = "", tables: Mapping[str, TableRecord] = MappingProxyType({})
) -> StageReport:
    """All that a stage's folder holds for a report.

    Args:
        folder: of a finished stage.
        note: is added to the line on what was trained.
        tables: from elsewhere, on which it was tested.

    Raises:
        InputError: a file is absent or damaged.
    """
    record, evaluation = StageRecord.read(folder), EvaluationRecord.read(folder)
    if record is None:
        raise InputError(f"{folder} has no {StageRecord.FILE}: run its recipe again")
    found = evaluation or EvaluationRecord(model=record.name)
    curves = read_curves(folder / "curves.csv")
    return StageReport(
        name=record.name,
        role=record.role,
        task=(record.about or f"{record.network['name']}, {record.task}") + note,
        variant=record.variant,
        seed=record.seed,
        weights=str(record.weights or ""),
        summary=found.summary if evaluation is not None else None,
        results=read_metrics_csv(folder / METRICS_FILE) if evaluation is not None else (),
        curves=curves,
        cost=found.cost,
        training=TrainingReport(
            record.train_cases,
            record.epochs,
            record.steps,
            record.seconds,
            record.equal_time_to,
            [*map(str, find_saturation(curves)), *find_imbalance(curves)],
        ),
        teachers=record.teachers,
        pooled=found.pooled,
        calibration=found.calibration,
        robustness=found.robustness,
        environment=read_json(folder / ENVIRONMENT),
        classes=read_class_report(folder),
        external={
            name: external_report(place, table.hash)
            for name, table in tables.items()
            if (place := external_folder(folder, name)).is_dir()
        },
        guard=GuardRecord.find(folder),
    )


def external_report(place: Path, table: str) -> ExternalReport:
    """What was measured on a table from elsewhere.

    Args:
        place: the folder of the evaluation.
        table: hash of the table.

    Raises:
        InputError: a file is absent or damaged.
    """
    found = EvaluationRecord.read(place) or EvaluationRecord(model=place.name)
    results = read_metrics_csv(place / METRICS_FILE)
    return ExternalReport(table, results, found.summary, found.pooled, read_class_report(place))


def stated(recipe: Recipe) -> dict[str, Any]:
    """What the recipe itself sets, with its bases and the changes of the command line, without the defaults.

    >>> stated(Recipe(name="r", stages={"net": {"model": {"name": "unet", "depth": 3}}}))
    {'name': 'r', 'stages': {'net': {'model': {'name': 'unet', 'depth': 3}}}}
    """
    return recipe.model_dump(mode="json", exclude_unset=True)


def _yaml(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else ""


def report_run(
    run: Path,
    recipe: Recipe,
    loaded_cases: LoadedCases,
    chosen: list[str],
    device: torch.device,
    load: Load = load_stage,
    tables: Mapping[str, TableRecord] = MappingProxyType({}),
) -> tuple[list[Verdict], dict[str, TableRecord]]:
    """Writes report.html, model_card.md and applied_model_card.xml of a run.

    Gives the verdicts, which are computed only here, and the tables from elsewhere with the verdicts on them.
    """
    folders = {name: run / "stages" / name for name in chosen}
    shown = recipe.export if recipe.export in chosen else chosen[-1]
    record, evaluated = RunRecord.read(run), EvaluationRecord.read(folders[shown])
    settings, test = stated(recipe), select(loaded_cases.cases, split="test")
    report = Report(
        title=recipe.name,
        description=recipe.about,
        stages=[_stage_of(recipe, name, folders[name], tables) for name in chosen],
        data=DataReport(
            name=loaded_cases.name,
            hash=record.data_hash if record is not None else "",
            split=loaded_cases.split,
            not_trained=f"{len(loaded_cases.barred)}, listed in {UNUSED}" if loaded_cases.barred else "",
            leaks=[str(leak) for leak in loaded_cases.leaks],
            near_duplicates=[str(pair) for pair in loaded_cases.pairs],
            skipped=evaluated.skipped if evaluated is not None else [],
            taught=count_taught(recipe, chosen, loaded_cases.cases),
            external=tables,
        ),
        settings=_yaml(settings),
        planned=_planned(recipe, settings),
        environment=read_json(run / ENVIRONMENT) | {"seed": recipe.seed},
        seed=recipe.seed,
        student=shown if shown == recipe.export else "",  # else the report chooses
        margin=recipe.evaluation.margin,
        is_tested=bool(test),
        card=recipe.card,
    )

    def predictor_of(stage: StageReport) -> Predict:
        trained = load(folders[stage.name])
        return mask_predictor(trained.network, trained.preprocess, trained.postprocess, device)

    intensity = recipe.data.preprocess().intensity
    context = finish_report(report, loaded_cases.cases, test, predictor_of, intensity, run / "report.html")
    write_model_card(context, run / "model_card.md")
    write_applied_model_card(context, run / APPLIED_CARD)
    found = {
        one.name: replace(one.table, verdicts=[verdict.to_dict() for verdict in one.verdicts])
        for one in context.external
    }
    return list(context.verdicts), found


def _stage_of(recipe: Recipe, name: str, folder: Path, tables: Mapping[str, TableRecord]) -> StageReport:
    taught_by = teacher_names(recipe.stages[name].model_dump(mode="json"))
    return replace(stage_report(folder, _out_of_fold(recipe, name), tables), taught_by=taught_by)


def _out_of_fold(recipe: Recipe, name: str) -> str:
    if not recipe.stages[name].is_out_of_fold:
        return ""
    return "; each case is taught by the teachers that did not train on it: teachers.csv"


def _planned(recipe: Recipe, settings: dict[str, Any]) -> dict[str, PlannedStage]:
    return {
        name: PlannedStage(
            role=stage.role or "comparator",
            variant=recipe.variant(name),
            settings=settings["stages"][name],
            equal_time_to=stage.equal_time_to or "",
            in_matrix=stage.may_fail,
        )
        for name, stage in recipe.stages.items()
    }
