"""The teachers of a stage: networks that run beside it, or predictions that are stored beside the masks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from segdistill.config.folds import families, member_weights
from segdistill.config.schema import (
    InputRecipe,
    MemberRecipe,
    ModelRecipe,
    Recipe,
    StageRecipe,
    TeacherRecipe,
)
from segdistill.data.case import Case, with_channels
from segdistill.data.levels import with_intensity
from segdistill.data.maps import StoredMaps, encode, labels_of, open_maps, writing_maps
from segdistill.data.opened import OpenedCase, open_case
from segdistill.data.predictions import PredictionSource
from segdistill.distillation import StoredTeacher, Teacher
from segdistill.distillation.cache.filling import Filling
from segdistill.errors import InputError
from segdistill.experiment.inputs import OpenedPredictions, StageInputs, file_facts, trained_on
from segdistill.experiment.stage import build_network, load_stage
from segdistill.files import sha256_file, sha256_text, write_json
from segdistill.imaging.grid import VolumePreprocess, resample, slices_at
from segdistill.imaging.picture import Pixels
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import probabilities
from segdistill.metrics.overlap import class_dice
from segdistill.models.network import Output
from segdistill.runtime.engine import Session
from segdistill.runtime.onnx_file import read_onnx
from segdistill.runtime.predictor import Predictor
from segdistill.training.checkpoint import load_weights
from segdistill.training.loop import WEIGHTS
from segdistill.training.optimisation import choose_precision

VERSION = 2
CHUNK = 16
"""Rows that a network predicts at once."""
STEEPNESS = 20.0
"""With `weigh_by: validation` a member whose Dice is 1 / STEEPNESS behind that of the best counts e times less
(docs/results/pays.md)."""

Map = NDArray[np.float32]
Predict = Callable[[Sequence[Case]], list[Map]]
"""Cases -> of each of all their rows the probability of K foreground classes, float32 (K, H, W) as the store's rows, or
(K, D, H, W) of volumes."""


def live_teachers(inputs: StageInputs, fabric: Fabric) -> list[Teacher]:
    """The teachers of a stage as networks, each loaded from its stage's folder.

    Raises:
        InputError: a stage is not finished, or its weights have changed.
    """
    stage = inputs.stage
    teachers = []
    for name, teacher in stage.teachers.items():
        network, autocast = _stage_network(inputs, teacher.stage, fabric)
        teachers.append(
            Teacher(name, network, teacher.weight, teacher.labels, autocast, stage.finetune_teachers)
        )
    return teachers


def stored_teachers(stage: StageRecipe) -> list[StoredTeacher]:
    """The teachers of a stage whose predictions are stored."""
    return [StoredTeacher(name, teacher.weight, teacher.labels) for name, teacher in stage.teachers.items()]


def _stage_network(inputs: StageInputs, stage: str, fabric: Fabric) -> tuple[nn.Module, torch.dtype | None]:
    """The network of a stage on the device, and the dtype of its autocast."""
    model = inputs.recipe.stages[stage].model.name
    chosen = choose_precision(inputs.settings.precision, fabric.device, model)
    network = load_stage(inputs.teacher_folder(stage)).network.to(fabric.device)
    if inputs.settings.channels_last and not inputs.store.holds_volumes:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, torch.bfloat16 if chosen.startswith("bf16") else None


@dataclass(frozen=True)
class _Plan:
    """What is stored for a teacher: its training cases, the share (N, M) of each member in each, and the key."""

    name: str
    teacher: TeacherRecipe
    cases: list[Case]
    shares: NDArray[np.float64]
    key: str


def plan_maps(inputs: StageInputs, fabric: Fabric) -> list[_Plan]:
    """What the teachers of a stage are to predict.

    Raises:
        InputError: a file of a teacher is not there, or its predictions cover none of the cases.
    """
    found = inputs.of("train")
    plans = []
    for name, teacher in inputs.stage.teachers.items():
        shares = _covered(inputs, teacher, found, _weights(inputs, teacher, fabric))
        wanted = sorted(
            np.flatnonzero(shares.sum(axis=1) > 0), key=lambda k: inputs.store.rows(found[k].id)[0]
        )
        cases = [found[k] for k in wanted]
        facts = {
            "version": VERSION,
            "members": [member_facts(inputs, member, found) for member in teacher.members],
            "cases": [case.id for case in cases],
            "shares": shares[wanted].round(9).tolist(),
        }
        key = sha256_text(json.dumps(facts, sort_keys=True))[:16]
        plans.append(_Plan(name, teacher, cases, shares[wanted], key))
    return plans


def _covered(
    inputs: StageInputs, teacher: TeacherRecipe, cases: Sequence[Case], weights: Sequence[float]
) -> NDArray[np.float64]:
    """The shares of the members, without those that have no prediction of a case."""
    shares = member_weights(inputs.recipe, teacher, cases, inputs.cases, weights)
    there = np.ones_like(shares)
    for m, member in enumerate(teacher.members):
        if member.predictions is not None:
            files = inputs.predictions.of(member, cases).files
            there[:, m] = [case.id in files for case in cases]
    kept = shares * there
    total = kept.sum(axis=1, keepdims=True)
    return kept / np.where(total > 0, total, 1)


@dataclass(frozen=True)
class Standing:
    """What validation cases show of a member of an ensemble; the networks of all folds of a stage are one.

    Attributes:
        name: of its stage, without the seed.
        members: their places in the ensemble.
        dice: mean over `cases` validation cases.
        share: of the ensemble's predictions.
    """

    name: str
    members: list[int]
    dice: float
    cases: int
    share: float


def standings(inputs: StageInputs, teacher: TeacherRecipe, fabric: Fabric) -> list[Standing]:
    """How the members of an ensemble count by validation cases; empty where these decide nothing: there are none, or a
    member from elsewhere may have learned from them.

    Each is predicted once and its Dice kept beside the prepared images.

    Raises:
        InputError: a member cannot be used.
    """
    if teacher.weigh_by is None or not all(_is_known(inputs, member) for member in teacher.members):
        return []
    cases, _ = comparable(inputs, teacher.members, [case for case in inputs.of("val") if case.is_located])
    if not cases:
        return []
    parts = families(inputs.recipe, teacher)
    facts = {
        "version": VERSION,
        "members": [member_facts(inputs, member, cases) for member in teacher.members],
        "parts": [members for _, members in parts],
        "cases": [case.id for case in cases],
    }
    key = sha256_text(json.dumps(facts, sort_keys=True))[:16]
    path = inputs.store.folder / f"standing-{key}.json"
    if fabric.is_global_zero and not path.exists():
        ensembles = [TeacherRecipe(ensemble=[teacher.members[k] for k in own]) for _, own in parts]
        predicted = (predict_teacher(inputs, each, cases, fabric) for each in ensembles)
        write_json(path, [float(np.mean(case_dice(inputs, cases, maps))) for maps in predicted])
    while not path.exists():
        time.sleep(1.0)  # no barrier: predicting may take longer than one waits
    dice: list[float] = json.loads(path.read_text(encoding="utf-8"))
    stated = [teacher.stated_weights[own[0]] for _, own in parts]
    weights = [
        weight * math.exp(STEEPNESS * (own - max(dice))) for weight, own in zip(stated, dice, strict=True)
    ]
    total = sum(weights) or 1.0
    return [
        Standing(name, own, score, len(cases), weight / total)
        for (name, own), score, weight in zip(parts, dice, weights, strict=True)
    ]


def _is_known(inputs: StageInputs, member: MemberRecipe) -> bool:
    """Whether it is known what a member learned from."""
    return trained_on(inputs.recipe, member, inputs.cases, inputs.predictions) is not None


def _weights(inputs: StageInputs, teacher: TeacherRecipe, fabric: Fabric) -> list[float]:
    """The weight of each member: what the recipe states, or what validation cases make of it."""
    weights = teacher.stated_weights
    for standing in standings(inputs, teacher, fabric):
        for k in standing.members:
            weights[k] = standing.share
    return weights


def comparable(
    inputs: StageInputs, members: Sequence[MemberRecipe], cases: Sequence[Case]
) -> tuple[list[Case], str]:
    """Those of the cases that every teacher has predicted or can, and that none is known to have learned from; and
    what would help where none is left.

    Raises:
        InputError: a folder of predictions cannot be used.
    """
    predicted = with_predictions(inputs, members, cases)
    outside = [member for member in members if member.is_outside]
    known = set[str]().union(
        *(trained_on(inputs.recipe, member, inputs.cases, inputs.predictions) or () for member in outside)
    )
    unseen = {case.id for case in cases} - known
    if cases and not predicted:
        return [], "the teacher's predictions of the validation cases, too: they cover none of them"
    if cases and not unseen:
        return [], "validation cases that the teacher from elsewhere has not seen"
    return [case for case in predicted if case.id in unseen], ""


def case_dice(inputs: StageInputs, cases: Sequence[Case], maps: Sequence[Map]) -> list[float]:
    """Dice of each case over all its rows, at the size of the store.

    Args:
        inputs: with the store of the cases.
        cases: with masks.
        maps: (K, ...) probabilities of each of their rows.
    """
    scores, start = [], 0
    for case in cases:
        rows = inputs.store.rows(case.id)
        reference = np.stack([inputs.store.mask(row) for row in rows])
        predicted = np.stack([labels_of(each) for each in maps[start : start + len(rows)]])
        scores.append(class_dice(predicted, reference))
        start += len(rows)
    return scores


def with_predictions(
    inputs: StageInputs, members: Sequence[MemberRecipe], cases: Sequence[Case]
) -> list[Case]:
    """Those of the cases of which every folder of predictions holds one.

    Raises:
        InputError: a folder cannot be used.
    """
    found = list(cases)
    for member in members:
        if member.predictions is not None:
            files = inputs.predictions.of(member, inputs.cases).files
            found = [case for case in found if case.id in files]
    return found


def member_facts(inputs: StageInputs, member: MemberRecipe, cases: Sequence[Case]) -> dict[str, Any]:
    """Everything that decides the predictions of a teacher or a member of an ensemble.

    Raises:
        InputError: a file is not there.
    """
    facts = member.model_dump(
        mode="json", exclude={"weight", "weigh_by", "trained_on", *_FILES, "labels", "ensemble"}
    )
    if member.stage:
        facts["weights"] = sha256_file(inputs.teacher_folder(member.stage) / WEIGHTS)
        facts["model"] = inputs.recipe.stages[member.stage].model.model_dump(mode="json")
    return facts | {"files": file_facts(member, cases, inputs.predictions)}


_FILES = ("predictions", "onnx", "weights", "table")


def store_maps(inputs: StageInputs, fabric: Fabric) -> Generator[Filling, None, dict[str, StoredMaps]]:
    """Predicts the training cases of a stage once with each of its teachers, and stores what is not there yet.

    With several processes the first one predicts, and the others wait for it.

    Yields:
        Progress.

    Returns:
        Name of each teacher -> its maps.

    Raises:
        InputError: a member does not fit the cases, or the disk is full.
    """
    found = {}
    for plan in plan_maps(inputs, fabric):
        maps = open_maps(inputs.store, plan.key)
        if maps is None and fabric.is_global_zero:
            yield from _predict(inputs, plan, fabric)
        while maps is None and (maps := open_maps(inputs.store, plan.key)) is None:
            time.sleep(1.0)  # no barrier: predicting may take longer than one waits
        found[plan.name] = maps
    return found


def _predict(inputs: StageInputs, plan: _Plan, fabric: Fabric) -> Iterator[Filling]:
    """Predicts the cases of a plan and stores their maps."""
    began, done, text = time.monotonic(), 0, f"teacher '{plan.name}' predicts each case once"
    facts: dict[str, Any] = {"entropy": {}, "agreement": {}, "foreground": 0}
    for member in plan.teacher.members:
        if member.predictions is not None:
            note = inputs.predictions.of(member, inputs.of("train")).note
            yield Filling(f"teacher '{plan.name}': {note}")
    members = [_member(inputs, member, fabric, inputs.of("train")) for member in plan.teacher.members]
    with writing_maps(inputs.store, plan.key, facts, _count(inputs)) as write:
        for chunk in _chunks(inputs, plan.cases):
            cases = [plan.cases[k] for k in chunk]
            means = _average(inputs, members, cases, plan.shares[chunk], facts)
            rows = (row for case in cases for row in inputs.store.rows(case.id))
            for row, found in zip(rows, means, strict=True):
                write(row, encode(found, axis=0))
            done += len(cases)
            yield Filling(text, done, len(plan.cases))
        facts["seconds"] = time.monotonic() - began
        if not facts["foreground"] and any(member.is_outside for member in plan.teacher.members):
            raise InputError(
                f"teacher '{plan.name}' finds nothing in any of {len(plan.cases)} training cases: check its classes, "
                "and the size and scale of its images"
            )


def predict_teacher(
    inputs: StageInputs, teacher: TeacherRecipe, cases: Sequence[Case], fabric: Fabric
) -> list[Map]:
    """The probabilities of cases that a teacher did not train on: of each row (K, ...), as the store has it.

    Raises:
        InputError: a network of it cannot be used, or a folder has no prediction of a case.
    """
    members = [_member(inputs, member, fabric, cases) for member in teacher.members]
    shares = member_weights(inputs.recipe, teacher, cases, [], _weights(inputs, teacher, fabric))
    facts: dict[str, Any] = {"entropy": {}, "agreement": {}, "foreground": 0}
    return [
        mean
        for chunk in _chunks(inputs, cases)
        for mean in _average(inputs, members, [cases[k] for k in chunk], shares[chunk], facts)
    ]


def predict_with(inputs: StageInputs, stage: str, cases: Sequence[Case], fabric: Fabric) -> list[Map]:
    """The same with the network of another stage.

    Raises:
        InputError: it is not finished.
    """
    return predict_teacher(inputs, TeacherRecipe(stage=stage), cases, fabric)


def _chunks(inputs: StageInputs, cases: Sequence[Case]) -> Iterator[list[int]]:
    """Positions of cases whose rows together are about CHUNK."""
    chunk: list[int] = []
    rows = 0
    for k, case in enumerate(cases):
        chunk.append(k)
        rows += len(inputs.store.rows(case.id))
        if rows >= CHUNK or k == len(cases) - 1:
            yield chunk
            chunk, rows = [], 0


def _average(
    inputs: StageInputs,
    members: Sequence[Predict],
    cases: Sequence[Case],
    shares: NDArray[np.float64],
    facts: dict[str, Any],
) -> list[Map]:
    """The mean prediction of each of the cases' rows; notes the confidence of each case."""
    predicted: list[dict[str, list[Map]]] = []
    for m, predict in enumerate(members):
        own = [case for case, share in zip(cases, shares[:, m], strict=True) if share > 0]
        rows = iter(predict(own) if own else [])
        predicted.append({case.id: [next(rows) for _ in inputs.store.rows(case.id)] for case in own})
    means = []
    for k, case in enumerate(cases):
        active = [m for m in range(len(members)) if shares[k, m] > 0]
        mean: list[Map] = []
        for j in range(len(inputs.store.rows(case.id))):
            total = np.zeros_like(predicted[active[0]][case.id][j])
            for m in active:
                total += predicted[m][case.id][j] * np.float32(shares[k, m])
            mean.append(total)
        facts["entropy"][case.id] = float(np.mean([_certainty(each) for each in mean]))
        labels = [labels_of(each) for each in mean]
        agreed = [
            np.mean(
                [
                    class_dice(labels_of(own), joined)
                    for own, joined in zip(predicted[m][case.id], labels, strict=True)
                ]
            )
            for m in active
        ]
        facts["agreement"][case.id] = float(np.mean(agreed))
        facts["foreground"] += sum(int((each > 0).sum()) for each in labels)
        means += mean
    return means


