"""All that decides what a stage learns, and the fingerprint of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segdistill.data.cases import Case
from segdistill.data.partial import keep_locations
from segdistill.data.store import Store
from segdistill.files import sha256_file, sha256_text
from segdistill.imaging.preprocess import Preprocess
from segdistill.recipes.equal_time import equal_steps
from segdistill.recipes.gather import training_cases
from segdistill.recipes.out_of_fold import folds_of, speaks
from segdistill.recipes.schema import Recipe
from segdistill.recipes.schema_stage import StageRecipe
from segdistill.training.loop import WEIGHTS
from segdistill.training.precision import choose_precision
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
    if split == "train" and stage.left_out is not None:
        fold = folds_of(cases, stage.left_out.folds, recipe.data.split.seed)
        known = [case for case in known if fold.get(case.id) != stage.left_out.fold]
    return training_cases(known, split, labels, f"stage {name}", stage.sites, unlocated)


def locations_kept(recipe: Recipe, name: str) -> float:
    """Share of the training cases whose mask or box a stage may see."""
    own = recipe.stages[name].locations
    return recipe.data.locations if own is None else own


def precision_of(recipe: Recipe, name: str, device: torch.device) -> str:
    """What a stage is trained in, as Fabric calls it."""
    return choose_precision(recipe.fit_settings(name).precision, device, recipe.stages[name].model.name)
