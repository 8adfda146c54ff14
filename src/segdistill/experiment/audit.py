"""Label audit: the cases whose masks disagree most with networks that did not train on them."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from segdistill.config.folds import fold_name
from segdistill.config.schema import Recipe
from segdistill.data.case import Case, with_channels
from segdistill.data.maps import labels_of
from segdistill.data.opened import OpenedCase, open_case
from segdistill.data.table import read_cases
from segdistill.errors import InputError
from segdistill.experiment.export import model_info
from segdistill.experiment.inputs import stage_cases
from segdistill.experiment.results import FOLDS_FILE, fold_folder, read_folds, read_recipe
from segdistill.experiment.stage import TrainedStage, load_stage
from segdistill.files import csv_cell, write_text
from segdistill.imaging.grid import VolumePreprocess, slices_at
from segdistill.metrics.base import Pair
from segdistill.metrics.overlap import class_dice, dice
from segdistill.plugins import load_plugins, use_installed
from segdistill.records import RunRecord
from segdistill.registry import near_names
from segdistill.runtime.predictor import Predictor
from segdistill.training.inference import TorchEngine, scored_predictor

COLUMNS = ("rank", "case", "image", "mask", "score", "looks_like", "dice", "networks")
EXTRA_SHARE = 0.7
"""Weight of foreground that only the networks see, against foreground that only the mask has."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """How much the mask of a case disagrees with the networks that did not train on it.

    Attributes:
        case: whose mask.
        score: from 0 to 1, see `disagreement`.
        looks_like: what the mask may be, in words, see `looks_like`.
        dice: between the mask and the prediction.
        networks: how many networks predicted it.
    """

    case: Case
    score: float
    looks_like: str
    dice: float
    networks: int


@dataclass(frozen=True)
class Audit:
    """The findings of an audit, the most suspicious mask first.

    Attributes:
        findings: one for each case with a mask that some network did not train on.
        unseen: how many cases with a mask were not audited, since every network trained on them.
        notes: which networks predicted, a line each.
    """

    findings: Sequence[Finding]
    unseen: int
    notes: Sequence[str]
    _networks: dict[str, list[Path]] = field(repr=False)

    def probability(self, case: Case) -> Map:
        """The mean probability of each class but the background, (K, D, H, W), D = 1 for a picture; computed again.

        Raises:
            InputError: a network or the image cannot be read.
        """
        return _Networks().predict(case, self._networks[case.id])

    def predicted(self, case: Case) -> NDArray[np.bool_]:
        """Where the networks see foreground in a case, (D, H, W); as `probability`."""
        return labels_of(self.probability(case)) > 0

    def to_dict(self, top: int) -> dict[str, Any]:
        """The first findings, and the notes, as plain types for JSON."""
        rows = [
            {
                "rank": rank,
                "case": row.case.id,
                "score": row.score,
                "looks_like": row.looks_like,
                "dice": row.dice,
                "networks": row.networks,
            }
            for rank, row in enumerate(self.findings[:top], 1)
        ]
        return {
            "masks": len(self.findings),
            "unseen": self.unseen,
            "notes": list(self.notes),
            "findings": rows,
        }

    def write_table(self, path: Path) -> None:
        """Writes the findings as CSV: rank, case, image, mask, score, looks_like, dice, networks."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, row in enumerate(self.findings, 1):
            files = (";".join(map(str, row.case.image_files)), ";".join(map(str, row.case.masks)))
            values = (str(rank), row.case.id, *files, f"{row.score:.4f}", row.looks_like, f"{row.dice:.4f}")
            writer.writerow([*map(csv_cell, values), row.networks])
        write_text(path, text.getvalue())


