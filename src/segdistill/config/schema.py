"""The recipe's schema. Unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from segdistill.config.effort import Effort
from segdistill.errors import InputError
from segdistill.imaging.classes import BACKGROUND, Classes, mask_values, parse_classes
from segdistill.imaging.grid import AnyPreprocess, VolumePreprocess
from segdistill.imaging.intensity import AnyIntensity, Intensity, scale_of
from segdistill.imaging.patches import PatchGrid
from segdistill.imaging.preprocess import Preprocess
from segdistill.metrics.base import METRICS
from segdistill.registry import near_names
from segdistill.report.card_schema import card_keys
from segdistill.training.settings import AdversarialSettings, FitSettings, JointSettings

Role = Literal["teacher", "student", "baseline", "comparator"]
"""What a stage is to the others: `Recipe` finds it where the recipe does not state it."""

SMALLEST_SIDE, LARGEST_SIDE = 8, 16384
LARGEST_SEED = 2**32 - 1
AUTOENCODER = "feature_autoencoder"


class Strict(BaseModel):
    """A part of a recipe: unknown keys and wrong types are refused, and it never changes."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class WithOptions(BaseModel):
    """A registered part with its options beside the declared keys."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the declared keys."""
        return dict(self.model_extra or {})


class Named(WithOptions):
    """A registered part by name."""

    name: str
    """Name of the registered part; its options stand beside it."""


class SplitRecipe(Strict):
    """How cases are divided (data/splits.py)."""

    method: Literal["auto", "hold_out", "k_fold", "leave_one_out", "paper", "given", "counts"] = "auto"
    """`given` takes the split column of the table; `auto` does so where the table has one, and else holds out; `counts`
    tests a fixed number of cases per label; `leave_one_out` tests one group; `paper` divides as LightBTSeg did."""
    test: float = Field(default=0.15, gt=0, lt=1)
    """Share of the cases that is tested."""
    val: float = Field(default=0.15, ge=0, lt=1)
    """Share of the cases for validation; 0 for none."""
    folds: int = Field(default=5, ge=2, le=1000)
    """Number of folds of `k_fold`."""
    fold: int = Field(default=1, ge=1)
    """The fold, or the group of `leave_one_out`, that is tested."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Another seed gives another split."""
    counts: dict[str, int] | None = None
    """Label: number of its test cases; for the method `counts`."""

    @model_validator(mode="after")
    def _counts_belong(self) -> SplitRecipe:
        if (self.method == "counts") != bool(self.counts):
            raise ValueError(
                "counts: {LABEL: NUMBER, ...} and method: counts belong together: give both or none"
            )
        return self


class PatchRecipe(Strict):
    """A picture is cut into `count` x `count` overlapping patches instead of being resized."""

    count: int = Field(ge=1, le=1000)
    """Patches along each side of a picture."""
    size: int = Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)
    """Side of a patch in pixels."""


def _is_by_channel(intensity: object) -> bool:
    """Whether an intensity is stated for each channel by name."""
    return isinstance(intensity, dict) and not set(intensity) & {"kind", "low", "high"}


