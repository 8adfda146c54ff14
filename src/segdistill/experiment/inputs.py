"""All that decides what a stage learns, and the fingerprint of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segdistill.config.folds import folds_of, speaks
from segdistill.config.schema import Recipe, StageRecipe
from segdistill.data.case import Case
from segdistill.data.splits import keep_locations
from segdistill.data.store import Store
from segdistill.experiment.cases import training_cases
from segdistill.experiment.equal_time import equal_steps
from segdistill.files import sha256_file, sha256_text, write_text
from segdistill.imaging.preprocess import Preprocess
from segdistill.report.data import Taught
from segdistill.training.loop import WEIGHTS
from segdistill.training.optimisation import choose_precision
from segdistill.training.settings import FitSettings

# settings that change how fast a stage is trained, not what comes out
NO_INPUT = {"checkpoint_seconds", "workers"}


@dataclass(frozen=True)
class StageInputs:
    """All that decides what a stage learns."""

    recipe: Recipe
    name: str
    cases: list[Case]
    store: Store
    preprocess: Preprocess
    folder: Path

    @property
    def stage(self) -> StageRecipe:
        """The stage's part of the recipe."""
        return self.recipe.stages[self.name]

    @property
    def seed(self) -> int:
        """Of the first weights, the views and their order: the stage's own, else the recipe's."""
        return self.recipe.seed if self.stage.seed is None else self.stage.seed

    @property
    def views_seed(self) -> int:
        """Of the views alone: where their number is fixed they are the recipe's, whatever the stage's seed.

        All seeds of a method then see the same images, and what teachers say of them is computed once.
        """
        return self.seed if self.settings.views is None else self.recipe.seed

    @property
    def settings(self) -> FitSettings:
        """How it is trained; a stage that takes the time of another has the steps that were measured for it."""
        settings = self.recipe.fit_settings(self.name)
        if self.stage.equal_time_to is None:
            return settings
        return settings.model_copy(update={"steps": equal_steps(self.folder.parents[1], self.name)})

    def of(self, split: str) -> list[Case]:
        """The stage's cases of a split."""
        return stage_cases(self.recipe, self.name, self.cases, split)

    def teacher_folder(self, name: str) -> Path:
        """Where another stage of the same run lies."""
        return self.folder.parent / name

    def fingerprint(self, precision: str) -> str:
        """Changes with everything that the weights depend on: settings, cases, pixels, teachers."""
        facts: dict[str, Any] = {
            "seed": self.seed,
            "stage": self.stage.facts(),
            "fit": self.settings.model_dump(mode="json", exclude=NO_INPUT),
            "precision": precision,
            "preprocess": self.preprocess.to_dict(),
            "store": self.store.folder.name,
            "train": [case.id for case in self.of("train")],
            "val": [case.id for case in self.of("val")],
            "labels": [case.label for case in self.of("train")],
            "teachers": [sha256_file(self.teacher_folder(t.stage) / WEIGHTS) for t in self.stage.teachers],
        }
        if self.recipe.data.skip_empty:  # facts that came after the first runs: a finished run stays finished
            facts["skip_empty"] = True
        if self.views_seed != self.seed:
            facts["views_seed"] = self.views_seed
        if any(teacher.unseen for teacher in self.stage.teachers):
            facts["unseen"] = speaks(self.recipe, self.name, self.of("train"), self.cases)
        codes = self.stage.codes
        if codes:
            facts["autoencoders"] = [sha256_file(self.teacher_folder(name) / WEIGHTS) for name in codes]
        if self.stage.starts_from is not None:
            facts["starts_from"] = sha256_file(self.teacher_folder(self.stage.starts_from) / WEIGHTS)
        if locations_kept(self.recipe, self.name) < 1:
            facts["located"] = [case.id for case in self.of("train") if case.has_reference]
        return sha256_text(json.dumps(facts, sort_keys=True))


def stage_cases(recipe: Recipe, name: str, cases: list[Case], split: str) -> list[Case]:
    """The cases of a split that a stage takes.

    Raises:
        InputError: there is nothing to train on, or one of its classes or sites has no case.
    """
    stage = recipe.stages[name]
    labels = stage.labels or recipe.data.labels
    joint = stage.joint_settings
    known = keep_locations(cases, locations_kept(recipe, name), recipe.data.locations_seed)
    unlocated = joint is not None and joint.uses_class and not joint.labelled_only
    if split == "train" and stage.held_out is not None:
        fold = folds_of(cases, stage.held_out.folds, recipe.data.split.seed)
        known = [case for case in known if fold.get(case.id) != stage.held_out.fold]
    return training_cases(known, split, labels, f"stage {name}", stage.sites, unlocated)


def locations_kept(recipe: Recipe, name: str) -> float:
    """Share of the training cases whose mask or box a stage may see."""
    own = recipe.stages[name].locations
    return recipe.data.locations if own is None else own


def precision_of(recipe: Recipe, name: str, device: torch.device) -> str:
    """What a stage is trained in, as Fabric calls it."""
    return choose_precision(recipe.fit_settings(name).precision, device, recipe.stages[name].model.name)


TEACHERS_FILE = "teachers.csv"

Row = tuple[str, str, list[str], list[str]]
"""A stage, one of its training cases, the teachers that taught it, and those that had seen it."""


def write_teachers(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case], path: Path) -> None:
    """Writes which teacher taught each training case of the stages, and which teachers had seen it.

    One row per stage and case; several teachers are joined by spaces. Stages without out-of-fold teachers are left
    out, and without any of these there is no file.
    """
    rows = list(_rows(recipe, stages, cases))
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("stage", "case", "taught_by", "seen_by"))
    writer.writerows((stage, case, " ".join(taught), " ".join(knew)) for stage, case, taught, knew in rows)
    write_text(path, text.getvalue())


def count_taught(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case]) -> list[Taught]:
    """The same, counted for each teacher of each stage."""
    rows = list(_rows(recipe, stages, cases))
    counted = []
    for name in dict.fromkeys(stage for stage, *_ in rows):
        for each in recipe.stages[name].teachers:
            told = [knew for stage, _, taught, knew in rows if stage == name and each.stage in taught]
            learned = len(stage_cases(recipe, each.stage, list(cases), "train"))
            overlap = sum(each.stage in knew for knew in told)
            counted.append(Taught(name, each.stage, learned, len(told), overlap))
    return counted


def _rows(recipe: Recipe, stages: Sequence[str], cases: Sequence[Case]) -> Iterator[Row]:
    for name in stages:
        stage = recipe.stages[name]
        if not any(teacher.unseen for teacher in stage.teachers):
            continue
        own = stage_cases(recipe, name, list(cases), "train")
        seen = {
            teacher.stage: {case.id for case in stage_cases(recipe, teacher.stage, list(cases), "train")}
            for teacher in stage.teachers
        }
        for case, allowed in zip(own, speaks(recipe, name, own, cases), strict=True):
            taught = [
                each.stage
                for each, may in zip(stage.teachers, allowed, strict=True)
                if may and (stage.routing != "by_class" or not each.labels or case.label in each.labels)
            ]
            yield name, case.id, taught, [t.stage for t in stage.teachers if case.id in seen[t.stage]]
