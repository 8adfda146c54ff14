"""What a run hands over to its report: plain values. Whatever was not measured or recorded may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from segdistill.data.case import Case
from segdistill.metrics.cases import CaseResult
from segdistill.metrics.classification import ClassReport
from segdistill.records import Cost, Disturbance, GuardRecord, Summary, TableRecord
from segdistill.report.examples import Example

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Taught:
    """One teacher of one student, in numbers of training cases.

    Attributes:
        student, teacher: names of the stages, or of a teacher from elsewhere.
        learned: cases that the teacher was trained on; None where that is not known.
        taught: cases of the student for which it gave targets.
        overlap: those among `taught` that it was trained on; None where that is not known.
    """

    student: str
    teacher: str
    learned: int | None
    taught: int
    overlap: int | None


@dataclass(frozen=True)
class TrainingReport:
    """What a training took; None: not recorded.

    Attributes:
        cases: number of training cases.
        epochs, steps: that were trained (steps: of the optimiser); seconds: of training.
        equal_time_to: the variant whose training time it was given; "" for none.
        warnings: what went wrong on the way, one line each.
    """

    cases: int | None = None
    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    equal_time_to: str = ""
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class ExternalReport:
    """What was measured of a network on a table from elsewhere; as the fields of StageReport with these names.

    Attributes:
        hash: of the table.
    """

    hash: str
    results: Sequence[CaseResult] = ()
    summary: Summary | None = None
    pooled: Mapping[str, float | None] = field(default_factory=dict)
    classes: ClassReport | None = None


@dataclass(frozen=True)
class StageReport:
    """One trained (or evaluated) network.

    Attributes:
        name: of the stage in the recipe, e.g. "student"; names are unique in a report.
        role: as in `records.Role`.
        task: one line on what was trained, e.g. "simplified_unet, distilled from benign and malignant".
        variant: shared by trainings that differ by their seed only, e.g. "kd" of "kd@1"; "": the name.
        seed: of such a training.
        weights: which weights were judged, e.g. "last epoch"; "": not recorded.
        summary: as from stats.summary.summarise; None: computed from `results`.
        results: per case of the evaluated split; the same cases in every stage, so that they can be paired.
        curves: one dict per epoch: "epoch" (number), "loss", "val_dice", "lr"; every other number is drawn as a part of
            the loss, except names that start with "val_" and bookkeeping (step, seconds, ...: charts.py).
        cost: of the network. training: what its training took.
        examples: images to show with contours; ideally of the same cases in every stage.
        teachers: names of the stages that taught this one; (): every teacher in the report.
        taught_by: the same with teachers from elsewhere, as far as known: tells the trainings of teachers apart.
        worst_slices: of volumes, the slices that the headline stage segments worst, as this stage segments them.
        pooled: name -> value over all pixels of the set, from Pool.metrics; empty: not measured.
        environment: name -> value as text: what it was trained on; empty: not recorded.
        calibration: from Calibration.metrics; empty: not measured.
        robustness: one per disturbance; empty: not measured.
        classes: its classification of whole images; None: it does not classify.
        external: name of a table from elsewhere -> what was measured on it.
        guard: whether distillation was expected to help; None: not asked.
    """

    name: str
    role: str
    task: str = ""
    variant: str = ""
    seed: int | None = None
    weights: str = ""
    summary: Summary | None = None
    results: Sequence[CaseResult] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    cost: Cost = field(default_factory=Cost)
    training: TrainingReport = field(default_factory=TrainingReport)
    examples: Sequence[Example] = ()
    teachers: Sequence[str] = ()
    taught_by: Sequence[str] = ()
    worst_slices: Sequence[Example] = ()
    pooled: Mapping[str, float | None] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    robustness: Sequence[Disturbance] = ()
    classes: ClassReport | None = None
    external: Mapping[str, ExternalReport] = field(default_factory=dict)
    guard: GuardRecord | None = None

    def at(self, table: str) -> StageReport:
        """The same with what was measured on a table from elsewhere instead of the test cases.

        >>> StageReport("kd", "student", external={"clinic": ExternalReport("9f2")}).at("clinic").results
        ()
        """
        there = self.external[table]
        return replace(
            self,
            results=there.results,
            summary=there.summary,
            pooled=there.pooled,
            classes=there.classes,
            examples=(),
            worst_slices=(),
            calibration={},
            robustness=(),
            external={},
        )

    @property
    def cell(self) -> tuple[str, str]:
        """What it has in common with the trainings that differ from it by their seed only.

        >>> StageReport("kd@1", "student", variant="kd", seed=1).cell
        ('kd', 'student')
        """
        repeated = self.variant not in ("", self.name)
        return (self.variant, self.role) if repeated else (self.name, f"{self.role} once")


@dataclass(frozen=True)
class PlannedStage:
    """A stage of the recipe, trained or not: enough to name the command that trains what is missing.

    Attributes:
        role: as of StageReport. variant: as of StageReport.
        settings: what the recipe sets of it ("model", "loss", "labels", "sites", "fit", ...).
        equal_time_to: the stage whose training time it gets; "" for none.
        in_matrix: whether it was written by the recipe's matrix.
    """

    role: str
    variant: str
    settings: Mapping[str, Any]
    equal_time_to: str = ""
    in_matrix: bool = False


@dataclass(frozen=True)
class DataReport:
    """The cases behind the numbers.

    Attributes:
        name: of the dataset, e.g. "BUSI"; hash: of the case table (data.case.table_hash).
        counts: split -> label -> number of cases; groups: split -> number of groups. From count_cases.
        split: one line on how it was split, e.g. "hold-out 70/15/15, groups whole, stratified, seed 0".
        leaks: one line per leak between splits; [] none found, None not checked.
        near_duplicates: one line per pair or group; [] none found, None not checked.
        findings: other lines of the data check.
        skipped: ids of test cases without a reference, which were not evaluated.
        taught: which teacher taught how many cases, where teachers are out-of-fold.
        trained_on: where a model is evaluated: the table that it was trained on, in words.
        external: name -> table from elsewhere on which the networks were tested, too.
        not_trained: how many images without masks are not trained on, and the file that lists them; "": none.
    """

    name: str = ""
    hash: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    split: str = ""
    leaks: Sequence[str] | None = None
    near_duplicates: Sequence[str] | None = None
    findings: Sequence[str] = ()
    skipped: Sequence[str] = ()
    taught: Sequence[Taught] = ()
    trained_on: str = ""
    external: Mapping[str, TableRecord] = field(default_factory=dict)
    not_trained: str = ""


@dataclass(frozen=True)
class Report:
    """A whole experiment, as `context.make_context` takes it.

    Attributes:
        title: e.g. the recipe's name. description: a sentence or two on the experiment.
        stages: in the order to be shown (teachers first is customary).
        data: the cases and their split. evaluated_on: the split that `results` hold, in words; "": all cases.
        settings: what the recipe itself sets, or the metadata of the model file, as text (YAML). settings_of: which.
        planned: stage -> what the recipe plans; empty: not known.
        environment: name -> value as text: versions, machine, threads, seed, device; shown as given.
        date: as text, given by the caller (the page itself is deterministic). seed: of the bootstrap.
        limits: further limits in words, besides "research use only".
        warning: a sentence to be read before any number; "": none.
        student: name of the stage in the headline; "": the first student, else the only stage.
        margin: the loss in Dice that was stated beforehand to be acceptable; None: none was stated.
        is_tested: whether there were test cases.
        card: what the users state for the Applied Model Card (`approval.card_keys`).
    """

    title: str
    stages: Sequence[StageReport] = ()
    description: str = ""
    data: DataReport = field(default_factory=DataReport)
    evaluated_on: str = "test"
    settings: str = ""
    settings_of: Literal["recipe", "model file"] = "recipe"
    planned: Mapping[str, PlannedStage] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    seed: int = 0
    limits: Sequence[str] = ()
    warning: str = ""
    student: str = ""
    margin: float | None = None
    is_tested: bool = True
    card: Mapping[str, str] = field(default_factory=dict)

    def headline(self) -> StageReport | None:
        """The stage that the report is about, or None if there is no stage.

        >>> Report("demo", [StageReport("t", "teacher"), StageReport("s", "student")]).headline().name
        's'
        """
        named = [s for s in self.stages if s.name == self.student]
        students = [s for s in self.stages if s.role == "student"]
        segmenting = [s for s in reversed(self.stages) if s.results]  # a classifier has no Dice to show
        return next(iter([*named, *students, *segmenting, *reversed(self.stages)]), None)

    def teachers_of(self, stage: StageReport) -> list[StageReport]:
        """The stages that taught `stage`: those it names, else every teacher; none unless it is a student.

        >>> student = StageReport("s", "student", teachers=["a"])
        >>> made = Report("demo", [StageReport("a", "teacher"), StageReport("b", "teacher"), student])
        >>> [teacher.name for teacher in made.teachers_of(student)]
        ['a']
        """
        if stage.role != "student":
            return []
        if stage.teachers:
            return [s for s in self.stages if s.name in stage.teachers and s is not stage]
        return [s for s in self.stages if s.role == "teacher"]

    def cells(self) -> list[list[StageReport]]:
        """The stages, those that differ by their seed only together, in order of appearance.

        >>> names = (("kd", 0), ("at", 0), ("kd", 1))
        >>> stages = [StageReport(f"{name}@{seed}", "student", "", name, seed) for name, seed in names]
        >>> [[stage.name for stage in trainings] for trainings in Report("r", stages).cells()]
        [['kd@0', 'kd@1'], ['at@0']]
        """
        cells: dict[tuple[str, str], list[StageReport]] = {}
        for stage in self.stages:
            cells.setdefault(stage.cell, []).append(stage)
        return list(cells.values())

    def shown(self, most: int) -> list[StageReport]:
        """The headline stage first, then its own baselines, its teachers and the rest; one training of each variant.

        Args:
            most: how many at most.

        >>> Report("none").shown(4)
        []
        """
        first = self.headline()
        if first is None:
            return []
        size, taught = first.cost.parameters, self.teachers_of(first)

        def rank(stage: StageReport) -> int:
            if stage is first:
                return 0
            same_student = stage.role == "baseline" and size is not None and stage.cost.parameters == size
            return 1 if same_student else 2 if any(stage is teacher for teacher in taught) else 3

        cells: dict[tuple[str, str], StageReport] = {}
        for stage in sorted(self.stages, key=rank):
            if any(not r.normal for r in stage.results):
                cells.setdefault(stage.cell, stage)
        return list(cells.values())[:most]


def count_cases(cases: Iterable[Case]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Counts for DataReport: split -> label -> cases, and split -> groups; train, val and test first.

    >>> from pathlib import Path
    >>> count_cases([Case("a", Path("a.png"), label="benign", split="test")])
    ({'test': {'benign': 1}}, {'test': 1})
    """
    counts: dict[str, dict[str, int]] = {}
    groups: dict[str, set[str]] = {}
    for case in sorted(
        cases, key=lambda case: (_SPLITS.index(case.split) if case.split in _SPLITS else 3, case.split)
    ):
        by_label = counts.setdefault(case.split, {})
        by_label[case.label] = by_label.get(case.label, 0) + 1
        groups.setdefault(case.split, set()).add(case.group_key)
    return counts, {split: len(names) for split, names in groups.items()}