class DataRecipe(Strict):
    """Which cases, at which size.

    >>> DataRecipe(patches={"count": 4, "size": 256}, channels=1).preprocess().size
    (256, 256)
    """

    dataset: str | None = None
    """Dataset whose adapter indexes the folder; a case table needs none."""
    table: str | None = None
    """Case table or folder, relative to the file of the recipe; `--data` replaces it."""
    dimensions: Literal[2, 3] = 2
    """3: networks see patches of volumes; 2: pictures, and volumes slice by slice. A `spacing`, or a `size` of three
    sides, means 3 where this is not set."""
    size: int | list[int] = 256
    """Side, or [height, width], of the network's images in pixels; of volumes [depth, height, width] of a patch, by
    default chosen from the data (segdistill data plan)."""
    spacing: list[float] | None = Field(default=None, min_length=3, max_length=3)
    """Of volumes, where dimensions is 3: [slice, row, column] in mm to which all are resampled; by default the median
    of the data's; where it is not known, voxels stay as they are."""
    colour: Literal["grey", "rgb"] = "grey"
    """How pictures are read."""
    channels: int = Field(default=3, ge=1, le=1024)
    """Channels of the network's images; with `channel_names` one for each."""
    channel_names: list[str] | None = Field(default=None, min_length=2, max_length=64)
    """Names of the channels of each case, in the network's order, such as [flair, t1]; by default those of the table.
    None: a case is one image, whose values are repeated to fill `channels`."""
    unlabelled: str | None = None
    """Folder or case table of further images without masks, for training only; relative to the recipe's file."""
    labels: list[str] | None = None
    """Labels of the images that are trained and validated on; all by default."""
    split: SplitRecipe = SplitRecipe()
    """How the cases are divided."""
    phantoms: int = Field(default=120, ge=1, le=100_000)
    """Number of synthetic pictures that the dataset `phantom` draws."""
    sites: list[str] | None = Field(default=None, min_length=1)
    """Use the cases of these sites only."""
    intensity: str | dict[str, Any] | None = None
    """How values of volumes, and of pictures with more than 8 bits, become 8 bits: `ct` (-160 to 240 HU),
    `mr` (-3 to 5 standard deviations), `range` (smallest to largest), or {kind: window | z_score | range, low,
    high}. Of several channels one for all, or one for each: {flair: mr, ct: ct}. By default the names of channels
    decide, where they have more than 8 bits, as in nnU-Net: `ct` for CT, `mr` for others; so does the name of the only
    channel of volumes. Without a name: `range` for volumes, one pair of levels of the whole table for pictures."""
    patches: PatchRecipe | None = None
    """Cut pictures into patches; `size` is then the size of a patch."""
    skip_empty: bool = False
    """Do not train on slices or patches without foreground; test on all of them."""
    keep_small: bool = True
    """Train on components of masks that vanish at `size` as the one pixel that each covers most; false: as background.
    Components of fewer than 3 pixels are exempt, and evaluation takes the masks as they are."""
    locations: float = Field(default=1.0, ge=0, le=1)
    """Share of the training cases that keep their mask or box; labels stay."""
    locations_seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Another seed keeps the masks and boxes of other cases."""
    classes: dict[str, list[int | str]] | None = None
    """The structures in the masks and their values in the mask files: {head: 1, body: [2, 3]}, or a list of names that
    the table knows; by default those of the table or data set. None: masks have one kind of foreground."""
    foreground: list[int | str] | None = None
    """Values of the mask files that are foreground, as one class: grey levels, indices of a palette, or colours
    ('#ff0000'); all others are background."""
    background: list[int | str] | None = None
    """Values of the mask files that are background; alone, all others are foreground; with `classes` those to
    ignore."""

    @field_validator("classes", mode="before")
    @classmethod
    def _are_classes(cls, value: Any) -> Any:
        try:
            return (
                None
                if value is None
                else {each.name: list(each.values) for each in parse_classes(value)} or None
            )
        except InputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _one_or_the_other(self) -> DataRecipe:
        if self.classes and self.foreground:
            raise ValueError(
                "foreground makes one class of several values: give data.foreground or data.classes, not both"
            )
        return self

    @property
    def mask_classes(self) -> Classes:
        """`classes` as a case has them.

        >>> DataRecipe(classes={"head": 1}).mask_classes
        (MaskClass(name='head', values=(1,)),)
        """
        return parse_classes(self.classes or {})

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of the network, background first.

        >>> DataRecipe().class_names
        ('background', 'lesion')
        """
        return (BACKGROUND, *(self.classes or ("lesion",)))

    @field_validator("foreground", "background", mode="before")
    @classmethod
    def _are_values(cls, value: Any) -> Any:
        try:
            return None if value is None else list(mask_values(value))
        except InputError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="before")
    @classmethod
    def _size_of_patches(cls, content: Any) -> Any:
        patches = content.get("patches") if isinstance(content, dict) and "size" not in content else None
        size = patches.get("size") if isinstance(patches, dict) else getattr(patches, "size", None)
        return content if size is None else {**content, "size": size}

    @model_validator(mode="before")
    @classmethod
    def _one_for_each_name(cls, content: Any) -> Any:
        names = content.get("channel_names") if isinstance(content, dict) else None
        return {**content, "channels": len(names)} if isinstance(names, list) and names else content

    @model_validator(mode="before")
    @classmethod
    def _dimensions_of_its_size(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "dimensions" in content:
            return content
        sides = content.get("size")
        is_volume = content.get("spacing") is not None or (isinstance(sides, list) and len(sides) == 3)
        return {**content, "dimensions": 3} if is_volume else content

    @field_validator("spacing", mode="before")
    @classmethod
    def _is_spacing(cls, value: Any) -> Any:
        three = isinstance(value, list) and len(value) == 3 and all(type(mm) in (int, float) for mm in value)
        if value is not None and not (three and all(0 < mm < 1000 for mm in value)):
            raise ValueError(
                "give [slice, row, column], three numbers of mm above 0 and below 1000, such as [2, 1, 1], not "
                f"{value!r}"
            )
        return value

    @field_validator("intensity", mode="before")
    @classmethod
    def _is_intensity(cls, value: Any) -> Any:
        if value is not None:
            try:
                for each in value.values() if _is_by_channel(value) else [value]:
                    Intensity.from_dict(each)
            except InputError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _intensities_fit_names(self) -> DataRecipe:
        names = self.channel_names or []
        if len(set(names)) < len(names):
            raise ValueError(f"channel_names: {', '.join(names)}: name each channel once")
        if names and _is_by_channel(self.intensity) and set(self.intensity or ()) != set(names):
            raise ValueError(
                f"intensity is stated for {', '.join(self.intensity or ())}, and the channels are {', '.join(names)}: "
                "state one for each"
            )
        return self

    @model_validator(mode="after")
    def _size_is_that_of_patches(self) -> DataRecipe:
        if self.patches is not None and self.height_width != (self.patches.size, self.patches.size):
            raise ValueError(
                f"size is {self.size} and patches.size is {self.patches.size}, but the network sees patches: set "
                "data.size and data.patches.size to the same number, or remove size"
            )
        return self

    @field_validator("size", mode="before")
    @classmethod
    def _is_size(cls, value: object) -> object:
        sides = value if isinstance(value, list) and len(value) in (2, 3) else [value]
        least = 4 if len(sides) == 3 else SMALLEST_SIDE
        if not all(type(side) is int and least <= side <= LARGEST_SIDE for side in sides):
            raise ValueError(
                f"give a side or [height, width] in pixels, from {SMALLEST_SIDE} to {LARGEST_SIDE}, not {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _fits_its_dimensions(self) -> DataRecipe:
        if isinstance(self.size, list) and len(self.size) != self.dimensions:
            wanted = "[depth, height, width]" if self.dimensions == 3 else "[height, width]"
            raise ValueError(f"size is {self.size}, but with dimensions: {self.dimensions} it is {wanted}")
        if self.spacing is not None and self.dimensions == 2:
            raise ValueError(f"spacing is {self.spacing}, which is for volumes: remove it, or dimensions: 2")
        if self.dimensions == 3 and (self.patches is not None or self.colour == "rgb"):
            raise ValueError("patches and colour: rgb are for pictures: remove them, or dimensions: 3")
        return self

    @property
    def height_width(self) -> tuple[int, int]:
        """The size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[-2], self.size[-1])

    @property
    def sides(self) -> tuple[int, ...]:
        """The size as (height, width), or of volumes (depth, height, width)."""
        return (self.size,) * self.dimensions if isinstance(self.size, int) else tuple(self.size)

    def preprocess(self) -> AnyPreprocess:
        """What is done to every picture or slice before the network, in training and in the model file.

        >>> DataRecipe(intensity="ct").preprocess().mean
        (0.5,)
        """
        names, intensity = tuple(self.channel_names or ()), self._intensity()
        mean, std = scale_of(intensity, len(names))
        if self.dimensions == 3:
            depth, height, width = self.sides
            grid = None if self.spacing is None else (self.spacing[0], self.spacing[1], self.spacing[2])
            shape = (depth, height, width)
            return VolumePreprocess(shape, grid, self.channels, mean, std, intensity, channel_names=names)
        patches = None if self.patches is None else PatchGrid(self.patches.count, self.patches.size)
        return Preprocess(self.height_width, self.colour, self.channels, mean, std, intensity, patches, names)

    def _intensity(self) -> AnyIntensity:
        """Of an image, or of each channel where the recipe tells them apart.

        Raises:
            InputError: it is stated by channel, and a case has one.
        """
        if self.intensity is None:
            return None
        if not isinstance(self.intensity, dict) or not _is_by_channel(self.intensity):
            return Intensity.from_dict(self.intensity)
        if not self.channel_names:
            raise InputError(
                f"data.intensity is stated for the channels {', '.join(self.intensity)}, and a case has one image: "
                "state one intensity"
            )
        return tuple(Intensity.from_dict(self.intensity[name]) for name in self.channel_names)


class EvaluationRecipe(Strict):
    """How every stage is measured on the test cases.

    >>> EvaluationRecipe(metrics=["voe_emkd", "hd95"], pooled=True).threshold
    0.5
    """

    metrics: list[str] = Field(default_factory=list)
    """Metrics per case beside Dice, IoU, precision, recall and accuracy."""
    pooled: bool = False
    """Also measure accuracy, sensitivity, F1, two-class mIoU and AUC over all pixels of the test set."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability above which a pixel is foreground, in the evaluation and in the model file."""
    missed: Literal["skip", "diagonal"] = "skip"
    """With several classes, the distances of one that only the reference holds: not measured, and counted (`skip`), or
    as the image's diagonal, which is what they are with one class. One that only the prediction holds has none."""
    calibration: bool = False
    """Measure the calibration of the probabilities, over all pixels and near boundaries."""
    robustness: bool | list[str] = False
    """Measure Dice on disturbed images, ten more passes over the test cases: of all stages (`true`), or of these."""
    margin: float | None = Field(default=None, gt=0, lt=1)
    """Loss in Dice that is acceptable for a student that is cheaper to train, stated before training: verdicts state
    whether a larger loss is excluded. Where it is not stated, 0.02 is taken and shown as the default."""

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        try:
            return METRICS.optional(names)
        except InputError as error:
            raise ValueError(str(error)) from error

    @property
    def needs_scores(self) -> bool:
        """Whether probabilities are measured, not masks alone."""
        return self.pooled or self.calibration or METRICS.need_probability(self.metrics)

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
        """What decides the results of all stages.

        >>> EvaluationRecipe(margin=0.02).facts() == EvaluationRecipe().facts()
        True
        """
        return self.model_dump(mode="json", exclude={"margin", "robustness"})


class ModelRecipe(Named):
    """A network by its registered name, or "module:callable"."""

    pretrained: str | None = None
    """File or URL with weights of the network's encoder; or `imagenet`: those that the extra `pretrained` installs."""
    sha256: str | None = None
    """SHA-256 that the pretrained weights must have."""


class MethodRecipe(WithOptions):
    """A distillation method, with its options beside its weight.

    Every method also takes `scale` (published, gradient), `ratio`, and `balance` (none, class, boundary).
    """

    method: str = ""
    """Name of the registered method; by default the name of the entry."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of its loss."""
    autoencoders: dict[str, str] = Field(default_factory=dict)
    """For feature_similarity: the stages that trained the auto-encoders of `student` and each teacher."""


class InputRecipe(Strict):
    """How a network of elsewhere wants its images, and what it gives."""

    size: int | list[int]
    """Side, or [height, width], of its images in pixels."""
    channels: int = Field(default=3, ge=1)
    """Channels of its images."""
    mean: list[float] = [0.0]
    """Subtracted from values in [0, 1]; one number, or one for each channel."""
    std: list[float] = [1.0]
    """Divides what is left; one number, or one for each channel."""
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """What makes probabilities of its output; `none` where they are that already."""


SOURCES = ("stage", "predictions", "onnx", "network", "ensemble")
"""Keys that state where a teacher comes from."""


class MemberRecipe(Strict):
    """A teacher, or a member of an ensemble: a stage of this recipe, or a network or predictions from elsewhere."""

    stage: str = ""
    """Name of a stage of this recipe; by default the name of the teacher's entry."""
    predictions: str | None = None
    """Folder with the predictions of another tool, a file or a folder for each case; relative to the recipe's file."""
    onnx: str | None = None
    """A model file of segdistill, or any ONNX file, which needs `input`."""
    network: str | None = None
    """A network as "module:callable", with `options` and `weights`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of `network`."""
    weights: str | None = None
    """Weights of `network`: safetensors, or a state dict."""
    input: InputRecipe | None = None
    """How an ONNX file that is not segdistill's wants its images."""
    foreground: list[int | str] | None = None
    """Values or names of the classes that are foreground, where predictions have several."""
    table: str | None = None
    """CSV with the columns case and file, where the names of predictions are not those of cases."""
    hard_probability: float | None = Field(default=None, gt=0.5, le=1)
    """What a hard label of predictions becomes, 0.98 by default; the background becomes 1 minus it."""
    trained_on: str = "unknown"
    """The cases that it was trained on: `all`, `none`, `unknown`, or a file with one id per line."""
    flips: bool = False
    """Average its predictions of an image and of its mirror image; of an ensemble those of all members, but those that
    state it themselves."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the teacher's losses, for the weighting `fixed`, or of a member in its ensemble."""
    out_of_fold: bool = False
    """Teach only the training cases that its stage did not train on; set by its `out_of_fold`."""

    def _problems(self) -> Iterator[str]:
        given = [name for name in SOURCES if getattr(self, name, None)]
        if len(given) > 1:
            yield f"give one of {' and '.join(given)}"
        belongs = {
            "options": "network",
            "weights": "network",
            "table": "predictions",
            "hard_probability": "predictions",
            "input": "onnx",
        }
        for key, owner in belongs.items():
            if getattr(self, key) and not getattr(self, owner):
                yield f"{key} belongs to {owner}: give that, or remove {key}"
        if self.network is not None and (":" not in self.network or self.weights is None):
            yield "network is given as module:callable, with a file of weights: a network without any knows nothing"
        if self.foreground and not (self.predictions or self.onnx):
            yield "foreground belongs to predictions or onnx: remove it"
        if self.out_of_fold and self.is_outside:
            yield "out_of_fold belongs to a stage: state in trained_on what it was trained on"
        if self.flips and self.predictions:
            yield "predictions cannot be mirrored: remove flips"

    @property
    def is_outside(self) -> bool:
        """Whether it comes from elsewhere, not from a stage."""
        return any((self.predictions, self.onnx, self.network))

    @model_validator(mode="after")
    def _is_one_source(self) -> MemberRecipe:
        for problem in self._problems():
            raise ValueError(problem)
        return self


def _stage_by_name(entries: Any) -> Any:
    if not isinstance(entries, list):
        return entries
    return [{"stage": entry} if isinstance(entry, str) else entry for entry in entries]


class TeacherRecipe(MemberRecipe):
    """A teacher of a stage."""

    labels: list[str] = Field(default_factory=list)
    """Labels of the images that it teaches with routing by_class; all by default."""
    ensemble: Annotated[list[MemberRecipe], BeforeValidator(_stage_by_name)] = Field(default_factory=list)
    """Several networks or predictions whose probabilities are averaged: names of stages, or what a teacher states."""
    weigh_by: Literal["validation"] | None = None
    """Members of an ensemble count by their Dice on the validation cases, times their `weight`: who is 0.05 behind the
    best, a third as much. Without such cases, or where a member may have learned from them, `weight` alone counts."""

    @model_validator(mode="after")
    def _weighs_members(self) -> TeacherRecipe:
        if self.weigh_by is not None and not self.ensemble:
            raise ValueError("weigh_by belongs to an ensemble: give that, or remove weigh_by")
        if self.ensemble and self.trained_on != "unknown":
            raise ValueError(
                "trained_on belongs to each member of the ensemble: write it beside the member's onnx, predictions or "
                "network"
            )
        return self

    @model_validator(mode="after")
    def _mirrors_members(self) -> TeacherRecipe:
        if self.ensemble and self.flips:
            if any(m.predictions and "flips" not in m.model_fields_set for m in self.ensemble):
                raise ValueError(
                    "predictions cannot be mirrored: remove flips, and write flips: true beside the other members"
                )
            self.ensemble[:] = [
                m if "flips" in m.model_fields_set else m.model_copy(update={"flips": True})
                for m in self.ensemble
            ]
        return self

    @property
    def members(self) -> Sequence[MemberRecipe]:
        """The members of its ensemble; itself where it is none."""
        return self.ensemble or [self]

    @property
    def stated_weights(self) -> list[float]:
        """The weight of each member of its ensemble; 1 where it is none, since its own weight is that of its losses."""
        return [member.weight for member in self.ensemble] or [1.0]

    @property
    def stages(self) -> list[str]:
        """The stages of this recipe that it consists of."""
        return [member.stage for member in self.members if member.stage]


class FoldRecipe(Strict):
    """One fold of the training cases, counted from 1; groups stay whole."""

    fold: int = Field(ge=1)
    """The fold."""
    folds: int = Field(ge=2, le=1000)
    """Number of folds."""

    @model_validator(mode="after")
    def _exists(self) -> FoldRecipe:
        if self.fold > self.folds:
            raise ValueError(f"no fold {self.fold}: they are 1 to {self.folds}")
        return self


def _without_nulls(entries: Any) -> Any:
    if not isinstance(entries, dict):
        return entries
    return {key: {} if entry is None else entry for key, entry in entries.items()}


def _with_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


_NullMeansDefaults = BeforeValidator(_without_nulls)


def _has_source(teacher: Any) -> bool:
    return any(getattr(teacher, source) for source in SOURCES)


def _filled(part: Any, **facts: Any) -> Any:
    """A copy of a part with facts that the recipe does not state."""
    copy = part.model_copy(update=facts)
    copy.model_fields_set.difference_update(facts)
    return copy


_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]{0,99}")
_TAKEN = ("combined", "weight", "weighting")
"""What columns of curves.csv and parts of the training state are called beside teachers and methods."""


class StageRecipe(Strict):
    """One network to train."""

    task: Literal["supervised", "distillation", "autoencoder", "adversarial", "joint"] = "supervised"
    """What it learns from: masks (`supervised`), masks and teachers (`distillation`), features of a network
    (`autoencoder`), masks and discriminators (`adversarial`, US-SEG), or masks and labels (`joint`)."""
    model: ModelRecipe
    """The network: {name: NAME, option: value, ...}."""
    loss: Named = Named(name="weight_balance")
    """The segmentation loss: {name: NAME, option: value, ...}."""
    labels: list[str] | None = None
    """Labels of the images that it trains and validates on, instead of data.labels."""
    fit: dict[str, Any] = Field(default_factory=dict)
    """Training settings of this stage, on top of the recipe's `fit`."""
    role: Role | None = None
    """By default `student` for a distilled stage, `teacher` for a teacher of one, `baseline` for a student's network
    without teachers, and `comparator` for any other."""
    about: str = ""
    """One line for reports."""
    teachers: Annotated[dict[str, TeacherRecipe], _NullMeansDefaults] = Field(default_factory=dict)
    """Its teachers by name; the name is that of the stage unless `stage` is given."""
    methods: Annotated[dict[str, MethodRecipe], _NullMeansDefaults] = Field(default_factory=dict)
    """Its distillation methods by name; the name is that of the method unless `method` is given."""
    hard_weight: float = Field(default=1.0, ge=0)
    """Weight of the segmentation loss beside the distillation losses."""
    routing: Literal["all", "by_class"] = "all"
    """Whether all teachers teach every image, or each the images of its `labels`."""
    finetune_teachers: bool = False
    """Train the teachers on, each on its own cases (its `labels`), by the loss against masks. Those of the last epoch
    are kept; a stage with `tuned_by` makes one of them a stage that is evaluated."""
    weighting: Annotated[Named, BeforeValidator(_with_name)] = Named(name="fixed")
    """How teachers are weighted per image: NAME, or {name: NAME, ...}."""
    combine: Literal["losses", "predictions"] = "losses"
    """Weight the losses of the teachers, or first combine their predictions into one (AMTD)."""
    targets: Literal["view", "case"] = "view"
    """Where the teachers' predictions come from: computed for every `view`, or predicted once per `case`, stored, and
    warped with every view, which costs a student nothing; for methods that read predictions only."""
    taught_cases: Literal["all", "without_mask"] = "all"
    """Training cases that the teachers teach: all of them, or those without a mask."""
    unlabelled: bool = True
    """Learn from training cases without a mask, too, from the teachers alone."""
    confidence: Literal["none", "entropy", "agreement"] = "none"
    """Weigh cases by how sure the teachers are: by the entropy of their predictions inside the foreground, or by the
    agreement (mean Dice) of the members of an ensemble; with `targets: case`."""
    sites: list[str] | None = Field(default=None, min_length=1)
    """Sites whose cases it trains and validates on; it is tested on all of them."""
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)
    """Seed of the first weights and of the views, instead of the recipe's."""
    variant: str | None = None
    """Its name without the seed; written by `seeds` and `matrix`."""
    joint: JointSettings | None = None
    """How the label of an image is learned; for the tasks joint and distillation."""
    locations: float | None = Field(default=None, ge=0, le=1)
    """Replaces data.locations for this stage."""
    starts_from: str | None = None
    """Stage whose trained weights it begins with."""
    tuned_by: str | None = None
    """Distillation stage with `finetune_teachers` whose tuned teacher this stage is: the one that `starts_from` names.
    It is not trained, but evaluated."""
    load_fex: bool = True
    """With `starts_from`: also load the encoder and the classifier; false for LA-Net's Algorithm 1."""
    deep_supervision: Literal["sum"] | None = None
    """`sum` adds the loss of every side output in full (U2-Net); for the task supervised."""
    adversarial: AdversarialSettings | None = None
    """Loss weights and discriminators; for the task adversarial."""
    cache: bool = False
    """Compute the teachers' targets of the `fit.views` views of each image once and keep them on disk."""
    cache_limit_gb: float = Field(default=20.0, gt=0)
    """Largest size of the folder of cached targets in GB."""
    out_of_fold: FoldRecipe | None = None
    """K, a number of folds: train K networks in its place, each without one fold of the training cases, so that each
    case is taught by the network that did not train on it."""
    equal_time_to: str | None = None
    """Distillation stage whose training time this supervised stage gets, as steps."""
    may_fail: bool = False
    """List a failed training, and go on with the other stages."""

    @property
    def needs(self) -> list[str]:
        """The stages that must be trained before this one."""
        start = [self.starts_from] if self.starts_from is not None else []
        tuned = [self.tuned_by] if self.tuned_by is not None else []
        return list(dict.fromkeys([*self.taught_by, *self.autoencoders, *start, *tuned]))

    @property
    def taught_by(self) -> list[str]:
        """The stages that are its teachers."""
        return list(dict.fromkeys(stage for teacher in self.teachers.values() for stage in teacher.stages))

    @property
    def is_out_of_fold(self) -> bool:
        """Whether some of its teachers teach only cases that they did not train on."""
        return any(member.out_of_fold for teacher in self.teachers.values() for member in teacher.members)

    @property
    def autoencoders(self) -> list[str]:
        """The stages of the auto-encoders through which its methods read features."""
        found = [stage for method in self.methods.values() for stage in method.autoencoders.values()]
        return list(dict.fromkeys(found))

    @property
    def adversarial_settings(self) -> AdversarialSettings:
        """How it is trained against discriminators, where its task is that."""
        return self.adversarial or AdversarialSettings()

    @property
    def joint_settings(self) -> JointSettings | None:
        """How its network learns the label of an image; None for a stage that only segments."""
        return self.joint or (JointSettings() if self.task == "joint" else None)

    def facts(self) -> dict[str, Any]:
        """What decides the stage's result, without its training settings, its seed and which cases it takes."""
        others = {"fit", "about", "role", "sites", "seed", "variant", "locations"}
        others |= {"cache_limit_gb", "out_of_fold", "equal_time_to", "may_fail"}
        others |= set() if self.tuned_by else {"tuned_by"}
        return self.model_dump(mode="json", exclude=others)

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == type(self).model_fields[name].default)

    @model_validator(mode="after")
    def _names_of_entries(self) -> StageRecipe:
        for kind, entries in (("stage", self.teachers), ("method", self.methods)):
            for name, entry in entries.items():
                if not _NAME.fullmatch(name) or name in _TAKEN:
                    raise ValueError(
                        f"{name!r} cannot name a teacher or a method: use letters, digits and _ @ . -, and none of "
                        f"{', '.join(_TAKEN)}"
                    )
                if not getattr(entry, kind) and not (kind == "stage" and _has_source(entry)):
                    entries[name] = _filled(entry, **{kind: name})  # type: ignore[assignment]
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> StageRecipe:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        yield from self._unused_keys()
        yield from self._bad_teachers()
        if self.starts_from is None and not self.load_fex:
            yield "load_fex belongs to starts_from: name the stage to start from"
        if (self.task == "autoencoder") != (self.model.name == AUTOENCODER):
            yield f"task: autoencoder and model: {{name: {AUTOENCODER}}} belong together: set both or none"
        if self.cache and self.finetune_teachers:
            yield "finetune_teachers changes the targets that cache keeps: set cache: false"
        joint = self.joint_settings
        if self.task == "adversarial" and not self._is_default("loss"):
            yield "the loss of an adversarial stage is that of US-SEG: set its weights under adversarial"
        if joint is not None and joint.location != "loss" and not self._is_default("loss"):
            yield "the loss is used with joint.location: loss only: set that, or remove the loss"

    def _unused_keys(self) -> Iterator[str]:
        """Keys that the task does not use."""
        distilled = (
            "weighting",
            "combine",
            "hard_weight",
            "routing",
            "finetune_teachers",
            "cache",
            "methods",
            "targets",
            "taught_cases",
            "unlabelled",
            "confidence",
        )
        tasks: dict[str, tuple[str, ...]] = dict.fromkeys(distilled, ("distillation",))
        tasks |= {"teachers": ("distillation", "autoencoder"), "joint": ("joint", "distillation")}
        tasks |= {"adversarial": ("adversarial",), "deep_supervision": ("supervised",)}
        tasks |= {"starts_from": ("supervised", "distillation", "adversarial", "joint")}
        for name, own in tasks.items():
            unset = not getattr(self, name) if name in ("teachers", "methods") else self._is_default(name)
            if self.task not in own and not unset:
                yield f"{name} belongs to a stage with task: {' or '.join(own)}, not {self.task}: remove it"

    def _bad_targets(self) -> Iterator[str]:
        """Teachers and keys that need targets by case, or cannot have them."""
        if self.targets == "case":
            for key in ("finetune_teachers", "cache", "autoencoders"):
                if getattr(self, key):
                    yield f"targets: case stores predictions, so {key} cannot be used: remove it, or set targets: view"
            return
        if self.confidence != "none":
            yield "confidence is read from stored predictions: set targets: case"
        for name, teacher in self.teachers.items():
            if teacher.is_outside or teacher.ensemble or teacher.flips:
                yield (
                    f"teacher '{name}' is "
                    f"{'from elsewhere' if teacher.is_outside else 'an ensemble or mirrored'}: set targets: case"
                )

    def _bad_teachers(self) -> Iterator[str]:
        if self.task == "distillation" and not (self.teachers and self.methods):
            yield "a distillation stage needs teachers and methods"
        if self.task == "autoencoder" and len(self.teachers) != 1:
            yield f"an autoencoder stage has one teacher, whose features it learns, not {len(self.teachers)}"
        networks = ["student", *self.teachers]
        for name, method in self.methods.items():
            reads = method.method == "feature_similarity"
            if not reads and method.autoencoders:
                yield f"method {name} has no auto-encoders: only feature_similarity has"
            if reads and sorted(method.autoencoders) != sorted(networks):
                wanted = ", ".join(f"{network}: STAGE" for network in dict.fromkeys(networks))
                yield (
                    f"method {name} needs autoencoders: {{{wanted}}}, the stages with task: autoencoder that trained "
                    "them"
                )
        yield from self._bad_targets()
        if "student" in self.teachers and (self.autoencoders or self.finetune_teachers):
            yield "a teacher cannot be called 'student' here: give it another name, such as {big: {stage: student}}"


