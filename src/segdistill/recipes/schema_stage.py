"""What a recipe says of one stage: the network that is trained, its loss, its teachers and what they hand over."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from segdistill.recipes.schema_base import Named, Strict

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

    `labels` are the classes of images that it speaks for when routing is by class.
    """

    stage: str
    weight: float = Field(default=1.0, ge=0)
    labels: list[str] = Field(default_factory=list)


class StageRecipe(Strict):
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
    teachers: list[TeacherRecipe] = Field(default_factory=list)
    knowledge: list[KnowledgeRecipe] = Field(default_factory=list)
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
