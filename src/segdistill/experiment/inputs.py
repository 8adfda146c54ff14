"""All that decides what a stage learns, and the fingerprint of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segdistill.config.folds import folds_of, may_teach, member_weights
from segdistill.config.schema import MemberRecipe, Recipe, StageRecipe, TeacherRecipe
from segdistill.data.case import Case
from segdistill.data.predictions import (
    Predictions,
    PredictionSource,
    hash_of,
    open_predictions,
    read_trained_on,
)
from segdistill.data.splits import keep_locations
from segdistill.data.store import Store
from segdistill.errors import InputError
from segdistill.experiment.cases import training_cases
from segdistill.experiment.equal_time import equal_steps
from segdistill.files import csv_cell, sha256_file, sha256_text, write_text
from segdistill.imaging.grid import AnyPreprocess
from segdistill.report.data import Taught
from segdistill.training.loop import TUNED, WEIGHTS
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings

# settings that change how fast a stage is trained, not the result
NO_INPUT = {"checkpoint_seconds", "workers"}


class OpenedPredictions:
    """Folders of predictions that teachers name: each is opened once, however often it is needed.

    >>> OpenedPredictions().of(MemberRecipe(predictions="nowhere"), [])
    Traceback (most recent call last):
    segdistill.errors.InputError: nowhere: no such folder: give the folder with the predictions of a teacher
    """

    def __init__(self) -> None:
        self._found: dict[tuple[PredictionSource, tuple[str, ...]], Predictions] = {}

    def of(self, member: MemberRecipe, cases: Sequence[Case]) -> Predictions:
        """The predictions of these cases that a teacher or a member of an ensemble names.

        Raises:
            InputError: as `open_predictions`.
        """
        assert member.predictions is not None
        source = PredictionSource(
            Path(member.predictions),
            None if member.foreground is None else tuple(member.foreground),
            None if member.table is None else Path(member.table),
            member.hard_probability or PredictionSource.hard_probability,
        )
        key = source, tuple(case.id for case in cases)
        if key not in self._found:
            self._found[key] = open_predictions(source, cases)
        return self._found[key]


@dataclass(frozen=True)
class StageInputs:
    """All that decides what a stage learns."""

    recipe: Recipe
    name: str
    cases: list[Case]
    store: Store
    preprocess: AnyPreprocess
    folder: Path
    predictions: OpenedPredictions = field(default_factory=OpenedPredictions, repr=False, compare=False)

    @property
    def stage(self) -> StageRecipe:
        """The stage's part of the recipe."""
        return self.recipe.stages[self.name]

    @property
    def seed(self) -> int:
        """Seed of the first weights, the views and their order."""
        return self.recipe.seed_of(self.name)

    @property
    def variant(self) -> str:
        """The stage's name without its seed."""
        return self.recipe.variant(self.name)

    @property
    def views_seed(self) -> int:
        """Seed of the views: where their number is fixed the recipe's, whatever the stage's seed.

        All seeds of a variant then see the same images, and the teachers' targets are computed once.
        """
        return self.seed if self.settings.views is None else self.recipe.seed

    @property
    def settings(self) -> FitSettings:
        """How it is trained; a stage that takes the time of another has the steps that were measured for it."""
        settings = self.recipe.fit_settings(self.name)
        if self.stage.equal_time_to is None:
            return settings
        return settings.model_copy(update={"steps": equal_steps(self.folder.parents[1], self.variant)})

    def of(self, split: str) -> list[Case]:
        """The stage's cases of a split."""
        return stage_cases(self.recipe, self.name, self.cases, split)

    def teacher_folder(self, name: str) -> Path:
        """The folder of another stage of the same run."""
        return self.folder.parent / name

    @property
    def tuned_weights(self) -> Path:
        """The weights of the teacher that another stage has tuned, of a stage with `tuned_by`."""
        student, start = self.stage.tuned_by, self.stage.starts_from
        assert student is not None
        teachers = self.recipe.stages[student].teachers
        name = next(key for key, teacher in teachers.items() if start in teacher.stages)
        return self.teacher_folder(student) / TUNED / f"{name}.safetensors"

    def fingerprint(self, precision: str) -> str:
        """Changes with everything that the weights depend on: settings, cases, pixels, teachers."""
        stage, train = self.stage, self.of("train")
        others = [*stage.taught_by, *stage.autoencoders, *([stage.starts_from] if stage.starts_from else [])]
        facts: dict[str, Any] = {
            "seed": self.seed,
            "views_seed": self.views_seed,
            "stage": stage.facts(),
            "fit": self.settings.model_dump(mode="json", exclude=NO_INPUT),
            "precision": precision,
            "preprocess": self.preprocess.to_dict(),
            "store": self.store.folder.name,
            "skip_empty": self.recipe.data.skip_empty,
            "train": [(case.id, case.label, case.has_reference) for case in train],
            "val": [case.id for case in self.of("val")],
            "weights": {name: sha256_file(self.teacher_folder(name) / WEIGHTS) for name in others},
            "may_teach": may_teach(self.recipe, self.name, train, self.cases),
            "outside": [
                file_facts(m, [*train, *self.of("val")] if t.weigh_by else train, self.predictions)
                for t in stage.teachers.values()
                for m in t.members
                if m.is_outside
            ],
        }
        if stage.tuned_by is not None:
            facts["tuned"] = sha256_file(self.tuned_weights)
        return sha256_text(json.dumps(facts, sort_keys=True))


