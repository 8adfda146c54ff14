"""What a recipe may say. Unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from segdistill.errors import InputError
from segdistill.recipes.schema_base import Strict
from segdistill.recipes.schema_data import DataRecipe, PatchRecipe, SplitRecipe
from segdistill.recipes.schema_evaluation import EvaluationRecipe
from segdistill.recipes.schema_stage import StageRecipe, TeacherRecipe
from segdistill.registry import near_names
from segdistill.training.joint_settings import JointSettings
from segdistill.training.settings import FitSettings, OptimizerSettings, ScheduleSettings

_ENCODER = {"pretrained": None, "sha256": None}
_STAGE_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]{0,99}")


class Recipe(Strict):
    """An experiment: data, stages in order, and what is reported and exported.

    `fit` holds the training settings of all stages, a stage's own `fit` overrides them. `run` names the stages that
    are trained when the command line names none (their teachers come along); empty for all. `folds` makes a
    cross-validation of it (recipes/folds.py), in which data.split says val and seed alone; `only_folds` are those that
    this call runs, counted from 1. The recipe and its stages name folders: `name` may have several parts (a/b).

    >>> recipe = Recipe(name="r", stages={"net": {"model": {"name": "unet"}}})
    >>> recipe.fit_settings("net").batch_size
    8
    """

    name: str
    about: str = ""
    seed: int = 0
    data: DataRecipe = DataRecipe()
    fit: FitSettings = FitSettings()
    stages: dict[str, StageRecipe] = Field(min_length=1)
    run: list[str] = Field(default_factory=list)
    export: str | None = None
    evaluation: EvaluationRecipe = EvaluationRecipe()
    folds: int | None = Field(default=None, ge=2)
    only_folds: list[int] = Field(default_factory=list)

    @field_validator("name")
    @classmethod
    def _is_below_runs(cls, name: str) -> str:
        if any(part.strip() in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
            raise ValueError(
                f"{name!r} cannot name the folder of its runs: use words, or words with / between them"
            )
        return name

    @field_validator("stages", mode="before")
    @classmethod
    def _name_folders(cls, stages: object) -> object:
        for name in stages if isinstance(stages, dict) else ():
            if isinstance(name, str) and not _STAGE_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name the folder of a stage: use at most 100 letters, digits and _ @ . -, "
                    "and no dot first"
                )
        return stages

    @model_validator(mode="after")
    def _folds_exist(self) -> Recipe:
        if self.only_folds and self.folds is None:
            raise ValueError("only_folds belongs to a recipe with folds: set their number, such as folds=5")
        for fold in self.only_folds:
            if not 1 <= fold <= (self.folds or 0):
                raise ValueError(
                    f"only_folds: no fold {fold}: with folds: {self.folds} they are 1 to {self.folds or 0}"
                )
        return self

    @model_validator(mode="after")
    def _stages_exist(self) -> Recipe:
        names = list(self.stages)
        wanted = [("run", name) for name in self.run] + ([("export", self.export)] if self.export else [])
        wanted += [("evaluation.robustness", name) for name in self.evaluation.disturbed]
        for where, name in wanted:
            if name not in self.stages:
                raise ValueError(f"{where}: no stage '{name}': {near_names(str(name), names)}")
        for i, (name, stage) in enumerate(self.stages.items()):
            for teacher in stage.teachers:
                if teacher.stage in names[i + 1 :]:
                    raise ValueError(f"stages.{name}.teachers: '{teacher.stage}' comes after it: move it up")
                if teacher.stage not in names[:i]:
                    raise ValueError(
                        f"stages.{name}.teachers: '{teacher.stage}' is not defined before it: "
                        f"{near_names(teacher.stage, names[:i])}"
                    )
                if self.stages[teacher.stage].task == "autoencoder":
                    raise ValueError(
                        f"stages.{name}.teachers: '{teacher.stage}' holds auto-encoders, no network"
                    )
            for codes in stage.codes:
                if codes not in names[:i] or self.stages[codes].task != "autoencoder":
                    known = [other for other in names[:i] if self.stages[other].task == "autoencoder"]
                    raise ValueError(
                        f"stages.{name}.knowledge: no stage '{codes}' with task: autoencoder is defined before it: "
                        f"{near_names(codes, known)}"
                    )
            if stage.starts_from is not None:
                start = self.stages.get(stage.starts_from) if stage.starts_from in names[:i] else None
                if start is None or start.task == "autoencoder":
                    raise ValueError(
                        f"stages.{name}.starts_from: no stage '{stage.starts_from}' of a network is defined before it: "
                        f"{near_names(stage.starts_from, names[:i])}"
                    )
                if start.model.model_dump() | _ENCODER != stage.model.model_dump() | _ENCODER:
                    raise ValueError(
                        f"stages.{name}.starts_from: '{stage.starts_from}' has another network or other options: "
                        "give both the same"
                    )
            try:
                views = self.fit_settings(name).views
            except ValidationError as error:
                raise ValueError(f"stages.{name}.fit.{_first_line(error, FitSettings)}") from error
            if stage.cache and views is None:
                raise ValueError(
                    f"stages.{name}.cache: it needs a fixed number of views of each image: set fit.views, such as 10"
                )
        return self

    @model_validator(mode="after")
    def _times_and_folds_exist(self) -> Recipe:
        for name, stage in self.stages.items():
            method = self.stages.get(stage.equal_time_to or "")
            if stage.equal_time_to is not None and (
                method is None or method.task != "distillation" or stage.task != "supervised"
            ):
                distilled = [other for other, part in self.stages.items() if part.task == "distillation"]
                raise ValueError(
                    f"stages.{name}.equal_time_to: a supervised stage takes the time of a distillation stage, not of "
                    f"'{stage.equal_time_to}': {near_names(stage.equal_time_to, distilled)}"
                )
            for teacher in stage.teachers:
                if teacher.unseen and self.stages[teacher.stage].left_out is None:
                    raise ValueError(
                        f"stages.{name}.teachers: '{teacher.stage}' has seen all cases: set out_of_fold in its stage"
                    )
        return self

    def fit_settings(self, stage: str) -> FitSettings:
        """Training settings of a stage: the recipe's, with the stage's own on top."""
        return FitSettings.model_validate(merge(self.fit.model_dump(), self.stages[stage].fit))

    def needs(self, name: str) -> list[str]:
        """The stages that must be trained before one: its own, and those of the stage whose time it takes."""
        timed = self.stages[name].equal_time_to
        return self.stages[name].needs + (self.stages[timed].needs if timed else [])

    def chosen(self, stages: list[str] | None) -> list[str]:
        """The stages of a call, with their teachers: those it names, else those that the recipe runs by default.

        Raises:
            InputError: as `with_teachers`.
        """
        return self.with_teachers(stages or self.run or list(self.stages))

    def with_teachers(self, wanted: list[str]) -> list[str]:
        """The wanted stages and all the teachers that they need, in the order of the recipe."""
        needed: set[str] = set()
        pending = [name.strip() for name in wanted]
        while pending:
            name = pending.pop()
            if name not in self.stages:
                raise InputError(f"recipe {self.name} has no stage '{name}': {near_names(name, self.stages)}")
            needed.add(name)
            pending += [stage for stage in self.needs(name) if stage not in needed]
        return [name for name in self.stages if name in needed]


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top; dictionaries merge key by key, all else is replaced.

    A dictionary that names another part (`name`) replaces the old one, whose options would not fit it.

    >>> merge({"fit": {"epochs": 1, "lr": 2}}, {"fit": {"epochs": 3}})
    {'fit': {'epochs': 3, 'lr': 2}}
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def parse_recipe(content: dict[str, Any], source: str) -> Recipe:
    """A checked recipe.

    Raises:
        InputError: one line with the key, what is wrong and what would be right.

    >>> parse_recipe({"name": "r", "stages": {}}, "r.yaml")
    Traceback (most recent call last):
    segdistill.errors.InputError: r.yaml: stages: Dictionary should have at least 1 item after validation, not 0
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_line(error)}") from error


