"""What a recipe may say. Unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segdistill.errors import InputError
from segdistill.registry import near_names
from segdistill.training.settings import FitSettings, OptimizerSettings, ScheduleSettings

SMALLEST_SIDE = 8
AUTOENCODER = "feature_autoencoder"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Named(BaseModel):
    """A registered part by name, with its options beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class ModelRecipe(Named):
    """A network by its registered name.

    `pretrained` is a file or URL with ImageNet weights for the encoder, `sha256` its checked hash.
    """

    pretrained: str | None = None
    sha256: str | None = None


class KnowledgeRecipe(Named):
    """A knowledge by its registered name, with its weight in the loss.

    `autoencoders` is for feature_similarity: the stage that trained the auto-encoders of the student (under the name
    "student") and of each teacher (under the name of its stage).
    """

    weight: float = Field(default=1.0, ge=0)
    autoencoders: dict[str, str] = {}


class SplitRecipe(_Strict):
    """How cases are divided: see data/splits.py. `given` takes the table's own split column; `auto` does so where the
    table has one, and holds out cases otherwise.
    """

    method: Literal["auto", "hold_out", "k_fold", "paper", "given"] = "auto"
    test: float = Field(default=0.15, gt=0, lt=1)
    val: float = Field(default=0.15, ge=0, lt=1)
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    seed: int = 0


class DataRecipe(_Strict):
    """Which cases, at which size.

    `dataset` names an adapter that indexes the folder given by --data; a cases.csv given there needs none.
    `phantoms` is the number of pictures that the dataset `phantom` draws.
    """

    dataset: str | None = None
    size: int | list[int] = 256
    colour: Literal["grey", "rgb"] = "grey"
    channels: int = Field(default=3, ge=1)
    labels: list[str] | None = None
    split: SplitRecipe = SplitRecipe()
    phantoms: int = Field(default=120, ge=1)

    @field_validator("size", mode="before")
    @classmethod
    def _is_size(cls, value: object) -> object:
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if not all(type(side) is int and side >= SMALLEST_SIDE for side in sides):
            raise ValueError(
                f"give a side or [height, width] in pixels, at least {SMALLEST_SIDE}, not {value!r}"
            )
        return value

    @property
    def height_width(self) -> tuple[int, int]:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[0], self.size[1])


class TeacherRecipe(_Strict):
    """A teacher: a stage of this recipe with its fixed weight.

    `labels` are the classes of images that it speaks for when routing is by class.
    """

    stage: str
    weight: float = Field(default=1.0, ge=0)
    labels: list[str] = []


