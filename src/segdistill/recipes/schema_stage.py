"""What a recipe says of one stage: the network that is trained, its loss, its teachers and what they hand over."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from segdistill.recipes.schema_base import Named, Strict
from segdistill.training.adversarial_settings import AdversarialSettings
from segdistill.training.joint_settings import JointSettings

AUTOENCODER = "feature_autoencoder"


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
    autoencoders: dict[str, str] = Field(default_factory=dict)


class TeacherRecipe(Strict):
    """A teacher: a stage of this recipe with its fixed weight.

    `labels` are the classes of images that it speaks for when routing is by class. `unseen: true` lets it speak only
    for the training cases that its stage left out; where a stage is trained `out_of_fold: K` recipes/out_of_fold.py
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

    `weighing` and `combine` say whose word weighs how much among several teachers: knowledge/weighing.py and
    training/distillation.py. A stage with task `autoencoder` learns the features of its one teacher.

    `sites` are the hospitals whose cases it trains and validates on; it is tested on all of the recipe's data. `seed`
    stands in for the recipe's: of the first weights, and of the views and their order.

    `joint` says how the class of an image is learned: by a stage with task `joint` (LA-Net, RMTL, AGN, classifiers), or
    by a distilled student that also classifies. `locations` stands in for data.locations. `starts_from` names the stage
    whose weights it begins with; `load_fex: false` leaves the encoder and the classifier out (LA-Net's Algorithm 1).

    `deep: sum` adds to the loss of a supervised stage that of every side output of its network, each in full (U2-Net).

    `adversarial` holds the weights and discriminators of a stage with task `adversarial` (US-SEG).

    `cache` keeps what the teachers say of the `fit.views` different views of each image (knowledge/cache.py), in a
    folder beside the runs that may grow to `cache_limit_gb`. `left_out` is the fold of the training cases that the
    stage does not see. `equal_time_to` names a distillation stage: this one then takes as many steps as fit into its
    time (recipes/equal_time.py). With `may_fail` a failure is listed, and the other stages go on (cells of a matrix).
    """

    task: Literal["supervised", "distillation", "autoencoder", "adversarial", "joint"] = "supervised"
    model: ModelRecipe
    loss: Named = Named(name="weight_balance")
    labels: list[str] | None = None
    fit: dict[str, Any] = Field(default_factory=dict)
    role: Literal["teacher", "student", "baseline"] = "baseline"
    about: str = ""
    teachers: list[TeacherRecipe] = Field(default_factory=list)
    knowledge: list[KnowledgeRecipe] = Field(default_factory=list)
    hard_weight: float = Field(default=1.0, ge=0)
    routing: Literal["both", "by_class"] = "both"
    finetune_teachers: bool = False
    weighing: Named = Named(name="fixed")
    combine: Literal["gaps", "mixture"] = "gaps"
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
    left_out: FoldRecipe | None = None
    equal_time_to: str | None = None
    may_fail: bool = False

    @model_validator(mode="before")
    @classmethod
    def _role_of_its_task(cls, value: object) -> object:
        """What is distilled is a student where nothing else is said; as a baseline it would be compared with itself."""
        if isinstance(value, dict) and value.get("task") == "distillation":
            return {"role": "student", **value}
        return value

    @field_validator("weighing", mode="before")
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
        """The stages of auto-encoders that its knowledge reads through."""
        found = [stage for knowledge in self.knowledge for stage in knowledge.autoencoders.values()]
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
        no_facts |= {"cache_limit_gb", "left_out", "equal_time_to", "may_fail"}
        facts = self.model_dump(mode="json", exclude=no_facts)
        late = ("weighing", "combine", "joint", "starts_from", "load_fex", "deep", "adversarial", "cache")
        for name in late:
            if getattr(self, name) == type(self).model_fields[name].default:
                del facts[name]
        for knowledge in facts["knowledge"]:
            if not knowledge["autoencoders"]:
                del knowledge["autoencoders"]
        for teacher in facts["teachers"]:
            if not teacher["unseen"]:
                del teacher["unseen"]
        return facts

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _consistent(self) -> StageRecipe:
        if self.task == "distillation" and not (self.teachers and self.knowledge):
            raise ValueError("a distillation stage needs teachers and knowledge")
        if self.task in ("supervised", "joint", "adversarial") and (self.teachers or self.knowledge):
            raise ValueError(f"a {self.task} stage has no teachers and no knowledge: set task: distillation")
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
            ("knowledge", [knowledge.name for knowledge in self.knowledge]),
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
        for name in ("hard_weight", "routing", "finetune_teachers"):
            if self.task != "distillation" and not self._is_default(name):
                raise ValueError(f"{name} belongs to a stage with task: distillation: leave it out")
        joint = self.joint_settings
        if joint is not None and joint.location != "loss" and not self._is_default("loss"):
            raise ValueError(
                "the loss is read with joint.location: loss alone: set that, or leave the loss out"
            )
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