_ENCODER = {"pretrained": None, "sha256": None}


class Recipe(Strict):
    """An experiment: data, stages in order, and what is reported and exported.

    The recipe and its stages name folders: `name` may have several parts (a/b).

    >>> recipe = Recipe(name="r", stages={"net": {"model": {"name": "unet"}}})
    >>> recipe.fit_settings("net").batch_size, recipe.stages["net"].role
    (8, 'comparator')
    """

    name: str
    """Name of the recipe, and of the folder of its runs."""
    about: str = ""
    """One or two sentences for lists and reports."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Seed of the first weights, the views and their order."""
    data: DataRecipe = DataRecipe()
    """Which cases, at which size."""
    fit: FitSettings = FitSettings()
    """Training settings of all stages."""
    stages: dict[str, StageRecipe] = Field(min_length=1)
    """The networks by name, each after the stages that it needs."""
    run: list[str] = Field(default_factory=list)
    """Stages that are trained where the command line names none, with their teachers; empty for all."""
    export: str | None = None
    """Stage that becomes the model file."""
    evaluation: EvaluationRecipe = EvaluationRecipe()
    """How stages are measured on the test cases."""
    external: dict[str, str] = Field(default_factory=dict)
    """Tables from elsewhere by name, {clinic: clinic.csv}: case tables or folders on which every stage is tested, too;
    never trained or selected on. Relative to the file of the recipe."""
    card: dict[str, str] = Field(default_factory=dict)
    """What only you know, for the Applied Model Card, such as {model_developer: ..., intended_use_and_workflow: ...};
    the names are those of its elements (docs/how-to/report-for-approval.md)."""
    plan: bool = False
    """Time a few steps of every network first, and tell how long the run will take."""
    strict: bool = False
    """Stop before a student that distillation is unlikely to help (exit code 5)."""
    folds: int | None = Field(default=None, ge=2, le=1000)
    """Number of folds of a cross-validation, which uses only `val` and `seed` of data.split."""
    only_folds: list[int] = Field(default_factory=list)
    """The folds of the cross-validation to run, from 1; empty for all."""
    plugins: list[str] = Field(default_factory=list)
    """Files and modules that register parts of your own; a run executes them. Files are relative to the file of the
    recipe."""

    @field_validator("card")
    @classmethod
    def _has_known_names(cls, card: dict[str, str]) -> dict[str, str]:
        for name in card:
            if name not in card_keys():
                raise ValueError(f"card: no element '{name}': {near_names(name, card_keys())}")
        return card

    @field_validator("name")
    @classmethod
    def _is_below_runs(cls, name: str) -> str:
        if any(part.strip() in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
            raise ValueError(
                f"{name!r} cannot name the folder of its runs: use words, or words with / between them"
            )
        return name

    @field_validator("stages", "external", mode="before")
    @classmethod
    def _name_folders(cls, named: object, info: ValidationInfo) -> object:
        what = "a stage" if info.field_name == "stages" else "an external table"
        for name in named if isinstance(named, dict) else ():
            if isinstance(name, str) and not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name the folder of {what}: use at most 100 letters, digits and _ @ . -, "
                    "and no dot first"
                )
        return named

    @model_validator(mode="after")
    def _is_consistent(self) -> Recipe:
        for problem in self._problems():
            raise ValueError(problem)
        students = [stage for stage in self.stages.values() if stage.task == "distillation"]
        for name, stage in self.stages.items():
            if stage.role is None:
                self.stages[name] = _filled(stage, role=_role(name, stage, students))
        return self

    def _problems(self) -> Iterator[str]:
        if self.only_folds and self.folds is None:
            yield "only_folds belongs to a recipe with folds: set their number, such as folds=5"
        for fold in self.only_folds:
            if not 1 <= fold <= (self.folds or 0):
                yield f"only_folds: no fold {fold}: with folds: {self.folds} they are 1 to {self.folds or 0}"
        wanted = [("export", self.export)] if self.export else []
        wanted += [("evaluation.robustness", name) for name in self.evaluation.disturbed]
        for where, name in wanted:
            if name not in self.stages:
                yield f"{where}: no stage '{name}': {near_names(str(name), self.stages)}"
        for name in self.run:
            if not self.named(name):
                yield f"run: no stage '{name}': {near_names(name, self.stages)}"
        for name in self.stages:
            for problem in (*self._bad_references(name), *self._bad_settings(name)):
                yield f"stages.{name}.{problem}"

    def _bad_references(self, name: str) -> Iterator[str]:
        """Other stages that a stage names, and that do not exist before it or are no use to it."""
        stage, names = self.stages[name], list(self.stages)
        before = {other: self.stages[other] for other in names[: names.index(name)]}
        networks = [other for other, part in before.items() if part.task != "autoencoder"]
        coded = [other for other, part in before.items() if part.task == "autoencoder"]
        for member in (member for teacher in stage.teachers.values() for member in teacher.members):
            own = member.stage
            if own in coded:
                yield f"teachers: '{own}' holds auto-encoders, no network"
            elif own not in before and not member.is_outside:
                later = own != name and own in self.stages
                fix = "it comes later: move it up" if later else near_names(own, networks)
                yield f"teachers: '{own}' is not defined before it: {fix}"
            elif member.out_of_fold and before[own].out_of_fold is None:
                yield f"teachers: '{own}' has trained on all cases: set out_of_fold in its stage"
        for other in stage.autoencoders:
            if other not in coded:
                known = near_names(other, coded)
                yield f"methods: no stage '{other}' with task: autoencoder is defined before it: {known}"
        start, timed = stage.starts_from, stage.equal_time_to
        if start is not None and start not in networks:
            yield f"starts_from: no stage '{start}' of a network is defined before it: {near_names(start, networks)}"
        elif start is not None and _architecture(before[start]) != _architecture(stage):
            yield f"starts_from: '{start}' has another network or other options: give both the same"
        yield from self._bad_tuning(stage, before)
        distilled = [other for other, part in self.stages.items() if part.task == "distillation"]
        if timed is not None and (timed not in distilled or stage.task != "supervised"):
            yield (
                f"equal_time_to: a supervised stage takes the time of a distillation stage, not of '{timed}': "
                f"{near_names(timed, distilled)}"
            )

    def _bad_tuning(self, stage: StageRecipe, before: dict[str, StageRecipe]) -> Iterator[str]:
        """A stage that names no teacher that another one tunes."""
        if stage.tuned_by is None:
            return
        tuning = [other for other, part in before.items() if part.finetune_teachers]
        if stage.tuned_by not in tuning:
            yield (
                f"tuned_by: no stage '{stage.tuned_by}' with finetune_teachers is defined before it: "
                f"{near_names(stage.tuned_by, tuning)}"
            )
        elif stage.starts_from not in (known := before[stage.tuned_by].taught_by):
            taught = near_names(str(stage.starts_from), known)
            yield f"tuned_by: starts_from names the teacher that '{stage.tuned_by}' tunes: {taught}"

    def _bad_settings(self, name: str) -> Iterator[str]:
        try:
            views = self.fit_settings(name).views
        except ValidationError as error:
            yield f"fit.{_first_line(error, FitSettings)}"
            return
        if self.stages[name].cache and views is None:
            yield "cache: it needs a fixed number of views of each image: set fit.views, such as 10"

    def fit_settings(self, stage: str) -> FitSettings:
        """Training settings of a stage: the recipe's, with the stage's own on top."""
        return FitSettings.model_validate(merge(self.fit.model_dump(), self.stages[stage].fit))

    def variant(self, stage: str) -> str:
        """The name of a stage without its seed."""
        return self.stages[stage].variant or stage

    def seed_of(self, stage: str) -> int:
        """The seed of a stage: its own, else the recipe's."""
        own = self.stages[stage].seed
        return self.seed if own is None else own

    @property
    def classifies(self) -> bool:
        """Whether some stage learns the labels of images."""
        joint = [stage.joint_settings for stage in self.stages.values()]
        return any(settings is not None and settings.uses_class for settings in joint)

    def locations_of(self, stage: str) -> float:
        """Share of the training cases whose mask or box a stage may see."""
        own = self.stages[stage].locations
        return self.data.locations if own is None else own

    def named(self, name: str) -> list[str]:
        """The stages that a name means: one stage, or all seeds of a variant; none for an unknown name."""
        if name in self.stages:
            return [name]
        return [stage for stage, part in self.stages.items() if part.variant == name]

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
        """The wanted stages (or all seeds of a variant) and what they need, in the order of the recipe.

        Raises:
            InputError: no such stage.
        """
        needed: set[str] = set()
        pending = []
        for name in map(str.strip, wanted):
            pending += self.named(name)
            if not self.named(name):
                raise InputError(f"recipe {self.name} has no stage '{name}': {near_names(name, self.stages)}")
        while pending:
            name = pending.pop()
            if name not in needed:
                needed.add(name)
                pending += self.needs(name)
        return [name for name in self.stages if name in needed]


