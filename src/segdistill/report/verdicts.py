"""What a verdict on distillation needs: the stages as variants, and the commands for what is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import yaml

from segdistill.report.data import PlannedStage, Report, StageReport
from segdistill.stats.comparison import Elsewhere, Training, Variant, group_variants
from segdistill.stats.verdict import SEEDS

_SHARED = ("model", "loss", "labels", "sites", "fit")  # what a student has in common with its baseline


def is_distilled(report: Report) -> bool:
    """Whether a student of this report has teachers, so that the question arises.

    >>> is_distilled(Report("none"))
    False
    """
    return any(s.role == "student" and (s.teachers or report.teachers_of(s)) for s in report.stages)


def variants_of(stages: Sequence[StageReport]) -> list[Variant]:
    """The stages with results, here or on a table from elsewhere, trainings of one variant together.

    >>> variants_of([])
    []
    """
    tested = [stage for stage in stages if stage.results or any(e.results for e in stage.external.values())]
    return group_variants(map(_training, tested))[0]


def _training(stage: StageReport) -> Training:
    took, network = stage.training, stage.cost.parameters
    steps = took.steps or (took.epochs or 0) * (took.cases or 0)  # they are only compared
    return Training(
        stage.variant or stage.name,
        stage.results,
        None if stage.name == stage.variant else stage.seed,
        role=stage.role,
        network="" if network is None else str(network),
        settings=stage.role,
        stage=stage.name,
        source=stage.name,
        steps=steps or None,
        seconds=took.seconds,
        equal_time_to=took.equal_time_to,
        teachers=tuple(stage.taught_by or stage.teachers),
        external=tuple(Elsewhere(name, e.hash, e.results) for name, e in stage.external.items()),
    )


def next_steps(
    report: Report, student: StageReport, kinds: Collection[str], seeds: int
) -> list[tuple[str, str]]:
    """What is missing for a verdict, each with the option to run the same command again with ("" where not known).

    Args:
        report: of a distillation.
        student: the stage in question.
        kinds: of its own baselines that it was compared with.
        seeds: the number of trainings of the student, or of these baselines if they have fewer.

    >>> planned = {"s": PlannedStage("student", "s", {}), "longer": PlannedStage("baseline", "longer", {}, "s")}
    >>> report = Report("r", [StageReport("s", "student")], planned=planned)
    >>> next_steps(report, report.stages[0], {"equal steps"}, 3)
    [('The baseline at equal wall-clock was not trained', '--stages longer')]
    """
    steps = []
    if "equal steps" not in kinds:
        steps.append(
            ("The baseline at equal steps was not trained", _baseline_option(report, student, False))
        )
    if not {"equal time", "more time"} & set(kinds):
        option = _baseline_option(report, student, True)
        steps.append(("The baseline at equal wall-clock was not trained", option))
    if seeds < SEEDS:
        are = "is one" if seeds == 1 else f"are {seeds or 'none'}"
        steps.append((f"A verdict needs {SEEDS} seeds, and there {are}", _seeds_option(report, student)))
    return steps


def _baseline_option(report: Report, student: StageReport, timed: bool) -> str:
    """How to train the student without teachers, for as long as with them, or for as many steps."""
    own = report.planned.get(student.name)
    if own is None:
        return ""
    ready = [
        name
        for name, stage in _untrained(report).items()
        if _is_baseline_of(stage, own) and bool(stage.equal_time_to) == timed
    ]
    if ready:
        return f"--stages {','.join(ready)}"
    kind = "baseline_equal_time" if timed else "baseline"
    if own.in_matrix:
        return f"--set 'matrix.variants.{kind}={f'{{equal_time_to: {own.variant}}}' if timed else '{}'}'"
    is_taken = any(stage.variant == kind for stage in report.planned.values())
    name = f"{own.variant}_{kind}" if is_taken else kind
    settings = {"role": "baseline"} | {key: own.settings[key] for key in _SHARED if key in own.settings}
    settings |= {"equal_time_to": own.variant} if timed else {}
    written = yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=10_000).strip()
    return f"--set 'stages.{name}={written}' --stages {name}"


def _seeds_option(report: Report, student: StageReport) -> str:
    """How to train the student and its baselines with more seeds."""
    own = report.planned.get(student.name)
    if own is None:
        return ""
    if sum(stage.variant == own.variant for stage in report.planned.values()) < SEEDS:
        return f"--set 'seeds={list(range(SEEDS))}'"
    waiting = [
        name
        for name, stage in _untrained(report).items()
        if stage.variant == own.variant or _is_baseline_of(stage, own)
    ]
    return f"--stages {','.join(waiting)}" if waiting else ""


def _untrained(report: Report) -> Mapping[str, PlannedStage]:
    reported = {stage.name for stage in report.stages if stage.results}
    return {name: stage for name, stage in report.planned.items() if name not in reported}


def _is_baseline_of(stage: PlannedStage, student: PlannedStage) -> bool:
    return stage.role == "baseline" and stage.settings.get("model") == student.settings.get("model")
