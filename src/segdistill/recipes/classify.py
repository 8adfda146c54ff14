"""Evaluation of stages that say what an image shows: classes, map, boxes and Grad-CAM on every test picture."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segdistill.data.cases import Case
from segdistill.data.opened import OpenedCase, open_case
from segdistill.errors import InputError
from segdistill.evaluation.boxes import score_boxes
from segdistill.evaluation.class_report import CAM_FOLDER, CLASSIFICATION_FILE, file_stem
from segdistill.evaluation.classification_results import (
    Classified,
    summarise_classification,
    write_classification_csv,
)
from segdistill.evaluation.metrics import FROM_COUNTS, count_pixels
from segdistill.files import atomic_write
from segdistill.imaging.contours import draw_overlay
from segdistill.imaging.postprocess import resize_probability
from segdistill.imaging.preprocess import prepare_mask
from segdistill.losses import probabilities
from segdistill.recipes.stage import TrainedStage
from segdistill.training.grad_cam import grad_cam, share_inside

SHOWN = 2
"""Grad-CAM pictures kept of each class."""
_GREEN = (46, 204, 113)


def classify_stage(stage: TrainedStage, cases: Sequence[Case], device: torch.device) -> dict[str, Any]:
    """Writes classification.csv and grad_cam/ of a stage, and gives what evaluation.json keeps as "classification".

    Pictures whose label is one of the stage's classes count; volumes do not. Empty for a stage that only segments.

    Raises:
        InputError: a case cannot be read.
    """
    classes: list[str] = stage.info.get("labels", [])
    shutil.rmtree(stage.folder / CAM_FOLDER, ignore_errors=True)
    if not classes:
        return {}
    network = stage.network.eval().to(device)
    rows: list[Classified] = []
    drawn = dict.fromkeys(classes, 0)
    for case in (case for case in cases if case.label in classes and not case.is_volume):
        opened = open_case(case, stage.preprocess.intensity)
        images = torch.from_numpy(stage.preprocess.inputs(opened.pixels(0))).to(device)
        said, foreground = _ask(network, images)
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
        rows.append(Classified(case.id, case.group_key, case.label, said, located))
    write_classification_csv(rows, classes, stage.folder / CLASSIFICATION_FILE)
    return summarise_classification(rows, classes)


def _ask(network: torch.nn.Module, images: torch.Tensor) -> tuple[tuple[float, ...], NDArray[Any] | None]:
    """Class probabilities, the mean over patches, and the foreground's probability (H, W) of the first image."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        output = network(images)
        said = output.label.float().softmax(dim=1).mean(dim=0).double()
        said = said / said.sum()
        if output.logits is None:
            return tuple(said.tolist()), None
        stated = probabilities(output.logits)
        return tuple(said.tolist()), (1 - stated[0, 0]).cpu().numpy()


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