def _architecture(stage: StageRecipe) -> dict[str, Any]:
    return stage.model.model_dump() | _ENCODER


def _role(name: str, stage: StageRecipe, students: list[StageRecipe]) -> Role:
    if stage.task == "distillation":
        return "student"
    if any(name in student.taught_by for student in students):
        return "teacher"
    return "baseline" if any(stage.model == student.model for student in students) else "comparator"


class MatrixRecipe(Strict):
    """Students x teachers x variants; every entry is what a stage states, and null means nothing."""

    students: dict[str, dict[str, Any] | None] = Field(min_length=1)
    """The student networks by name."""
    teachers: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    """The teachers by name; each is trained once, for all seeds, but with `teachers_per_seed`."""
    teachers_per_seed: bool = False
    """Train the teachers and the recipe's own stages once per seed, too: student k learns from teacher k, so that the
    luck of one teacher is not taken for that of a method."""
    variants: dict[str, dict[str, Any] | None] = Field(min_length=1)
    """The ways of training a student by name; one without methods is trained without teachers."""


class RecipeFile(Recipe):
    """The keys of a recipe's file: those of `Recipe`, and those that are written out as stages before it is checked."""

    base: str | None = None
    """Name or file of the recipe that this one changes."""
    seeds: list[int] = Field(default_factory=list)
    """Train every stage once per seed; stages are then called NAME@SEED."""
    matrix: MatrixRecipe | None = None
    """Compare ways of training students."""
    effort: Effort | None = None
    """Choose the stages from the data: quick, normal or patient (config/effort.py). auto: quick where some images have
    no mask or a teacher comes from elsewhere, and else the stages that the recipe writes out."""
    outside: dict[str, Any] | None = None
    """With `effort`: a teacher from elsewhere that joins the ensemble, as an entry of `teachers` states it."""


