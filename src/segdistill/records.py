"""What a run writes down: dataclasses, each with one versioned JSON form in one file.

    RunRecord         RUN/run.json                       what was run, on which data, with which stages
    FilesRecord       RUN/files.json                     the files that it was trained on, each with its hash
    StageRecord       RUN/stages/NAME/stage.json         one trained network, enough to use its weights
    GuardRecord       RUN/stages/NAME/guard.json         whether distillation was expected to help
    EvaluationRecord  RUN/stages/NAME/evaluation.json    what was measured; also written by `segdistill evaluate -o`,
                      RUN/stages/NAME/external/TABLE/    and of tables from elsewhere
    ShrinkRecord      FOLDER/shrink.json                 how small a network can be, of `segdistill shrink`

`Record.read(folder)` and `record.write(folder)` use the file of this name. A record is never changed in place: use
`dataclasses.replace`. Whoever adds, renames or removes a field raises `VERSION` of its class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from segdistill.errors import InputError
from segdistill.files import json_text, write_text

Role = Literal["teacher", "student", "baseline", "comparator"]
"""teacher; student (distilled); baseline (the same student without teachers); comparator (any other network)."""

_VERSION = "schema_version"
_NAMED = 3  # files in a message


class DamagedRecord(InputError):
    """A file that is no record of this version, and no newer one."""


class Record:
    """Base of the records: a dataclass that is one JSON file."""

    FILE: ClassVar[str]
    VERSION: ClassVar[int] = 1
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def to_dict(self) -> dict[str, Any]:
        """The JSON form as plain types, its version first."""
        return {_VERSION: self.VERSION, **asdict(self)}  # type: ignore[call-overload]

    def to_json(self) -> str:
        """The JSON form as text."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> Self:
        """Reads what `to_json` gave.

        Args:
            text: the content of a file.
            source: its name, for messages.

        Raises:
            InputError: damaged JSON, a newer version, an unknown or missing field, or a value of another type.

        >>> RunRecord.from_json(RunRecord(recipe="demo").to_json(), "run.json").recipe
        'demo'
        >>> RunRecord.from_json('{"schema_version": 1}', "run.json")
        Traceback (most recent call last):
        segdistill.records.DamagedRecord: run.json: recipe: Field required: delete the file and write it again
        """
        from pydantic import ValidationError

        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DamagedRecord(f"{source} is damaged ({error}): delete it and write it again") from error
        version = content.pop(_VERSION, None) if isinstance(content, dict) else None
        if type(version) is not int:
            raise DamagedRecord(f"{source} has no {_VERSION}: it is not a {cls.FILE} that segdistill wrote")
        if version > cls.VERSION:
            raise InputError(
                f"{source} has schema version {version}, and this segdistill reads up to {cls.VERSION}: "
                "update segdistill"
            )
        try:
            record: Self = _adapter(cls).validate_json(json.dumps(content), strict=True)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DamagedRecord(
                f"{source}: {place}: {first['msg']}: delete the file and write it again"
            ) from error
        return record

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in a folder; None where there is no such file.

        Raises:
            InputError: the file cannot be read, or as `from_json`.

        >>> RunRecord.read(Path("nowhere")) is None
        True
        """
        path = folder / cls.FILE
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise DamagedRecord(
                f"{path} is damaged ({error.reason}): delete it and write it again"
            ) from error
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        return cls.from_json(text, path)

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """As `read`, and None also for a damaged file: for those who write the record again.

        Raises:
            InputError: the file cannot be read, or is of a newer version.

        >>> RunRecord.find(Path("nowhere")) is None
        True
        """
        try:
            return cls.read(folder)
        except DamagedRecord:
            return None

    def write(self, folder: Path) -> None:
        """Writes the file into a folder, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        write_text(folder / self.FILE, self.to_json() + "\n")


