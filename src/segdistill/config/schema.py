"""What a recipe may say. Unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segdistill.errors import InputError
from segdistill.imaging.intensity import Intensity
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.preprocess import Preprocess
from segdistill.metrics.cases import EXTRA_METRICS
from segdistill.registry import near_names
from segdistill.training.settings import (
    AdversarialSettings,
    FitSettings,
    JointSettings,
    OptimizerSettings,
    ScheduleSettings,
)


class Strict(BaseModel):
    """A part of a recipe: unknown keys and wrong types are refused, and it never changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Named(BaseModel):
    """A registered part by name, with its options beside it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


SMALLEST_SIDE = 8


class SplitRecipe(Strict):
    """How cases are divided: see data/splits.py. `given` takes the table's own split column; `auto` does so where the
    table has one, and holds out cases otherwise. `counts` tests exactly so many cases of each label;
    `leave_one_out` tests the group number `fold`.
    """

    method: Literal["auto", "hold_out", "k_fold", "leave_one_out", "paper", "given", "counts"] = "auto"
    test: float = Field(default=0.15, gt=0, lt=1)
    val: float = Field(default=0.15, ge=0, lt=1)
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    seed: int = 0
    counts: dict[str, int] | None = None

    @model_validator(mode="after")
    def _counts_belong(self) -> SplitRecipe:
        if (self.method == "counts") != bool(self.counts):
            raise ValueError(
                "method: counts needs counts: {LABEL: NUMBER, ...}, and no other method has them"
            )
        return self


class PatchRecipe(Strict):
    """A picture is not resized but cut into `count` x `count` overlapping patches of `size` x `size` pixels."""

    count: int = Field(ge=1)
    size: int = Field(ge=SMALLEST_SIDE)


class DataRecipe(Strict):
    """Which cases, at which size.

    `dataset` names an adapter that indexes the folder given by --data; a cases.csv given there needs none.
    `phantoms` is the number of pictures that the dataset `phantom` draws.

    `sites` keeps the cases of these hospitals alone. `intensity` says how the numbers of a volume become 8 bits: ct
    (a window of -160 to 240 HU), mr (standard deviations of the volume, -3 to 5), range (smallest to largest), or
    kind (window, z_score, range) with low and high; the network then sees -1 to 1, or standard deviations. With
    `patches` the network sees patches, and size is theirs. `skip_empty` leaves rows without foreground, such as the
    slices beyond an organ, out of training; validation and test keep all. Of the training cases with a mask or box
    each keeps it with probability `locations`, drawn by `locations_seed`; labels stay (LA-Net's partly labelled sets).

    >>> DataRecipe(patches={"count": 4, "size": 256}, channels=1).preprocess().size
    (256, 256)
    """

    dataset: str | None = None
    size: int | list[int] = 256
    colour: Literal["grey", "rgb"] = "grey"
    channels: int = Field(default=3, ge=1)
    labels: list[str] | None = None
    split: SplitRecipe = SplitRecipe()
    phantoms: int = Field(default=120, ge=1)
    sites: list[str] | None = Field(default=None, min_length=1)
    intensity: str | dict[str, Any] | None = None
    patches: PatchRecipe | None = None
    skip_empty: bool = False
    locations: float = Field(default=1.0, ge=0, le=1)
    locations_seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _size_of_patches(cls, content: Any) -> Any:
        patches = content.get("patches") if isinstance(content, dict) and "size" not in content else None
        size = patches.get("size") if isinstance(patches, dict) else getattr(patches, "size", None)
        return content if size is None else {**content, "size": size}

    @field_validator("intensity", mode="before")
    @classmethod
    def _is_intensity(cls, value: Any) -> Any:
        if value is not None:
            try:
                Intensity.from_dict(value)
            except InputError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _size_is_that_of_patches(self) -> DataRecipe:
        if self.patches is not None and self.height_width != (self.patches.size, self.patches.size):
            raise ValueError(
                f"size is {self.size} and patches.size is {self.patches.size}, but the network sees patches: set "
                "data.size and data.patches.size to the same number, or leave size out"
            )
        return self

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

    def preprocess(self) -> Preprocess:
        """What is done to every picture or slice before the network, in training and in the model file.

        >>> DataRecipe(intensity="ct").preprocess().mean
        (0.5,)
        """
        intensity = None if self.intensity is None else Intensity.from_dict(self.intensity)
        mean, std = (0.0, 1.0) if intensity is None else intensity.network_scale()
        patches = None if self.patches is None else PatchGrid(self.patches.count, self.patches.size)
        return Preprocess(self.height_width, self.colour, self.channels, (mean,), (std,), intensity, patches)


class EvaluationRecipe(Strict):
    """How every stage is measured on the test cases.

    `metrics` are measured per case beside Dice, IoU, precision, recall and accuracy. `pooled` adds accuracy,
    sensitivity, F1, two-class mIoU and AUC over all pixels of the set, as vessel papers report them. `threshold` is
    the probability above which a pixel is foreground, in the evaluation and in the model file alike. `calibration`
    asks whether probabilities mean what they say, over all pixels and near the boundary. `robustness` measures Dice on
    disturbed images, ten more passes over the test cases: of all stages, or of those in a list. `margin` is the
    loss in Dice that would be accepted for a student that is cheaper to train, stated before training: whether a
    larger one can be excluded stands in the verdicts.

    >>> EvaluationRecipe(metrics=["voe_emkd", "hd95"], pooled=True).threshold
    0.5
    """

    metrics: list[str] = Field(default_factory=list)
    pooled: bool = False
    threshold: float = Field(default=0.5, gt=0, lt=1)
    calibration: bool = False
    robustness: bool | list[str] = False
    margin: float | None = Field(default=None, gt=0, lt=1)

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in EXTRA_METRICS:
                raise ValueError(f"unknown metric '{name}': {near_names(name, EXTRA_METRICS)}")
        return list(dict.fromkeys(names))

    @property
    def needs_scores(self) -> bool:
        """Whether probabilities are measured, not masks alone."""
        return self.pooled or self.calibration or "rmse_map" in self.metrics

    @property
    def disturbed(self) -> list[str]:
        """The stages that `robustness` names; none where it is for all or for none."""
        return [] if isinstance(self.robustness, bool) else self.robustness

    def disturbs(self, stage: str) -> bool:
        """Whether a stage is also measured on disturbed images.

        >>> EvaluationRecipe(robustness=["student"]).disturbs("teacher")
        False
        """
        return self.robustness if isinstance(self.robustness, bool) else stage in self.robustness

    def facts(self) -> dict[str, Any]:
        """What decides the results of all stages; fields that came later are left out at their defaults.

        >>> EvaluationRecipe(margin=0.02).facts() == EvaluationRecipe().facts()
        True
        """
        late = {"margin", "robustness"} | (set() if self.calibration else {"calibration"})
        return self.model_dump(mode="json", exclude=late)


AUTOENCODER = "feature_autoencoder"


class ModelRecipe(Named):
    """A network by its registered name.

    `pretrained` is a file or URL with ImageNet weights for the encoder, `sha256` its checked hash.
    """

    pretrained: str | None = None
    sha256: str | None = None


class MethodRecipe(Named):
    """A distillation method by its registered name, with its weight in the loss.

    `autoencoders` is for feature_similarity: the stage that trained the auto-encoders of the student (under the name
    "student") and of each teacher (under the name of its stage).
    """

    weight: float = Field(default=1.0, ge=0)
    autoencoders: dict[str, str] = Field(default_factory=dict)


class TeacherRecipe(Strict):
    """A teacher: a stage of this recipe with its fixed weight.

    `labels` are the classes of images that it speaks for when routing is by class. `unseen: true` lets it speak only
    for the training cases that its stage left out; where a stage is trained `out_of_fold: K` config/folds.py
    writes K such teachers in its place.
    """

    stage: str
    weight: float = Field(default=1.0, ge=0)
    labels: list[str] = Field(default_factory=list)
    unseen: bool = False


class FoldRecipe(Strict):
    """One fold of the training cases, counted from 1, of `folds` in all; groups stay whole."""

    fold: int = Field(ge=1)
    folds: int = Field(ge=2)

    @model_validator(mode="after")
    def _exists(self) -> FoldRecipe:
        if self.fold > self.folds:
            raise ValueError(f"no fold {self.fold}: they are 1 to {self.folds}")
        return self


class StageRecipe(Strict):
    """One network to train.

    `weighting` and `combine` say whose word weighs how much among several teachers: distillation/weighting.py and
    training/distillation.py. A stage with task `autoencoder` learns the features of its one teacher.

    `sites` are the hospitals whose cases it trains and validates on; it is tested on all of the recipe's data. `seed`
    stands in for the recipe's: of the first weights, and of the views and their order.

    `joint` says how the class of an image is learned: by a stage with task `joint` (LA-Net, RMTL, AGN, classifiers), or
    by a distilled student that also classifies. `locations` stands in for data.locations. `starts_from` names the stage
    whose weights it begins with; `load_fex: false` leaves the encoder and the classifier out (LA-Net's Algorithm 1).

    `deep: sum` adds to the loss of a supervised stage that of every side output of its network, each in full (U2-Net).

    `adversarial` holds the weights and discriminators of a stage with task `adversarial` (US-SEG).

    `cache` keeps what the teachers say of the `fit.views` different views of each image,
    in a folder beside the runs that may grow to `cache_limit_gb`. `held_out` is the fold of the training cases that the
    stage does not see. `equal_time_to` names a distillation stage: this one then takes as many steps as fit into its
    time (experiment/equal_time.py). With `may_fail` a failure is listed, and the other stages go on.
    """

    task: Literal["supervised", "distillation", "autoencoder", "adversarial", "joint"] = "supervised"
    model: ModelRecipe
    loss: Named = Named(name="weight_balance")
    labels: list[str] | None = None
    fit: dict[str, Any] = Field(default_factory=dict)
    role: Literal["teacher", "student", "baseline"] = "baseline"
    about: str = ""
    teachers: list[TeacherRecipe] = Field(default_factory=list)
    methods: list[MethodRecipe] = Field(default_factory=list)
    hard_weight: float = Field(default=1.0, ge=0)
    routing: Literal["both", "by_class"] = "both"
    finetune_teachers: bool = False
    weighting: Named = Named(name="fixed")
    combine: Literal["losses", "predictions"] = "losses"
    sites: list[str] | None = Field(default=None, min_length=1)
    seed: int | None = None
    joint: JointSettings | None = None
    locations: float | None = Field(default=None, ge=0, le=1)
    starts_from: str | None = None
    load_fex: bool = True
    deep: Literal["sum"] | None = None
    adversarial: AdversarialSettings | None = None
    cache: bool = False
    cache_limit_gb: float = Field(default=20.0, gt=0)
    held_out: FoldRecipe | None = None
    equal_time_to: str | None = None
    may_fail: bool = False

    @model_validator(mode="before")
    @classmethod
    def _role_of_its_task(cls, value: object) -> object:
        """What is distilled is a student where nothing else is said; as a baseline it would be compared with itself."""
        if isinstance(value, dict) and value.get("task") == "distillation":
            return {"role": "student", **value}
        return value

    @field_validator("weighting", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @property
    def needs(self) -> list[str]:
        """The stages that must be trained before this one."""
        start = [self.starts_from] if self.starts_from is not None else []
        return list(dict.fromkeys([teacher.stage for teacher in self.teachers] + self.codes + start))

    @property
    def codes(self) -> list[str]:
        """The stages of auto-encoders that its method reads through."""
        found = [stage for methods in self.methods for stage in methods.autoencoders.values()]
        return list(dict.fromkeys(found))

    @property
    def adversarial_settings(self) -> AdversarialSettings:
        """How it is trained against discriminators, where its task is that."""
        return self.adversarial or AdversarialSettings()

    @property
    def joint_settings(self) -> JointSettings | None:
        """How its network learns the class of an image; None for a stage that only segments."""
        return self.joint or (JointSettings() if self.task == "joint" else None)

    def facts(self) -> dict[str, Any]:
        """What decides the stage's result, without its training settings, its seed and which cases it takes.

        Fields that came after the first runs are left out at their defaults: a finished run stays finished.
        """
        no_facts = {"fit", "about", "role", "sites", "seed", "locations"}
        no_facts |= {"cache_limit_gb", "held_out", "equal_time_to", "may_fail"}
        facts = self.model_dump(mode="json", exclude=no_facts)
        late = ("weighting", "combine", "joint", "starts_from", "load_fex", "deep", "adversarial", "cache")
        for name in late:
            if getattr(self, name) == type(self).model_fields[name].default:
                del facts[name]
        for methods in facts["methods"]:
            if not methods["autoencoders"]:
                del methods["autoencoders"]
        for teacher in facts["teachers"]:
            if not teacher["unseen"]:
                del teacher["unseen"]
        return facts

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _consistent(self) -> StageRecipe:
        if self.task == "distillation" and not (self.teachers and self.methods):
            raise ValueError("a distillation stage needs teachers and method")
        if self.task in ("supervised", "joint", "adversarial") and (self.teachers or self.methods):
            raise ValueError(f"a {self.task} stage has no teachers and no method: set task: distillation")
        if self.joint is not None and self.task not in ("joint", "distillation"):
            raise ValueError("joint belongs to a stage with task: joint or task: distillation")
        if self.starts_from is not None and self.task == "autoencoder":
            raise ValueError("an autoencoder stage starts from nothing: leave out starts_from")
        if self.adversarial is not None and self.task != "adversarial":
            raise ValueError("adversarial belongs to a stage with task: adversarial")
        if self.deep is not None and self.task != "supervised":
            raise ValueError("deep belongs to a stage with task: supervised: leave it out")
        if self.task == "adversarial" and not self._is_default("loss"):
            raise ValueError(
                "the loss of an adversarial stage is that of US-SEG: set its weights under adversarial"
            )
        if self.starts_from is None and not self.load_fex:
            raise ValueError("load_fex belongs to starts_from: name the stage to start from")
        for what, names in (
            ("teacher", [teacher.stage for teacher in self.teachers]),
            ("methods", [methods.name for methods in self.methods]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what} '{name}' twice: give it one weight")
        return self

    @model_validator(mode="after")
    def _can_be_cached(self) -> StageRecipe:
        if self.cache and self.task != "distillation":
            raise ValueError("cache belongs to a stage with task: distillation")
        if self.cache and self.finetune_teachers:
            raise ValueError(
                "finetune_teachers and cache exclude each other: what a learning teacher says changes; set cache: false"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> StageRecipe:
        if self.task == "autoencoder":
            if len(self.teachers) != 1 or self.methods:
                raise ValueError(
                    "an autoencoder stage has one teacher, the network whose features it learns, and no method"
                )
            if self.model.name != AUTOENCODER:
                raise ValueError(f"an autoencoder stage trains model: {{name: {AUTOENCODER}}}")
        elif self.model.name == AUTOENCODER:
            raise ValueError(f"{AUTOENCODER} is trained by a stage with task: autoencoder")
        if self.task != "distillation" and (self.weighting.name != "fixed" or self.combine != "losses"):
            raise ValueError("weighting and combine belong to a stage with task: distillation")
        for name in ("hard_weight", "routing", "finetune_teachers"):
            if self.task != "distillation" and not self._is_default(name):
                raise ValueError(f"{name} belongs to a stage with task: distillation: leave it out")
        joint = self.joint_settings
        if joint is not None and joint.location != "loss" and not self._is_default("loss"):
            raise ValueError(
                "the loss is read with joint.location: loss alone: set that, or leave the loss out"
            )
        networks = ["student", *(teacher.stage for teacher in self.teachers)]
        for methods in self.methods:
            given = methods.autoencoders
            if methods.name != "feature_similarity" and given:
                raise ValueError(f"method {methods.name} has no auto-encoders: only feature_similarity has")
            if methods.name == "feature_similarity" and sorted(given) != sorted(set(networks)):
                wanted = ", ".join(f"{name}: STAGE" for name in networks)
                raise ValueError(
                    f"method feature_similarity needs autoencoders: {{{wanted}}}, "
                    "the stages with task: autoencoder that trained them"
                )
            if given and networks.count("student") > 1:
                raise ValueError(
                    "a teacher called 'student' cannot be told from the student: rename its stage"
                )
        return self


_ENCODER = {"pretrained": None, "sha256": None}
_STAGE_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]{0,99}")


class Recipe(Strict):
    """An experiment: data, stages in order, and what is reported and exported.

    `fit` holds the training settings of all stages, a stage's own `fit` overrides them. `run` names the stages that
    are trained when the command line names none (their teachers come along); empty for all. `folds` makes a
    cross-validation of it (experiment/folds.py), in which data.split says val and seed alone; `only_folds` are
    those that this call runs, counted from 1.
    The recipe and its stages name folders: `name` may have several parts (a/b).

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
                        f"stages.{name}.method: no stage '{codes}' with task: autoencoder is defined before it: "
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
                if teacher.unseen and self.stages[teacher.stage].held_out is None:
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
