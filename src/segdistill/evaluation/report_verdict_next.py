"""What a distillation still lacks for a verdict, and what to type for it, as far as the recipe in the report says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml

from segdistill.evaluation.comparison import split_name
from segdistill.evaluation.report_data import Report, StageReport
from segdistill.evaluation.verdict import SEEDS

AGAIN = "run the same command again with"
_SHARED = ("model", "loss", "labels", "sites", "fit")  # what a student has in common with itself alone

Stages = Mapping[str, Mapping[str, Any]]
"""Name -> what the recipe says of a stage."""


def next_steps(report: Report, student: StageReport, kinds: Collection[str], seeds: int) -> list[str]:
    """One sentence or two for each thing that is missing; `commands` and `lines for the recipe` in backticks.

    Args:
        report: of a distillation; without a recipe in its `settings` it is only said what is missing.
        student: the stage that is asked about.
        kinds: of the baselines, its network without distillation, that it was compared with.
        seeds: the number of trainings of the student, or of these baselines if they have fewer.

    >>> recipe = "stages: {s: {role: student}, longer: {role: baseline, equal_time_to: s}}"
    >>> report = Report("r", [StageReport("s", "student")], settings=recipe)
    >>> next_steps(report, report.stages[0], {"equal steps"}, 3)[0].partition(": ")[2]
    'run the same command again with `--stages longer`.'
    """
    stages = _stages(report)
    steps = []
    if "equal steps" not in kinds:
        steps.append(
            f"The student alone at equal steps was not trained{_alone(report, student, stages, False)}."
        )
    if not {"equal time", "more time"} & set(kinds):
        steps.append(
            f"The student alone at equal wall-clock was not trained{_alone(report, student, stages, True)}."
        )
    if seeds < SEEDS:
        steps.append(
            f"A verdict needs {SEEDS} seeds, here {_are(seeds)}{_more_seeds(report, student, stages)}."
        )
    return steps


def _stages(report: Report) -> Stages:
    try:
        content = yaml.safe_load(report.settings) if report.settings_of == "recipe" else None
    except yaml.YAMLError:
        return {}
    stages = content.get("stages") if isinstance(content, dict) else None
    return stages if isinstance(stages, dict) else {}


def _are(seeds: int) -> str:
    return "is one" if seeds == 1 else f"are {seeds or 'none'}"


def _alone(report: Report, student: StageReport, stages: Stages, timed: bool) -> str:
    """How to get the student without distillation, given the time that it takes with it, or as many steps."""
    own = stages.get(student.name)
    if own is None:
        return ""
    ready = [
        name
        for name in _untrained(report, stages)
        if _is_alone(stages[name], own) and bool(stages[name].get("equal_time_to")) == timed
    ]
    if ready:
        return f": {AGAIN} `--stages {','.join(ready)}`"
    cell, _ = split_name(student.name)
    if _is_cell(own):
        name, told = ("alone_equal_time", f"{{equal_time_to: {cell}}}") if timed else ("alone", "{}")
        return f": {AGAIN} `--set 'matrix.methods.{name}={told}'`"
    name = f"{student.name}_equal_time" if timed else f"{student.name}_alone"
    stage = {"role": "baseline"} | {key: own[key] for key in _SHARED if key in own}
    stage |= {"equal_time_to": student.name} if timed else {}
    told = yaml.safe_dump({name: stage}, default_flow_style=True, sort_keys=False, width=10_000)
    return f": add this stage to the recipe, and {AGAIN} `--stages {name}`: `{told.strip().removeprefix('{')[:-1]}`"


def _more_seeds(report: Report, student: StageReport, stages: Stages) -> str:
    """How to train the student and itself alone more often."""
    own, (cell, _) = stages.get(student.name), split_name(student.name)
    if own is None:
        return ""
    if _is_cell(own):
        if len(_of_cell(stages, cell)) < SEEDS:
            return f": {AGAIN} `--set 'matrix.seeds={list(range(SEEDS))}'`"
        waiting = [
            name
            for name in _untrained(report, stages)
            if split_name(name)[0] == cell or _is_alone(stages[name], own)
        ]
        return f": {AGAIN} `--stages {','.join(waiting)}`" if waiting else ""
    others = [report.seed + k for k in range(1, SEEDS)]
    folders = [f"runs/{report.title}-{seed}" for seed in others]
    commands = " and with ".join(
        f"`--set seed={seed} --out {folder}`" for seed, folder in zip(others, folders, strict=True)
    )
    return f": run the same command with {commands}, then `segdistill compare RUN {' '.join(folders)}`"


def _untrained(report: Report, stages: Stages) -> Iterable[str]:
    reported = {stage.name for stage in report.stages if stage.results}
    return [name for name in stages if name not in reported]


def _is_alone(stage: Mapping[str, Any], student: Mapping[str, Any]) -> bool:
    return stage.get("role") == "baseline" and stage.get("model") == student.get("model")


def _is_cell(stage: Mapping[str, Any]) -> bool:
    return bool(stage.get("may_fail"))  # cells of a matrix have it


def _of_cell(stages: Stages, cell: str) -> list[str]:
    return [name for name in stages if split_name(name)[0] == cell]
