"""All that decides what a stage learns, and the fingerprint of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segdistill.data.cases import Case
from segdistill.data.store import Store
from segdistill.files import sha256_file, sha256_text
from segdistill.imaging.preprocess import Preprocess
from segdistill.recipes.gather import training_cases
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
    def settings(self) -> FitSettings:
        """How it is trained."""
        return self.recipe.fit_settings(self.name)

    def of(self, split: str) -> list[Case]:
        """The stage's cases of a split."""
        return stage_cases(self.recipe, self.name, self.cases, split)

    def teacher_folder(self, name: str) -> Path:
        """Where another stage of the same run lies."""
        return self.folder.parent / name

    def fingerprint(self, precision: str) -> str:
        """Changes with everything that the weights depend on: settings, cases, pixels, teachers."""
        facts: dict[str, Any] = {
            "seed": self.recipe.seed,
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
        codes = self.stage.needs[len(self.stage.teachers) :]
        if codes:
            facts["autoencoders"] = [sha256_file(self.teacher_folder(name) / WEIGHTS) for name in codes]
        return sha256_text(json.dumps(facts, sort_keys=True))


def stage_cases(recipe: Recipe, name: str, cases: list[Case], split: str) -> list[Case]:
    """The cases of a split that a stage takes.

    Raises:
        InputError: there is nothing to train on, or one of its classes has no case.
    """
    labels = recipe.stages[name].labels or recipe.data.labels
    return training_cases(cases, split, labels, f"stage {name}")


def precision_of(recipe: Recipe, name: str, device: torch.device) -> str:
    """What a stage is trained in, as Fabric calls it."""
    return choose_precision(recipe.fit_settings(name).precision, device, recipe.stages[name].model.name)