@cache
def _adapter(record: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(record)


@dataclass(frozen=True)
class Interval:
    """A mean over n cases with its 95 % interval.

    Attributes:
        mean: None with no case.
        low, high: None where fewer than two groups were seen.
        n: number of cases.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int


Scores = dict[str, Interval]
"""Metric -> its mean. A distance's key ends in its unit ("hd95_mm"): `metrics.base.Column` has name, unit and label."""


Outlook = Literal["likely", "unlikely", "unknown"]


@dataclass(frozen=True)
class GuardRecord(Record):
    """Whether distillation was expected to help, told before the student was trained.

    Attributes:
        outlook: likely, unlikely or unknown.
        reasons: why.
        helps: what would make it more likely.
        difference: Dice of the teachers minus that of the baseline on validation cases; None where it was not measured.
        without_mask: share of the training images without a mask.
        teachers: number of networks to learn from.
        same_masks: whether all of them were trained on nothing but the masks of the student.

    >>> GuardRecord("unknown", ["no validation cases"]).sentence
    'whether distillation will help is unknown: no validation cases'
    """

    FILE: ClassVar[str] = "guard.json"

    outlook: Outlook
    reasons: list[str] = field(default_factory=list)
    helps: list[str] = field(default_factory=list)
    difference: Interval | None = None
    without_mask: float = 0.0
    teachers: int = 1
    same_masks: bool = False

    @property
    def sentence(self) -> str:
        """The outlook with its reasons, in one line."""
        told = {
            "likely": "distillation is likely to help",
            "unlikely": "distillation is unlikely to help",
            "unknown": "whether distillation will help is unknown",
        }[self.outlook]
        more = f"; what would help: {'; '.join(self.helps)}" if self.helps else ""
        return f"{told}: {'; '.join(self.reasons)}{more}"


@dataclass(frozen=True)
class StructureScores:
    """One class of the masks over the cases of an evaluation.

    Attributes:
        scores: the means of its metrics, each over the cases that have it (`n`).
        there: cases whose reference holds it.
        missed: of these, those in which nothing of it was predicted.
        false: cases whose reference does not hold it, but the prediction does.
    """

    scores: Scores = field(default_factory=dict)
    there: int = 0
    missed: int = 0
    false: int = 0


@dataclass(frozen=True)
class Summary:
    """Means over the cases of one evaluation.

    Attributes:
        all: of the cases with something to find.
        classes: the same for each label of these cases.
        sites: the same for each site, where there are several; else empty.
        normal: "false_positive_rate" and "area" of the images with nothing to find; empty where there are none.
        structures: where masks have several classes, the scores of each over the cases that have them, and in how many
            cases the class is there, was missed altogether, and was found where it is not.
    """

    all: Scores = field(default_factory=dict)
    classes: dict[str, Scores] = field(default_factory=dict)
    sites: dict[str, Scores] = field(default_factory=dict)
    normal: Scores = field(default_factory=dict)
    structures: dict[str, StructureScores] = field(default_factory=dict)

    def groups(self) -> dict[str, Scores]:
        """Name -> scores, of all cases ("all") and of each class.

        >>> list(Summary({}, {"benign": {}}).groups())
        ['all', 'benign']
        """
        return {"all": self.all, **self.classes}

    def named(self) -> dict[str, Scores]:
        """As `groups`, with each site as "site NAME".

        >>> list(Summary({}, sites={"UCL": {}}).named())
        ['all', 'site UCL']
        """
        return self.groups() | {f"site {name}": scores for name, scores in self.sites.items()}


@dataclass(frozen=True)
class Cost:
    """What a network costs; None or "": not measured.

    Attributes:
        parameters: number of learnable values.
        macs: multiply-accumulates of one image of size `input` ("3x512x512": channels, height, width).
        size_mb: in MiB, of what `size_of` names.
        ms: milliseconds per image, measured on `machine` by `engine`.
    """

    parameters: int | None = None
    macs: int | None = None
    size_mb: float | None = None
    size_of: str = "weights as float32"
    input: str = ""
    ms: float | None = None
    machine: str = ""
    engine: str = ""


@dataclass(frozen=True)
class Weights:
    """Which weights of a training were kept.

    Attributes:
        choice: "last": those after the last epoch; "best": those of the epoch with the highest validation score.
        epoch: the epoch that they are of, counted from 1.
        epochs: how many epochs were trained.
        by: the columns of curves.csv whose mean is the validation score, such as "val_dice"; empty for "last".
        score: that mean in the epoch; None for "last".
    """

    choice: Literal["last", "best"]
    epoch: int
    epochs: int
    by: list[str] = field(default_factory=list)
    score: float | None = None

    def __str__(self) -> str:
        """As reports show it.

        >>> str(Weights("best", 7, 40, ["val_dice"], 0.81)), str(Weights("last", 40, 40))
        ('best epoch 7 by validation Dice', 'last epoch')
        """
        if self.choice == "last":
            return "last epoch"
        names = [name.removeprefix("val_") for name in self.by]
        shown = " and ".join("Dice" if name == "dice" else name.replace("_", " ") for name in names)
        return f"best epoch {self.epoch} by validation {shown}"


@dataclass(frozen=True)
class Disturbance:
    """Dice on images that were changed in one way.

    Attributes:
        kind: "gamma", "speckle" or "blur"; strength: as in metrics/robustness.py.
        score: under the disturbance.
        difference: to the unchanged images, paired by case.
    """

    kind: str
    strength: float
    score: Interval
    difference: Interval


@dataclass(frozen=True)
class Classification:
    """How well a network classifies whole images.

    Attributes:
        scores: accuracy, precision, recall, f1, auc (means over classes), and where they were measured the
            overlaps of the network's map and boxes with the reference, and the share of Grad-CAM inside it.
        classes: names, in the order of the network's outputs.
        confusion: number of images; rows are the true classes, columns the predicted ones.
        calibration_error: expected calibration error; None without images.
    """

    scores: Scores
    classes: list[str]
    confusion: list[list[int]]
    calibration_error: float | None = None


@dataclass(frozen=True)
class TableRecord:
    """A table from elsewhere on which every stage was tested.

    Attributes:
        hash: of its content (`data.case.table_hash`).
        cases: number of its rows; without_reference: of those that were not measured.
        copies: one line for each picture that is a copy of one that networks were trained or validated on.
        verdicts: on it, as those of a run.
    """

    hash: str
    cases: int
    without_reference: int = 0
    copies: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """run.json: what was run, and what came of it.

    Attributes:
        recipe: its name. seed: of the recipe.
        export: the stage that becomes the model file; None for none.
        settings: what the recipe itself sets, with its bases and the changes of the command line, without defaults.
        data: name of the dataset. data_hash: of the case table (`data.case.table_hash`).
        split: how the cases were split, in a line.
        leaks, near_duplicates: one line each.
        stages: those that are evaluated, in the order of the report; empty until then.
        failed: stage -> why its training failed.
        verdicts: what the report found (`stats.verdict.Verdict.to_dict`), so that nobody computes it twice.
        external: name -> table from elsewhere on which the stages were tested, too.
    """

    FILE: ClassVar[str] = "run.json"

    recipe: str
    seed: int = 0
    export: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    data_hash: str = ""
    split: str = ""
    leaks: list[str] = field(default_factory=list)
    near_duplicates: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    external: dict[str, TableRecord] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FilesRecord(Record):
    """files.json: the content of the data of a run when it began.

    Attributes:
        files: absolute path -> SHA-256 (`data.case.file_hash`).
    """

    FILE: ClassVar[str] = "files.json"

    files: dict[str, str] = field(default_factory=dict)

    def changed(self, files: Mapping[str, str]) -> list[str]:
        """Those of `files` that are known here with another hash.

        >>> FilesRecord(files={"/a.png": "1", "/b.png": "2"}).changed({"/b.png": "3", "/c.png": "4"})
        ['/b.png']
        """
        return [path for path, value in files.items() if self.files.get(path, value) != value]

    def changes(self, files: Mapping[str, str]) -> str:
        """The same in one line; "" where none has changed.

        >>> FilesRecord(files={"/a.png": "1"}).changes({"/a.png": "2"})
        'files of the data that have changed since this run began: 1: /a.png'
        """
        if not (changed := self.changed(files)):
            return ""
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        shown = ", ".join(changed[:_NAMED]) + more
        return f"files of the data that have changed since this run began: {len(changed)}: {shown}"


@dataclass(frozen=True, kw_only=True)
class StageRecord(Record):
    """stage.json: one trained network, enough to use its weights without the recipe.

    It is written before training, and again when the weights are final: only then do `weights_sha256`, `weights`,
    `parameters`, `epochs`, `steps` and `seconds` have a value.

    Attributes:
        name: of the stage, and of its folder.
        variant: shared by the trainings that differ by their seed only, such as "student" of "student@1".
        seed: of the training.
        role: teacher, student, baseline or comparator. about: a line of the recipe.
        task: supervised, distillation, adversarial, joint or autoencoder.
        network: what the recipe names: "name" of the architecture, and its options.
        classes: of a mask, the background first. labels: classes of whole images; empty: it does not classify.
        preprocess, postprocess: as from `to_dict` of imaging's classes.
        teachers: names of the stages that taught it.
        equal_time_to: the variant whose training time it was given; "" for none.
        fingerprint: hash of all that decides the weights.
        train_cases, val_cases: number of cases.
        score: the columns of curves.csv whose mean is the validation score.
        weights_sha256: of weights.safetensors; "" while the training is not finished.
        weights: which weights were kept.
        parameters: number of learnable values.
        epochs, steps: that were trained (steps: of the optimiser). seconds: of training.
    """

    FILE: ClassVar[str] = "stage.json"

    name: str
    variant: str
    seed: int
    role: Role
    task: str
    network: dict[str, Any]
    classes: list[str]
    preprocess: dict[str, Any]
    postprocess: dict[str, Any]
    fingerprint: str
    about: str = ""
    labels: list[str] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    equal_time_to: str = ""
    train_cases: int = 0
    val_cases: int = 0
    score: list[str] = field(default_factory=lambda: ["val_dice"])
    weights_sha256: str = ""
    weights: Weights | None = None
    parameters: int | None = None
    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its weights are final."""
        return bool(self.weights_sha256)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Record):
    """evaluation.json: what was measured of one network on one set of cases, in a run and by `segdistill evaluate`.

    Attributes:
        model: name of the stage, or of the model file.
        variant, seed: of the stage; "" and None where that is not known.
        weights: which weights of its training were judged; None where that is not known.
        inputs: hash of what decides the results (weights, cases, measures); "" outside of a run.
        split: of the cases: train, val, test or all.
        cases: number of cases that were measured.
        skipped: cases without a reference.
        failed: case -> why it could not be measured.
        summary: means with intervals.
        pooled: name -> value over all pixels of the set (`metrics.pooled.Pool`); empty: not measured.
        calibration: from `metrics.calibration.Calibration.metrics`; empty: not measured.
        robustness: one per disturbance; empty: not measured.
        classification: of whole images; None: it does not classify.
        cost: of the network.
    """

    FILE: ClassVar[str] = "evaluation.json"

    model: str
    variant: str = ""
    seed: int | None = None
    weights: Weights | None = None
    inputs: str = ""
    split: str = "test"
    cases: int = 0
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    summary: Summary = field(default_factory=Summary)
    pooled: dict[str, float | None] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    robustness: list[Disturbance] = field(default_factory=list)
    classification: Classification | None = None
    cost: Cost = field(default_factory=Cost)

    def score(self, metric: str, group: str = "all") -> Interval | None:
        """The mean of a metric, as tables of papers name it: "dice", "pooled.miou" or "classification.auc".

        Args:
            metric: a key of the summary, or a part of the record and a key in it with a dot between.
            group: "all", a class or "site NAME"; it is for the summary only.

        Returns:
            None where it was not measured; a pooled value has no interval.

        >>> EvaluationRecord(model="net", pooled={"miou": 0.7}, cases=9).score("pooled.miou")
        Interval(mean=0.7, low=None, high=None, n=9)
        """
        part, _, name = metric.rpartition(".")
        if part == "pooled":
            value = self.pooled.get(name)
            return None if value is None else Interval(value, None, None, self.cases)
        if part == "classification":
            return self.classification.scores.get(name) if self.classification else None
        return self.summary.named().get(group, {}).get(metric)


@dataclass(frozen=True)
class Rung:
    """One network of a ladder.

    Attributes:
        name: of the rung, and of its stage without a teacher.
        model: what `model` of a stage states: "name" of the network, and its options.
        parameters: number of learnable values.
        ms: milliseconds of one image, or volume, in ONNX Runtime with one thread.
        mb: MiB of the model file.
        excluded: why it is no candidate; "" where it is one.
        distilled, plain: Dice with and without a teacher, of every case by networks that were not trained on it.
        verdict, plain_verdict: against the reference (`stats.verdict.Verdict.to_dict`); None until it is measured.
        passing_margin: the smallest margin by which the distilled network would be "not worse"; None: not known.
        exploratory: whether the fixed sequence had ended before this rung, so that its verdict is no claim.
    """

    name: str
    model: dict[str, Any]
    parameters: int
    ms: float
    mb: float
    excluded: str = ""
    distilled: Interval | None = None
    plain: Interval | None = None
    verdict: dict[str, Any] | None = None
    plain_verdict: dict[str, Any] | None = None
    passing_margin: float | None = None
    exploratory: bool = False

    @property
    def outcome(self) -> str:
        """Against the reference: not worse, worse or undecided; "" until it is known.

        >>> Rung("tiny", {"name": "lite_unet"}, 20_658, 1.1, 0.1).outcome
        ''
        """
        return str(self.verdict["non_inferiority"]) if self.verdict else ""

    @property
    def plain_outcome(self) -> str:
        """The same without a teacher."""
        return str(self.plain_verdict["non_inferiority"]) if self.plain_verdict else ""


@dataclass(frozen=True, kw_only=True)
class ShrinkRecord(Record):
    """shrink.json: a ladder of networks from large to small, and the smallest that is not worse than the reference.

    It is written when the networks are measured, before training, and again when the ladder is decided and tested.

    Attributes:
        settings: hash of what decides the ladder: networks, size and channels of images.
        effort: quick, normal or patient.
        margin: the accepted loss in Dice.
        stated_margin: that of the first call, before training.
        max_ms, max_mb: the budget; None for none.
        machine: on which the milliseconds were measured.
        size: of the images, "channels x height x width"; of volumes of the patches, with their depth.
        unit: what the milliseconds are of: "image" or "volume".
        reference: the rung that all are compared with, trained without a teacher.
        teacher: what taught, in a line.
        cases, groups: with something to find, outside the test cases. folds, seeds: of the cross-validation.
        decidable: the margin that these could decide, by the spreads assumed before training; None: none.
        rungs: by milliseconds, the slowest first.
        chosen: the claimed rung; "" for none, or until it is known.
        decided: whether the ladder is decided.
        teacher_score: Dice of the teacher on these cases, at the size of training; None: not measured.
        test: Dice of the chosen rung on the test cases; None until it is tested. test_cases: their number.
        warnings: one line each.
    """

    FILE: ClassVar[str] = "shrink.json"
    VERSION: ClassVar[int] = 2

    settings: str
    effort: str
    margin: float
    stated_margin: float
    machine: str
    size: str
    reference: str
    rungs: list[Rung]
    max_ms: float | None = None
    max_mb: float | None = None
    teacher: str = ""
    cases: int = 0
    groups: int = 0
    folds: int = 0
    seeds: int = 1
    decidable: float | None = None
    chosen: str = ""
    decided: bool = False
    teacher_score: Interval | None = None
    test: Interval | None = None
    test_cases: int = 0
    warnings: list[str] = field(default_factory=list)
    unit: str = "image"

    @property
    def candidates(self) -> list[Rung]:
        """The rungs within the budget."""
        return [rung for rung in self.rungs if not rung.excluded]

    def rung(self, name: str) -> Rung:
        """A rung by its name."""
        return next(rung for rung in self.rungs if rung.name == name)

    @property
    def sentence(self) -> str:
        """What was found, for a terminal and the first line of the report."""
        if not self.decided:
            return "The ladder is not decided yet: run the same command again to continue."
        if self.chosen:
            rung, reference = self.rung(self.chosen), self.rung(self.reference)
            found = (
                f"The smallest network that is not worse than {self.reference} by {self.margin:g} Dice is {rung.name}: "
                f"{rung.ms:.2f} ms and {rung.mb:.2f} MB instead of {reference.ms:.2f} ms and {reference.mb:.2f} MB."
            )
        else:
            first = self.candidates[0]
            far = ""
            if first.passing_margin is not None:
                far = f"; it would pass with a margin of {first.passing_margin:.3f}"
            elif self.decidable is None:
                far = "; no margin can be decided with so few trainings or groups"
            found = (
                f"No network is shown to be not worse than {self.reference} by {self.margin:g} Dice: the first one, "
                f"{first.name}, is {first.outcome}{far}."
            )
            if plain := [rung.name for rung in self.candidates if rung.plain_outcome == "not worse"]:
                found += f" Without a teacher, {plain[-1]} would pass (exploratory)."
        if self.margin != self.stated_margin:
            found += (
                f" The margin was {self.stated_margin:g} before training and was changed afterwards, so this is "
                "exploratory."
            )
        return found