class StageRecipe(_Strict):
    """One network to train.

    `weighing` and `combine` say whose word weighs how much among several teachers: knowledge/weighing.py and
    training/distillation.py. A stage with task `autoencoder` learns the features of its one teacher.
    """

    task: Literal["supervised", "distillation", "autoencoder"] = "supervised"
    model: ModelRecipe
    loss: Named = Named(name="weight_balance")
    labels: list[str] | None = None
    fit: dict[str, Any] = Field(default_factory=dict)
    role: Literal["teacher", "student", "baseline"] = "baseline"
    about: str = ""
    teachers: list[TeacherRecipe] = []
    knowledge: list[KnowledgeRecipe] = []
    hard_weight: float = Field(default=1.0, ge=0)
    routing: Literal["both", "by_class"] = "both"
    finetune_teachers: bool = False
    weighing: Named = Named(name="fixed")
    combine: Literal["gaps", "mixture"] = "gaps"

    @field_validator("weighing", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @property
    def needs(self) -> list[str]:
        """The stages that must be trained before this one."""
        codes = [stage for knowledge in self.knowledge for stage in knowledge.autoencoders.values()]
        return list(dict.fromkeys([teacher.stage for teacher in self.teachers] + codes))

    def facts(self) -> dict[str, Any]:
        """What decides the stage's result, without its training settings.

        Fields that came after the first runs are left out at their defaults: a finished run stays finished.
        """
        facts = self.model_dump(mode="json", exclude={"fit", "about", "role"})
        for name in ("weighing", "combine"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del facts[name]
        for knowledge in facts["knowledge"]:
            if not knowledge["autoencoders"]:
                del knowledge["autoencoders"]
        return facts

    @model_validator(mode="after")
    def _consistent(self) -> StageRecipe:
        if self.task == "distillation" and not (self.teachers and self.knowledge):
            raise ValueError("a distillation stage needs teachers and knowledge")
        if self.task == "supervised" and (self.teachers or self.knowledge):
            raise ValueError("a supervised stage has no teachers and no knowledge: set task: distillation")
        for what, names in (
            ("teacher", [teacher.stage for teacher in self.teachers]),
            ("knowledge", [knowledge.name for knowledge in self.knowledge]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what} '{name}' twice: give it one weight")
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> StageRecipe:
        if self.task == "autoencoder":
            if len(self.teachers) != 1 or self.knowledge:
                raise ValueError(
                    "an autoencoder stage has one teacher, the network whose features it learns, and no knowledge"
                )
            if self.model.name != AUTOENCODER:
                raise ValueError(f"an autoencoder stage trains model: {{name: {AUTOENCODER}}}")
        elif self.model.name == AUTOENCODER:
            raise ValueError(f"{AUTOENCODER} is trained by a stage with task: autoencoder")
        if self.task != "distillation" and (self.weighing.name != "fixed" or self.combine != "gaps"):
            raise ValueError("weighing and combine belong to a stage with task: distillation")
        networks = ["student", *(teacher.stage for teacher in self.teachers)]
        for knowledge in self.knowledge:
            given = knowledge.autoencoders
            if knowledge.name != "feature_similarity" and given:
                raise ValueError(
                    f"knowledge {knowledge.name} has no auto-encoders: only feature_similarity has"
                )
            if knowledge.name == "feature_similarity" and sorted(given) != sorted(set(networks)):
                wanted = ", ".join(f"{name}: STAGE" for name in networks)
                raise ValueError(
                    f"knowledge feature_similarity needs autoencoders: {{{wanted}}}, "
                    "the stages with task: autoencoder that trained them"
                )
            if given and networks.count("student") > 1:
                raise ValueError(
                    "a teacher called 'student' cannot be told from the student: rename its stage"
                )
        return self


class Recipe(_Strict):
    """An experiment: data, stages in order, and what is reported and exported.

    `fit` holds the training settings of all stages, a stage's own `fit` overrides them. `run` names the stages that
    are trained when the command line names none (their teachers come along); empty for all.

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
    run: list[str] = []
    export: str | None = None

    @model_validator(mode="after")
    def _stages_exist(self) -> Recipe:
        names = list(self.stages)
        wanted = [("run", name) for name in self.run] + ([("export", self.export)] if self.export else [])
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
            for codes in stage.needs[len(stage.teachers) :]:
                if codes not in names[:i] or self.stages[codes].task != "autoencoder":
                    known = [other for other in names[:i] if self.stages[other].task == "autoencoder"]
                    raise ValueError(
                        f"stages.{name}.knowledge: no stage '{codes}' with task: autoencoder is defined before it: "
                        f"{near_names(codes, known)}"
                    )
            try:
                self.fit_settings(name)
            except ValidationError as error:
                raise ValueError(f"stages.{name}.fit.{_first_line(error, FitSettings)}") from error
        return self

    def fit_settings(self, stage: str) -> FitSettings:
        """Training settings of a stage: the recipe's, with the stage's own on top."""
        return FitSettings.model_validate(merge(self.fit.model_dump(), self.stages[stage].fit))

    def with_teachers(self, wanted: list[str]) -> list[str]:
        """The wanted stages and all the teachers that they need, in the order of the recipe."""
        needed: set[str] = set()
        pending = [name.strip() for name in wanted]
        while pending:
            name = pending.pop()
            if name not in self.stages:
                raise InputError(f"recipe {self.name} has no stage '{name}': {near_names(name, self.stages)}")
            needed.add(name)
            pending += [stage for stage in self.stages[name].needs if stage not in needed]
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
        "teachers": TeacherRecipe,
        "fit": FitSettings,
        "optimizer": OptimizerSettings,
        "schedule": ScheduleSettings,
    }
    names = [part for part in place if isinstance(part, str)]
    if not names:
        return list(top.model_fields)
    if place[0] == "stages" and len(place) == 2:
        return list(StageRecipe.model_fields)
    return list(kinds[names[-1]].model_fields) if names[-1] in kinds else []