def _count(inputs: StageInputs) -> int:
    """The number of classes of the masks, without the background."""
    return len(inputs.recipe.data.class_names) - 1


def _certainty(probability: Map) -> float:
    """1 minus the mean entropy, over its largest value, where foreground is predicted; everywhere where none is.

    Args:
        probability: (K, ...).
    """
    inside = labels_of(probability) > 0
    known = probability[:, inside] if inside.any() else probability.reshape(len(probability), -1)
    known = np.clip(known.astype(np.float64), 1e-9, 1 - 1e-9)
    whole = np.stack([*known, np.clip(1 - known.sum(axis=0), 1e-9, 1)])
    entropy = -(whole * np.log2(whole)).sum(axis=0) / np.log2(len(whole))
    return float(1 - entropy.mean())


def _member(inputs: StageInputs, member: MemberRecipe, fabric: Fabric, known: Sequence[Case]) -> Predict:
    """What predicts cases with one network, or reads its predictions of those that are known."""
    if member.onnx is not None:
        names, predictor = inputs.recipe.data.class_names[1:], None
        if member.input is None:
            predictor = Predictor(str(member.onnx), torch.get_num_threads())
            _require_channels(predictor, member, inputs.preprocess.channel_names)
            if isinstance(predictor.info.preprocess, VolumePreprocess):
                whole = partial(_volume_maps, predictor, _class_order(predictor, member, names), member.flips)
                return lambda cases: _as_rows(inputs, cases, [whole(case) for case in cases])
        return _by_case(inputs, _onnx(member, names, inputs.preprocess.channel_names, predictor))
    if member.predictions is not None:
        read = _reader(inputs.recipe, member, known, inputs.predictions)
        return lambda cases: _as_rows(inputs, cases, [read(case) for case in cases])
    if member.stage:
        network, autocast = _stage_network(inputs, member.stage, fabric)
    else:
        network, autocast = _outside_network(inputs.recipe, member).to(fabric.device), None
    return partial(_run, inputs, Teacher("", network, precision=autocast), fabric.device, member.flips)