_MAPS = {
    "stages": "name",
    "students": "name",
    "variants": "name",
    "teachers": "stage",
    "methods": "method",
    "external": "name",
}
"""Maps by free name: key -> what names the part in each of their entries."""


def merge(
    base: dict[str, Any], changes: dict[str, Any], kind: str = "name", removes: bool = False
) -> dict[str, Any]:
    """`base` with `changes` on top; dictionaries merge key by key, all else is replaced.

    A dictionary that names another part replaces the old one, whose options would not fit it. In a map by free name
    (stages, teachers, methods, external, and the axes of a matrix) null removes an entry.

    Args:
        base: what is changed; it stays as it is.
        changes: what is put on top.
        kind: the key that names the part in each value.
        removes: whether null removes a key.

    >>> merge({"fit": {"epochs": 1, "lr": 2}}, {"fit": {"epochs": 3}})
    {'fit': {'epochs': 3, 'lr': 2}}
    >>> merge({"methods": {"fitnet": {}, "skd": {}}}, {"methods": {"skd": None, "cwd": None}})
    {'methods': {'fitnet': {}, 'cwd': None}}
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if value is None and removes and key in merged:
            del merged[key]
        elif (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get(kind, old.get(kind)) == old.get(kind)
        ):
            merged[key] = merge(old, value, _MAPS.get(key, "name"), key in _MAPS)
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


def parse_data(content: object, source: str) -> DataRecipe:
    """The checked part on data of a recipe.

    Raises:
        InputError: as `parse_recipe`.

    >>> parse_data({"size": 64}, "r.yaml").height_width
    (64, 64)
    """
    try:
        return DataRecipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: data.{_first_line(error, DataRecipe)}") from error


def parse_matrix(content: object) -> MatrixRecipe:
    """The checked matrix of a recipe.

    Raises:
        InputError: as `parse_recipe`.

    >>> parse_matrix({"students": {"unet": {}}, "variants": {"baseline": None}}).teachers
    {}
    """
    try:
        return MatrixRecipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"matrix: {_first_line(error, MatrixRecipe)}") from error


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
        known = _fields_at(first["loc"][:-1], top)
        message = "unknown key" + (f": {near_names(str(first['loc'][-1]), known)}" if known else "")
    elif first["type"] not in ("value_error", "missing", "too_short"):
        message += f", not {first['input']!r}{_how_to_write(first['type'], first['input'])}"
    more = len(errors) - 1
    return (f"{place}: " if place else "") + message + (f" (and {more} more)" if more else "")


def _how_to_write(kind: str, value: object) -> str:
    """How to write a text or a list that YAML has taken for something else; "" where that is not the fault."""
    if kind not in ("string_type", "list_type") or isinstance(value, dict | list):
        return ""
    text = {"True": "yes", "False": "no", "None": "null"}.get(str(value), str(value))
    return f": write it in quotes, '{text}'" if kind == "string_type" else f": write a list, ['{text}']"


def _fields_at(place: tuple[int | str, ...], top: type[BaseModel]) -> list[str]:
    """The known keys at a place of the recipe, for the message about an unknown one."""
    kind: Any = top
    for key in place:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(key)].annotation if key in kind.model_fields else None
        else:
            kind = next(reversed(get_args(kind)), None)  # of a dictionary's values
        models = [part for part in get_args(kind) if isinstance(part, type) and issubclass(part, BaseModel)]
        kind = models[0] if models and type(None) in get_args(kind) else kind
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
