"""What a report is made of: plain values that whoever ran the experiment fills in. Anything may be left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from segdistill.data.case import Case
from segdistill.metrics.cases import CaseResult
from segdistill.report.examples import Example
from segdistill.report.html import table, text
from segdistill.stats.classification import ClassReport
from segdistill.stats.comparison import split_name
from segdistill.stats.summary import Summary


@dataclass(frozen=True)
class Taught:
    """One teacher of one student, in numbers of training cases.

    Attributes:
        student, teacher: names of the stages.
        learned: cases that the teacher was trained on.
        taught: cases of the student that it spoke of.
        overlap: those among `taught` that it was trained on.
    """

    student: str
    teacher: str
    learned: int
    taught: int
    overlap: int


def teachers_table(rows: Sequence[Taught]) -> str:
    """A row per teacher; students that it taught alike (seeds of one method, say) share it. "" without rows.

    >>> teachers_table([])
    ''
    >>> page = teachers_table([Taught("kd@0", "t-fold-1", 20, 10, 0), Taught("kd@1", "t-fold-1", 20, 10, 0)])
    >>> page.count("t-fold-1"), page.count("kd")
    (1, 1)
    """
    if not rows:
        return ""
    students: dict[tuple[str, int, int, int], dict[str, None]] = {}
    for row in rows:
        alike = (row.teacher, row.learned, row.taught, row.overlap)
        students.setdefault(alike, {})[split_name(row.student)[0]] = None
    cells = [
        [text(teacher), *(f"{count:,}" for count in counts), text(", ".join(names))]
        for (teacher, *counts), names in students.items()
    ]
    heads = ["Teacher", "Cases it learned from", "Cases it taught", "Overlap", "Students"]
    return (
        "<h3>Who taught whom</h3>"
        + table(heads, cells)
        + '<p class="soft">Overlap: cases it taught that it had learned from. Case by case: teachers.csv.</p>'
    )


Role = Literal["teacher", "student", "baseline", "comparator"]


@dataclass
class StageReport:
    """One trained (or evaluated) network.

    Attributes:
        name: of the stage in the recipe, e.g. "student"; the key by which the report speaks of it.
        role: "teacher", "student" (distilled) or "baseline" (the student without distillation, or a
            comparator).
        task: one line on what was trained, e.g. "simplified_unet, distilled from benign and malignant".
        teachers: names of the stages that taught this one; (): every teacher in the report.
        summary: as from results.summarise; empty: computed from `results`.
        results: per case on the test split; the same cases in every stage, so that they can be paired.
        curves: one dict per epoch: "epoch" (number), "loss", "val_dice", "lr"; every other number is drawn
            as a part of the loss, except names that start with "val_" and bookkeeping (step, seconds, ...;
            see figures.py).
        cost: "parameters" (int), "macs" (int, at "input", e.g. "3x512x512"), "size_mb" (of float32 weights,
            or of what "size_of" says), "ms" (measured per image), "machine" (where "ms" was measured), "engine"
            (what ran it). Missing or None: "not measured".
        training: "cases", "epochs", "steps", "seconds", "best_epoch", "stopped" (why), "troubles" (what went wrong on
            the way, in lines); any may be missing.
        examples: cases to show with contours, from examples.py; ideally the same ones in every stage.
        worst_slices: of volumes, the slices that the headline stage does worst, as this stage sees them.
        pooled: name -> value over all pixels of the set, from Pool.metrics; empty: not measured.
        environment: name -> value as text: what it was trained on; empty: not recorded.
        calibration: from Calibration.metrics; empty: not measured.
        robustness: from Disturbed.to_dict, one per disturbance; empty: not measured.
        classes: what it says of whole images; None: nothing.
    """

    name: str
    role: Role
    task: str = ""
    summary: Summary = field(default_factory=dict)
    results: Sequence[CaseResult] = ()
    curves: Sequence[Mapping[str, Any]] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    teachers: Sequence[str] = ()
    worst_slices: Sequence[Example] = ()
    pooled: Mapping[str, float | None] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    robustness: Sequence[Mapping[str, Any]] = ()
    classes: ClassReport | None = None


@dataclass
class DataReport:
    """The cases behind the numbers.

    Attributes:
        name: of the dataset, e.g. "BUSI"; hash: of the case table (data.cases.table_hash).
        counts: split -> label -> number of cases; groups: split -> number of groups. From count_cases.
        split: one line on how it was split, e.g. "hold-out 70/15/15, groups whole, stratified, seed 0".
        leaks: one line per leak between splits; [] none found, None not checked.
        near_duplicates: one line per pair or group; [] none found, None not checked.
        findings: other lines of the data check.
        skipped: ids of test cases without a reference, which were left out.
        taught: which teacher taught how many cases, where some speak only of cases that they never saw.
        trained_on: where a model is evaluated, in words: the table that it was trained on.
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


@dataclass
class Report:
    """A whole experiment, ready to be written by report.write_report and model_card.write_model_card.

    Attributes:
        title: e.g. the recipe's name. description: a sentence or two on the experiment.
        stages: in the order to be shown (teachers first is customary).
        data: the cases and their split. evaluated_on: the split that `results` hold, in words; "": all cases.
        settings: what the recipe itself sets, or the model file says of itself, as text (YAML). settings_of: which.
        environment: name -> value as text: versions, machine, threads, seed, device; shown as given.
        date: as text, given by the caller (the page itself is deterministic). seed: of the bootstrap.
        limits: further limits in words, besides "research use only".
        warning: a sentence to be read before any number; "": none.
        student: name of the stage in the headline; "" the first student, else the only stage.
        margin: the loss in Dice that was said beforehand to be acceptable; None: none was stated.
    """

    title: str
    stages: Sequence[StageReport] = ()
    description: str = ""
    data: DataReport = field(default_factory=DataReport)
    evaluated_on: str = "test"
    settings: str = ""
    settings_of: Literal["recipe", "model file"] = "recipe"
    environment: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    seed: int = 0
    limits: Sequence[str] = ()
    warning: str = ""
    student: str = ""
    margin: float | None = None

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


def count_cases(cases: Iterable[Case]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Counts for DataReport: split -> label -> cases, and split -> groups.

    >>> from pathlib import Path
    >>> count_cases([Case("a", Path("a.png"), label="benign", split="test")])
    ({'test': {'benign': 1}}, {'test': 1})
    """
    counts: dict[str, dict[str, int]] = {}
    groups: dict[str, set[str]] = {}
    for case in cases:
        by_label = counts.setdefault(case.split, {})
        by_label[case.label] = by_label.get(case.label, 0) + 1
        groups.setdefault(case.split, set()).add(case.group_key)
    return counts, {split: len(names) for split, names in groups.items()}