def require_usable(
    recipe: Recipe, member: MemberRecipe, known: Sequence[Case], predictions: OpenedPredictions
) -> None:
    """Loads what a teacher from elsewhere predicts with; an ONNX file that is not ours predicts one image.

    Args:
        recipe: of the run.
        member: from elsewhere.
        known: training cases.
        predictions: opened before.

    Raises:
        InputError: a file that cannot be read, is no network, or fits neither the images nor the classes.
    """
    if member.predictions is not None:
        _reader(recipe, member, known, predictions)
    elif member.network is not None:
        _outside_network(recipe, member)
    elif member.input is None:
        predictor = Predictor(str(member.onnx), torch.get_num_threads())
        _require_channels(predictor, member, tuple(recipe.data.channel_names or ()))
        _class_order(predictor, member, recipe.data.class_names[1:])
    else:
        preprocess = with_intensity(recipe.data.preprocess(), known)
        opened = open_case(known[0], preprocess.intensity)
        _onnx(member, recipe.data.class_names[1:], preprocess.channel_names, None)(opened, 0)


def _reader(
    recipe: Recipe, member: MemberRecipe, known: Sequence[Case], predictions: OpenedPredictions
) -> Callable[[Case], Map]:
    """Reads the maps (D, K, H, W) of a case in a folder of predictions; those of hard labels add up to at most 1."""
    hard = member.hard_probability or PredictionSource.hard_probability
    of_classes = [predictions.of(one, known) for one in _for_classes(recipe, member)]

    def read(case: Case) -> Map:
        maps = [one.map(case) for one in of_classes]
        found = np.stack([each if each.ndim == 3 else each[None] for each in maps], axis=1)
        if len(maps) > 1 and np.isin(found, (np.float32(hard), np.float32(1 - hard))).all():
            found = np.where(found > 0.5, np.float32(hard), np.float32((1 - hard) / len(maps)))
        return found

    return read