_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _first_line(error: ValidationError, top: type[BaseModel] = Recipe) -> str:
    errors = error.errors()
    unknown = [
        one for one in errors if one["type"] in _UNKNOWN
    ]  # often the reason why another one is missing
    first = (unknown or errors)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if unknown:
        parent = _fields_at(first["loc"][:-1], top)
        message = "unknown key" + (f": {near_names(str(first['loc'][-1]), parent)}" if parent else "")
    elif first["type"] not in ("value_error", "missing", "too_short"):
        message += f", not {first['input']!r}"
    more = len(errors) - 1
    return (f"{place}: " if place else "") + message + (f" (and {more} more)" if more else "")


def _fields_at(place: tuple[int | str, ...], top: type[BaseModel]) -> list[str]:
    """The known keys at a place of the recipe, for the message about an unknown one."""
    kinds: dict[str, type[BaseModel]] = {
        "data": DataRecipe,
        "split": SplitRecipe,
        "patches": PatchRecipe,
        "evaluation": EvaluationRecipe,
        "teachers": TeacherRecipe,
        "fit": FitSettings,
        "optimizer": OptimizerSettings,
        "schedule": ScheduleSettings,
        "joint": JointSettings,
    }
    names = [part for part in place if isinstance(part, str)]
    if not names:
        return list(top.model_fields)
    if place[0] == "stages" and len(place) == 2:
        return list(StageRecipe.model_fields)
    return list(kinds[names[-1]].model_fields) if names[-1] in kinds else []