def file_facts(member: MemberRecipe, cases: Sequence[Case], predictions: OpenedPredictions) -> dict[str, str]:
    """The hashes of the files of a teacher from elsewhere.

    Raises:
        InputError: a file is not there, or predictions that cannot be used for these cases.
    """
    facts = {}
    for key in ("onnx", "weights"):
        if (path := getattr(member, key)) is not None:
            if not Path(path).is_file():
                raise InputError(f"{key}: no such file: {path}")
            facts[key] = sha256_file(path)
    if member.predictions is not None:
        facts["predictions"] = hash_of(predictions.of(member, cases))
    return facts


def trained_on(
    recipe: Recipe, member: MemberRecipe, cases: Sequence[Case], predictions: OpenedPredictions
) -> set[str] | None:
    """The ids of the training cases that a teacher learned from; None where that is not known.

    The folders fold_0, fold_1, ... of nnU-Net hold predictions of cases that the network of the fold did not see.

    Raises:
        InputError: a file of ids that cannot be read or names none of the cases.
    """
    if member.stage:
        return {case.id for case in stage_cases(recipe, member.stage, list(cases), "train")}
    seen = read_trained_on(member.trained_on, cases)
    if member.predictions is None:
        return seen
    folds = predictions.of(member, cases).folds
    return seen if seen is None and not folds else (seen or set()) - set(folds)


def stage_cases(recipe: Recipe, name: str, cases: list[Case], split: str) -> list[Case]:
    """The cases of a split that a stage takes.

    Raises:
        InputError: there is nothing to train on, or one of its classes or sites has no case.
    """
    stage = recipe.stages[name]
    labels = stage.labels or recipe.data.labels
    joint = stage.joint_settings
    known = keep_locations(cases, recipe.locations_of(name), recipe.data.locations_seed)
    unlocated = joint is not None and joint.uses_class and not joint.labelled_only
    if split == "train" and stage.out_of_fold is not None:
        fold = folds_of(cases, stage.out_of_fold.folds, recipe.data.split.seed)
        known = [case for case in known if fold.get(case.id) != stage.out_of_fold.fold]
    unlabelled = stage.task == "distillation" and stage.unlabelled and joint is None
    return training_cases(known, split, labels, f"stage {name}", stage.sites, unlocated, unlabelled)


def precision_of(recipe: Recipe, name: str, device: torch.device) -> str:
    """What a stage is trained in, as Fabric calls it."""
    return choose_precision(recipe.fit_settings(name).precision, device, recipe.stages[name].model.name)


TEACHERS_FILE = "teachers.csv"

Row = tuple[str, str, list[str], list[str]]
"""A stage, one of its training cases, the teachers that taught it, and those that had trained on it."""


def write_teachers(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case], path: Path) -> None:
    """Writes which teachers taught each training case of the stages, and which of the teachers had trained on it.

    One row per stage and case; several teachers are joined by spaces. Stages without out-of-fold teachers have no rows,
    and without any row there is no file.
    """
    rows = list(_rows(recipe, stages, cases, OpenedPredictions()))
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("stage", "case", "taught_by", "seen_by"))
    for stage, case, taught, seen in rows:
        writer.writerow(map(csv_cell, (stage, case, " ".join(taught), " ".join(seen))))
    write_text(path, text.getvalue())


def count_taught(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case]) -> list[Taught]:
    """The same, counted for each teacher of each stage."""
    opened = OpenedPredictions()
    rows = list(_rows(recipe, stages, cases, opened))
    counted = []
    for name in dict.fromkeys(stage for stage, *_ in rows):
        for label, member in _named_members(recipe.stages[name]):
            taught = {case for stage, case, by, _ in rows if stage == name and label in by}
            learned = trained_on(recipe, member, cases, opened)
            own = None if learned is None else len(learned & taught)
            counted.append(Taught(name, label, None if learned is None else len(learned), len(taught), own))
    return counted


def _named_members(stage: StageRecipe) -> list[tuple[str, MemberRecipe]]:
    """The teachers of a stage and the members of its ensembles, each under a name of its own."""
    named = []
    for key, teacher in stage.teachers.items():
        for number, member in enumerate(teacher.members, 1):
            named.append((member.stage or (f"{key}-{number}" if teacher.ensemble else key), member))
    return named


def _rows(
    recipe: Recipe, stages: Sequence[str], cases: Sequence[Case], opened: OpenedPredictions
) -> Iterator[Row]:
    for name in stages:
        stage = recipe.stages[name]
        if not stage.is_out_of_fold and stage.targets == "view":
            continue
        own = stage_cases(recipe, name, list(cases), "train")
        named = _named_members(stage)
        learned = [trained_on(recipe, member, cases, opened) or set() for _, member in named]
        shares = np.concatenate(
            [member_weights(recipe, teacher, own, cases) for teacher in stage.teachers.values()], axis=1
        )
        routed = [
            [_is_routed(stage, t, case) for t in stage.teachers.values() for _ in t.members] for case in own
        ]
        for case, share, may in zip(own, shares, routed, strict=True):
            taught = [label for (label, _), w, ok in zip(named, share, may, strict=True) if ok and w > 0]
            yield (
                name,
                case.id,
                taught,
                [label for (label, _), ids in zip(named, learned, strict=True) if case.id in ids],
            )


def _is_routed(stage: StageRecipe, teacher: TeacherRecipe, case: Case) -> bool:
    """Whether a stage lets a teacher teach a case."""
    if stage.taught_cases == "without_mask" and case.has_reference:
        return False
    return stage.routing != "by_class" or not teacher.labels or case.label in teacher.labels