def _for_classes(recipe: Recipe, member: MemberRecipe) -> list[MemberRecipe]:
    """The member for each class alone: of several classes `foreground` lists the value of each."""
    names = recipe.data.class_names[1:]
    if len(names) == 1:
        return [member]
    listed = member.foreground or []
    if len(listed) != len(names):
        raise InputError(
            f"{member.predictions}: foreground lists {len(listed)} values, and the masks hold {len(names)} "
            f"classes ({', '.join(names)}): list the value of each, in this order"
        )
    return [member.model_copy(update={"foreground": [value]}) for value in listed]


def _run(
    inputs: StageInputs, teacher: Teacher, device: torch.device, flips: bool, cases: Sequence[Case]
) -> list[Map]:
    store, preprocess, count = inputs.store, inputs.preprocess, _count(inputs)
    rows = [store.image(row) for case in cases for row in store.rows(case.id)]

    def forward(images: NDArray[np.float32]) -> Map:
        batch = torch.from_numpy(images).to(device)
        if inputs.settings.channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        own = _class_maps(teacher(batch, ()), count)
        if flips:
            own = (own + _class_maps(teacher(batch.flip(-1), ()), count).flip(-1)) / 2
        return own.float().cpu().numpy()

    if isinstance(preprocess, VolumePreprocess):
        return [preprocess.predict(row, forward) for row in rows]
    found: list[Map] = []
    for start in range(0, len(rows), CHUNK):
        found += list(forward(preprocess.normalise(np.stack(rows[start : start + CHUNK]))))
    return found