@use_installed(False)
def audit(
    run: str | Path,
    stage: str | None = None,
    *,
    table: str | Path | None = None,
    plugins: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Compares each mask with the mean prediction of the networks of a run that did not train on it.

    Of a cross-validated run each case is predicted by the network of the fold that tested it; stages with `out_of_fold`
    predict the cases that they did not train on; any other stage the cases outside its training.

    Args:
        run: the folder of a run or of a cross-validated one.
        stage: whose networks; by default all stages with `out_of_fold`, else the one that the recipe exports, or the
            only one.
        table: a case table with other masks of the same cases, such as corrected ones; by default that of the run.
        plugins: files and modules to run first, because a network comes from them.
        progress: called with (done, total) cases.

    Raises:
        InputError: no such run or stage, or no case with a mask that a network did not train on.

    >>> audit("nowhere")
    Traceback (most recent call last):
    segdistill.errors.InputError: nowhere is not the folder of a run: it has no recipe.yaml
    """
    load_plugins(plugins)
    cases, networks, notes = _networks_of_cases(Path(run), stage)
    if table is not None:
        cases = {case.id: case for case in read_cases(table) if case.id in cases}
    masked = [case for case in cases.values() if _has_mask(case)]
    audited = [case for case in masked if case.id in networks]
    if not masked:
        raise InputError(f"{table or run} has no mask of a case of the run: give a table with the same ids")
    if not audited:
        raise InputError(
            f"{run}: every network trained on all cases that have a mask: run its recipe with --set folds=5"
        )
    found, predictor = [], _Networks()
    order = sorted(audited, key=lambda case: networks[case.id])  # a network is loaded once
    for done, case in enumerate(order, 1):
        found.append(_finding(case, predictor.predict(case, networks[case.id]), len(networks[case.id])))
        if progress is not None:
            progress(done, len(audited))
    found.sort(key=lambda row: (-row.score, row.case.id))
    return Audit(found, len(masked) - len(audited), notes, networks)


def _has_mask(case: Case) -> bool:
    """Whether there is a mask to audit, be it that of a normal image; a box is none."""
    return bool(case.masks) or (case.is_normal and case.box is None)


def _finding(case: Case, probability: Map, networks: int) -> Finding:
    reference = open_case(case).reference
    mask, predicted = reference != 0, labels_of(probability)
    words = looks_like(mask, predicted > 0)
    if len(probability) == 1:
        score, overlap = disagreement(mask, probability[0]), dice(Pair(predicted > 0, mask))
        return Finding(case, score, words, overlap, networks)
    overlap = class_dice(predicted, np.asarray(reference, np.uint8))
    if words == "other outline" and overlap < dice(Pair(predicted > 0, mask)) - 0.15:
        words = "other classes"
    return Finding(case, class_disagreement(reference, probability), words, overlap, networks)


def disagreement(mask: NDArray[np.bool_], probability: Map, extra_share: float = EXTRA_SHARE) -> float:
    """How surely a prediction contradicts a mask, from 0 to 1.

    A pixel is certain by |2p - 1|, p the probability of foreground. Two shares are added: the certain foreground of the
    prediction that the mask lacks, of all foreground predicted (weight 0.7), and the certain background of the
    prediction that the mask has as foreground, of all foreground of the mask (0.3). The first counts more because a
    network often overlooks a faint structure, and seldom is certain of one that is not there. After the idea of
    confident learning (Northcutt et al. 2021): an error is where a network that did not see the label is certain of
    another one.

    Args:
        mask: (..., H, W).
        probability: of foreground, the same shape.
        extra_share: weight of what the mask lacks.

    >>> mask = np.array([[True, False]])
    >>> disagreement(mask, np.array([[1, 0]], np.float32)), disagreement(mask, np.array([[0, 1]], np.float32))
    (0.0, 1.0)
    """
    certain = np.abs(2 * probability.astype(np.float64) - 1)
    predicted = probability > 0.5
    extra = certain[predicted & ~mask].sum() / max(int(predicted.sum()), 1)
    missed = certain[mask & ~predicted].sum() / max(int(mask.sum()), 1)
    if not mask.any():  # nothing to miss
        return float(extra)
    return float(extra_share * extra + (1 - extra_share) * missed)


def class_disagreement(mask: NDArray[Any], probability: Map, extra_share: float = EXTRA_SHARE) -> float:
    """`disagreement` for several classes: a voxel is certain by how much more probable its predicted class is.

    Where both have foreground of other classes, the prediction has what the mask lacks and lacks what the mask has.

    Args:
        mask: (..., H, W) of the indices of classes.
        probability: (K, ..., H, W) of the K classes but the background.
        extra_share: weight of what the mask lacks.

    >>> mask, other = np.array([[1, 0, 2]]), np.array([[2, 0, 1]])
    >>> certain = np.stack([mask == 1, mask == 2]).astype(np.float32)
    >>> class_disagreement(mask, certain), class_disagreement(other, certain)
    (0.0, 1.0)
    """
    whole = np.concatenate([np.clip(1 - probability.sum(0, keepdims=True), 0, 1), probability]).astype(
        np.float64
    )
    predicted = labels_of(probability)
    own, other = (np.take_along_axis(whole, each[None].astype(np.intp), 0)[0] for each in (predicted, mask))
    certain = np.where(predicted != mask, np.clip(own - other, 0, 1), 0)
    extra = certain[predicted > 0].sum() / max(int((predicted > 0).sum()), 1)
    missed = certain[mask > 0].sum() / max(int((mask > 0).sum()), 1)
    return float(extra if not mask.any() else extra_share * extra + (1 - extra_share) * missed)


def looks_like(mask: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> str:
    """What a mask may be, compared with a prediction, in words.

    >>> row = np.arange(8)[None]
    >>> looks_like(row < 0, row < 3), looks_like(row > 2, row < 3), looks_like(row == 7, row < 3)
    ('empty mask', 'inverted', 'foreground elsewhere')
    """
    own, other = int(mask.sum()), int(predicted.sum())
    if not own or not other:
        return "empty mask" if other else "nothing predicted" if own else "both empty"
    overlap = dice(Pair(predicted, mask))
    if 2 * own > mask.size and dice(Pair(predicted, ~mask)) > overlap:
        return "inverted"
    if overlap < 0.1:
        return "foreground elsewhere"
    if max(own, other) > 2 * min(own, other):
        return "much larger than predicted" if own > other else "much smaller than predicted"
    return (
        "shifted outline"
        if overlap < 0.7 and _overlap_in_place(mask, predicted) > overlap + 0.15
        else "other outline"
    )


def _overlap_in_place(mask: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    """Dice after the mask is moved so that its centre is that of the prediction."""
    places = [np.argwhere(each) for each in (mask, predicted)]
    move = np.rint(places[1].mean(axis=0) - places[0].mean(axis=0)).astype(int)
    moved = places[0] + move
    inside = ((moved >= 0) & (moved < mask.shape)).all(axis=1)
    common = int(predicted[tuple(moved[inside].T)].sum())
    return 2 * common / (len(places[0]) + len(places[1]))


class _Networks:
    """Predicts cases with the mean of several networks; keeps those of the last case."""

    def __init__(self) -> None:
        self._loaded: dict[Path, TrainedStage] = {}

    def predict(self, case: Case, folders: Sequence[Path]) -> Map:
        """The mean probability of each class but the background, (K, D, H, W).

        Of one class it is moved so that each network's threshold lies at 0.5.
        """
        self._loaded = {path: self._loaded.get(path) or load_stage(path) for path in folders}
        maps = []
        for stage in self._loaded.values():
            threshold = stage.postprocess.threshold
            found = _class_maps(
                stage,
                open_case(with_channels(case, stage.preprocess.channel_names), stage.preprocess.intensity),
            )
            if len(found) > 1:
                maps.append(found)
                continue
            low, high = found / (2 * threshold), 1 - (1 - found) / (2 * (1 - threshold))
            maps.append(np.where(found > threshold, high, low))
        mean: Map = np.mean(maps, axis=0, dtype=np.float32)
        return mean


def _class_maps(stage: TrainedStage, opened: OpenedCase) -> Map:
    """(K, D, H, W) probabilities of a network for a case."""
    if not isinstance(stage.preprocess, VolumePreprocess) and len(stage.postprocess.classes) == 2:
        predict = scored_predictor(stage.network, stage.preprocess, stage.postprocess, torch.device("cpu"))
        return np.stack([predict(opened.picture(k)).score for k in range(len(opened))])[None]
    predictor = Predictor(TorchEngine(stage.network, model_info(stage)))
    if stage.preprocess.dimensions == 2:
        return np.stack([predictor.probabilities(opened.pixels(k)) for k in range(len(opened))], axis=1)
    levels = opened.levels()
    shape = (levels.shape[0], levels.shape[1], levels.shape[2])
    found = predictor.on_grid(lambda k: levels[k], shape, opened.spacing_mm)
    planes = found[-1:] if len(found) <= 2 else found[1:]
    return np.stack(list(slices_at(np.ascontiguousarray(planes), shape)), axis=1)


def _networks_of_cases(
    run: Path, stage: str | None
) -> tuple[dict[str, Case], dict[str, list[Path]], list[str]]:
    """All cases by their ids, the networks that did not train on each, and notes."""
    is_crossed = (run / FOLDS_FILE).exists()
    folders = (
        [fold_folder(run, fold) for fold in read_folds(run).get("finished", [])] if is_crossed else [run]
    )
    if not folders:
        raise InputError(f"{run} has no finished fold: run its recipe again")
    cases: dict[str, Case] = {}
    networks: defaultdict[str, list[Path]] = defaultdict(list)
    notes: list[str] = []
    for folder in folders:
        recipe, known = _recipe(folder), read_cases(folder / "cases.csv")
        cases |= {case.id: case for case in known}
        for name in _stages(folder, recipe, stage):
            unseen = [case for case in known if case.id not in _seen(recipe, name, known)]
            if is_crossed:
                unseen = [case for case in unseen if case.split == "test"]
            for case in unseen:
                networks[case.id].append(folder / "stages" / name)
            masked = sum(map(_has_mask, unseen))
            label = f"{folder.name}/{name}" if is_crossed else name
            notes.append(f"{label}: {masked} cases with a mask that it did not train on")
    return cases, dict(networks), notes


def _recipe(folder: Path) -> Recipe:
    content = read_recipe(folder)
    if not content:
        raise InputError(f"{folder} is not the folder of a run: it has no recipe.yaml")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"{folder / 'recipe.yaml'} is damaged: restore it, or run the recipe again"
        ) from error


def _stages(folder: Path, recipe: Recipe, wanted: str | None) -> list[str]:
    """The stages that predict: those that are named, or that the recipe makes the best choice."""
    networks = {name for name, part in recipe.stages.items() if part.task != "autoencoder"}
    if wanted is None:
        by_fold = [name for name in recipe.stages if recipe.stages[name].out_of_fold is not None]
        record = RunRecord.read(folder)
        exported = (record.export if record is not None else None) or recipe.export
        found = by_fold or ([exported] if exported else list(networks) if len(networks) == 1 else [])
        if not found:
            raise InputError(
                f"{folder} exports no stage: choose one with --stage: {', '.join(sorted(networks))}"
            )
        return found
    prefix = fold_name(wanted, 0)[:-1]
    found = recipe.named(wanted) or [
        name
        for name, part in recipe.stages.items()
        if part.out_of_fold is not None and name == f"{prefix}{part.out_of_fold.fold}"
    ]
    found = [name for name in found if name in networks]
    if not found:
        raise InputError(f"{folder} has no stage '{wanted}': {near_names(wanted, networks)}")
    return found


def _seen(recipe: Recipe, name: str, cases: Sequence[Case]) -> set[str]:
    """The cases that a stage, or one that it starts from, trained on."""
    seen: set[str] = set()
    start: str | None = name
    while start is not None:
        seen |= {case.id for case in stage_cases(recipe, start, list(cases), "train")}
        start = recipe.stages[start].starts_from
    return seen