def _class_maps(output: Output, count: int) -> torch.Tensor:
    """(B, K, H, W) probabilities of everything but background.

    Raises:
        InputError: a network that classifies, or one of another number of classes.
    """
    if output.logits is None:
        raise InputError("a teacher that classifies images has no map: use a network that segments")
    if count == 1:
        return 1 - probabilities(output.logits)[:, :1]
    if output.logits.shape[1] != count + 1:
        raise InputError(
            f"a teacher gives {output.logits.shape[1]} classes, and the masks hold {count + 1} with the background: "
            "use one that was trained on the same classes"
        )
    return probabilities(output.logits)[:, 1:]


def _outside_network(recipe: Recipe, member: MemberRecipe) -> nn.Module:
    """A network by import path with its weights.

    Raises:
        InputError: it cannot be built, or the weights do not fit.
    """
    network = build_network(
        ModelRecipe(name=str(member.network), **member.options),
        recipe.data.channels,
        len(recipe.data.class_names),
    )
    load_weights(Path(str(member.weights)), network)
    return network.eval()


def _class_order(predictor: Predictor, member: MemberRecipe, names: Sequence[str]) -> list[list[int]]:
    """For each class of the masks the places of what stands for it among the classes of a model file.

    Raises:
        InputError: it has others, and `foreground` does not say which are meant.
    """
    own = predictor.info.classes[1:]
    values: dict[Any, int] = {name: k for k, name in enumerate(own)} | {k + 1: k for k in range(len(own))}
    if member.foreground is None:
        if len(own) == len(names) == 1:
            return [[0]]
        if set(own) == set(names):
            return [[own.index(name)] for name in names]
        raise InputError(
            f"{member.onnx}: segments {', '.join(own)}, and the masks hold {', '.join(names)}: write which of its "
            f"classes are meant, such as foreground: [{', '.join(own[: len(names)])}]"
        )
    unknown = [value for value in member.foreground if value not in values]
    if unknown:
        raise InputError(
            f"{member.onnx}: foreground lists {', '.join(map(str, unknown))}, and it segments {', '.join(own)}"
        )
    places = [values[value] for value in member.foreground]
    if len(names) == 1:
        return [places]
    if len(places) != len(names):
        raise InputError(
            f"{member.onnx}: foreground lists {len(places)} classes, and the masks hold {len(names)} "
            f"({', '.join(names)}): list the one of each, in this order"
        )
    return [[place] for place in places]


def _joined(planes: Map, order: Sequence[Sequence[int]]) -> Map:
    """(K, ...) of the classes of the masks, from the probabilities of all classes of a model file, which exclude one
    another.
    """
    return np.stack([np.clip(planes[list(places)].sum(axis=0), 0, 1) for places in order])


def _require_channels(predictor: Predictor, member: MemberRecipe, channels: tuple[str, ...]) -> None:
    """Raises where a model file takes other channels than the cases of the run have."""
    taken = predictor.info.preprocess.channel_names
    if taken != channels:
        takes, there = (", ".join(each) or "one image" for each in (taken, channels))
        raise InputError(
            f"{member.onnx}: takes {takes}, and a case of this run is {there}: use a model of the same channels in the "
            "same order, or its predictions"
        )


def _volume_maps(predictor: Predictor, order: Sequence[Sequence[int]], flips: bool, case: Case) -> Map:
    """(D, K, H, W) of a case by a model file of volumes, at the volume's own size."""
    preprocess = predictor.info.preprocess
    opened = open_case(with_channels(case, preprocess.channel_names), preprocess.intensity)
    levels, spacing = opened.levels(), opened.spacing_mm
    shape = (levels.shape[0], levels.shape[1], levels.shape[2])
    found = predictor.on_grid(lambda k: levels[k], shape, spacing)
    if flips:
        mirrored = predictor.on_grid(lambda k: levels[k][:, ::-1], shape, spacing)[..., ::-1]
        found = np.asarray((found + mirrored) / 2, np.float32)
    planes = found[-1:] if len(found) <= 2 else found[1:]
    return np.stack(list(slices_at(np.ascontiguousarray(_joined(planes, order)), shape)))


def _onnx(
    member: MemberRecipe, names: Sequence[str], channels: tuple[str, ...], predictor: Predictor | None
) -> Callable[[OpenedCase, int], Map]:
    """Predicts images with a model file of ours, or with any ONNX file and the input that the recipe states."""
    threads = torch.get_num_threads()
    if predictor is not None:
        order = _class_order(predictor, member, names)
        return lambda opened, k: _mirrored(
            lambda p: _joined(predictor.probabilities(p), order), opened.pixels(k), member
        )
    session = Session(read_onnx(str(member.onnx)), threads)
    network = partial(_plain, session, member, count=len(names), names=channels)
    return lambda opened, k: _mirrored(network, opened.pixels(k), member)


def _mirrored(predict: Callable[[Pixels], Map], pixels: Pixels, member: MemberRecipe) -> Map:
    """(K, h, w) of an image, or the mean with its mirror image."""
    found = predict(pixels)
    if member.flips:
        other = predict(np.ascontiguousarray(pixels[:, ::-1]))[..., ::-1]
        found = np.asarray((found + other) / 2, np.float32)
    return found if found.ndim == 3 else found[None]


def _plain(
    session: Session, member: MemberRecipe, pixels: Pixels, count: int = 1, names: Sequence[str] = ()
) -> Map:
    """What an ONNX file of elsewhere gives for an image: (h, w) of one kind of foreground, (K, h, w) of several.

    Several channels, which have `names`, are given to it in their order.

    Raises:
        InputError: it takes something else, or gives no (1, C, h, w) of numbers, no probabilities, or several
            classes of which `foreground` chooses none.
    """
    wanted = member.input
    assert wanted is not None
    size = (wanted.size, wanted.size) if isinstance(wanted.size, int) else (wanted.size[0], wanted.size[1])
    colour = "rgb" if wanted.channels == 3 and pixels.ndim == 3 and not names else "grey"
    if names and wanted.channels != len(names):
        raise InputError(
            f"{session.path}: input.channels is {wanted.channels}, and the cases have {len(names)} channels "
            f"({', '.join(names)}): give a network that takes them, or its predictions"
        )
    mean, std = tuple(wanted.mean), tuple(wanted.std)
    preprocess = Preprocess(size, colour, wanted.channels, mean, std, channel_names=tuple(names))
    if len(session.inputs) != 1:
        raise InputError(f"{session.path}: has {len(session.inputs)} inputs, and a teacher takes one image")
    found = session.run(None, preprocess(pixels)[None])[0]
    if not isinstance(found, np.ndarray) or found.ndim != 4 or not np.isfinite(found).all():
        raise InputError(f"{session.path}: gives no map (1, classes, height, width) of numbers for an image")
    activated = _activated(found.astype(np.float32), wanted, session.path)[0]
    return _chosen(activated, member, session.path, count)


def _activated(found: Map, wanted: InputRecipe, path: Path) -> Map:
    """Probabilities (1, C, h, w), of a single logit (1, 1, h, w)."""
    given = torch.from_numpy(found)
    if wanted.activation == "softmax":
        given = probabilities(given)[:, 1:] if given.shape[1] == 1 else probabilities(given)
    elif wanted.activation == "sigmoid":
        given = given.sigmoid()
    low, high = float(given.min()), float(given.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(
            f"{path}: gives values from {low:.3g} to {high:.3g}, no probabilities: set input.activation to softmax or "
            "sigmoid"
        )
    return given.numpy()


def _chosen(maps: Map, member: MemberRecipe, path: Path, count: int) -> Map:
    """From all maps of a file those of the foreground: (h, w) of one kind, (count, h, w) of several.

    Classes that exclude one another count from the background, 0, and add up; maps that do not (sigmoid) are joined by
    their highest.

    Raises:
        InputError: `foreground` does not say which, or lists others.
    """
    assert member.input is not None
    if len(maps) == count == 1:
        return np.asarray(maps[0])
    sums_to_one = bool(np.abs(maps.sum(axis=0) - 1).max() < 0.02)
    exclusive = member.input.activation != "sigmoid" and sums_to_one
    first = 1 if exclusive else 0
    listed = member.foreground or (list(range(first, len(maps))) if len(maps) == first + count else [])
    if not listed or not all(type(c) is int and first <= c < len(maps) for c in listed):
        raise InputError(
            f"{path}: gives {len(maps)} maps: write which of {first} to {len(maps) - 1} are foreground, such as "
            f"foreground: [{', '.join(str(first + k) for k in range(count))}]"
        )
    chosen = maps[[int(c) for c in listed]]
    if count == 1:
        return np.asarray(np.clip(chosen.sum(axis=0), 0, 1) if exclusive else chosen.max(axis=0))
    if len(listed) != count:
        raise InputError(
            f"{path}: gives {len(maps)} maps, and the masks hold {count} classes: list the number of each in foreground"
        )
    return np.asarray(chosen)


def _by_case(inputs: StageInputs, predict: Callable[[OpenedCase, int], Map]) -> Predict:
    """Predicts the images of cases at their own size."""

    def cases_to_maps(cases: Sequence[Case]) -> list[Map]:
        opened = [open_case(case, inputs.preprocess.intensity) for case in cases]
        found = [np.stack([predict(one, k) for k in range(len(one))]) for one in opened]
        return _as_rows(inputs, cases, found)

    return cases_to_maps


def _as_rows(inputs: StageInputs, cases: Sequence[Case], found: Sequence[Map]) -> list[Map]:
    """The maps of cases, (D, K, H, W) each, as the store cuts, resizes or resamples their images."""
    if isinstance(inputs.preprocess, VolumePreprocess):
        shapes = [inputs.store.shape(inputs.store.row(case.id)) for case in cases]
        return [
            np.stack([resample(plane, (shape[0], shape[1], shape[2])) for plane in maps.swapaxes(0, 1)])
            for maps, shape in zip(found, shapes, strict=True)
        ]
    rows: list[Map] = []
    for image in (image for maps in found for image in maps):
        parts = [fitted(inputs.preprocess, each) for each in image]
        rows += [np.stack(planes) for planes in zip(*parts, strict=True)]
    return rows


def fitted(preprocess: Preprocess, probability: Map) -> list[Map]:
    """A map (H, W) as the network's images are: cut into patches, each at their size.

    >>> fitted(Preprocess(size=(1, 2)), np.array([[0, 0, 1, 1]] * 2, np.float32))[0].astype(float).round(2).tolist()
    [[0.14, 0.86]]
    """
    parts = [probability] if preprocess.patches is None else preprocess.patches.cut(probability)
    height, width = preprocess.size
    found = []
    for part in parts:
        image = Image.fromarray(np.ascontiguousarray(part, np.float32))
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        found.append(np.clip(np.asarray(image, np.float32), 0, 1))
    return found


def confidence_of(stage: StageRecipe, maps: StoredMaps, case: Case) -> float:
    """How much a case counts: its confidence, from 0 to 1; 1 where the stage weighs all alike, 0 without prediction."""
    if case.id not in maps.facts["entropy"]:
        return 0.0
    return 1.0 if stage.confidence == "none" else float(maps.facts[stage.confidence][case.id])
