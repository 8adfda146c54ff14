"""Trained networks brought together: seeds of one method, its baselines, and the comparison of all methods."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.metrics.cases import EXTRA_METRICS, LARGER_IS_BETTER, CaseResult
from segdistill.metrics.surfaces import DISTANCES
from segdistill.registry import near_names
from segdistill.stats.verdict import Comparison, compare_scores, correct

SMALLER_IS_BETTER = frozenset(EXTRA_METRICS) - LARGER_IS_BETTER


@dataclass(frozen=True)
class Training:
    """One trained network and its results on the test cases.

    Attributes:
        cell: what it is but for its seed, e.g. "student" of the stage "student@1".
        results: per case; seed: of the training, None where not known.
        role: "student", "baseline", "teacher", or "" where not known.
        network: the same text for networks of one architecture; settings: the same text for trainings that differ by
            nothing but their seed; "" where not known.
        stage: the name with which it was trained, such as "student@1".
        run: name of the run; source: where it lies, for messages.
        steps: of the optimiser; seconds: of training; equal_time_to: cell of the method whose time it was given.
    """

    cell: str
    results: Sequence[CaseResult]
    seed: int | None = None
    role: str = ""
    network: str = ""
    settings: str = ""
    stage: str = ""
    run: str = ""
    source: str = ""
    steps: int | None = None
    seconds: float | None = None
    equal_time_to: str = ""


@dataclass(frozen=True)
class Variant:
    """Trainings of one method, one per seed."""

    name: str
    trainings: tuple[Training, ...]

    @property
    def first(self) -> Training:
        """The one that speaks for what all have in common."""
        return self.trainings[0]

    @property
    def seconds(self) -> float | None:
        """Mean training time; None where not known."""
        known = [t.seconds for t in self.trainings if t.seconds is not None]
        return float(np.mean(known)) if known else None

    def scores(self, metric: str) -> dict[int | None, NDArray[np.float64]]:
        """Scores (N,) of the cases with something to find, in the order of their ids, by seed."""
        return {t.seed: np.array([r.metrics[metric] for r in lesions(t)]) for t in self.trainings}

    def averaged(self, metric: str) -> dict[str, float]:
        """Case -> its score, averaged over seeds."""
        mean = np.mean(list(self.scores(metric).values()), axis=0)
        return {r.case: float(value) for r, value in zip(lesions(self.first), mean, strict=True)}


def split_name(stage: str) -> tuple[str, int | None]:
    """The cell and the seed of a stage's name.

    >>> split_name("student@1"), split_name("student")
    (('student', 1), ('student', None))
    """
    found = re.fullmatch(r"(.+)@(\d+)", stage)
    return (found[1], int(found[2])) if found else (stage, None)


def lesions(training: Training) -> list[CaseResult]:
    """The cases with something to find, by id."""
    return sorted((r for r in training.results if not r.normal), key=lambda r: r.case)


def group_variants(trainings: Iterable[Training]) -> tuple[list[Variant], list[str]]:
    """Trainings that differ by their seed alone become one method, named by its cell, and its run where needed.

    Returns:
        Methods in order of appearance, and notes on what was left out, since it is there twice.

    Raises:
        InputError: what is there twice was tested on different cases: these are two experiments.

    >>> one, two = (Training("student", (), seed, settings="s") for seed in (0, 1))
    >>> [(m.name, len(m.trainings)) for m in group_variants([one, two])[0]]
    [('student', 2)]
    """
    cells: dict[tuple[str, str], dict[int | None, Training]] = {}
    notes = []
    for training in trainings:
        seeds = cells.setdefault((training.cell, training.settings or training.source), {})
        if training.seed in seeds:
            other = seeds[training.seed]
            if other.source != training.source:
                require_same_cases((other, training))
                notes.append(f"{training.source} has the settings and the seed of {other.source}: left out")
            continue
        seeds[training.seed] = training
    groups = [tuple(seeds[key] for key in sorted(seeds, key=str)) for seeds in cells.values()]
    names = [group[0].cell for group in groups]
    for named in (lambda t: f"{t.run}:{t.cell}", lambda t: t.source):
        names = [
            named(group[0]) if names.count(name) > 1 else name
            for name, group in zip(list(names), groups, strict=True)
        ]
    return [Variant(name, group) for name, group in zip(names, groups, strict=True)], notes


def own_baselines(method: Variant, others: Iterable[Variant]) -> list[Variant]:
    """The baselines that are the method's network without distillation; those of its own runs where there are some."""
    same = [
        other
        for other in others
        if other.first.role == "baseline"
        and method.first.network
        and other.first.network == method.first.network
        and other is not method
    ]
    runs = {t.run for t in method.trainings}
    return [other for other in same if runs & {t.run for t in other.trainings}] or same


def kind_of(method: Variant, baseline: Variant) -> str:
    """What a baseline gives the method a fair chance in: "equal steps", "equal time", "more time", or "" for neither.

    Equal time is what was measured for this method, or took as long within a tenth.

    >>> kd = Variant("kd", (Training("kd", (), steps=100, seconds=60.0),))
    >>> longer = Variant("longer", (Training("longer", (), steps=130, seconds=61.0),))
    >>> kind_of(kd, kd), kind_of(kd, longer)
    ('equal steps', 'equal time')
    """
    if baseline.first.equal_time_to and baseline.first.equal_time_to == method.first.cell:
        return "equal time"
    steps = method.first.steps, baseline.first.steps
    if None not in steps and steps[0] == steps[1] and not baseline.first.equal_time_to:
        return "equal steps"
    mine, theirs = method.seconds, baseline.seconds
    if not mine or not theirs or theirs < 0.9 * mine:
        return ""
    return "equal time" if theirs <= 1.1 * mine else "more time"


def require_same_cases(trainings: Sequence[Training]) -> None:
    """Refuses results that cannot be paired.

    Raises:
        InputError: other cases (says how many are on one side only), or other references under the same names.
    """
    first = trainings[0]
    mine = {r.case: r for r in lesions(first)}
    for other in trainings[1:]:
        theirs = {r.case: r for r in lesions(other)}
        if odd := mine.keys() ^ theirs.keys():
            here, there = len(mine.keys() - theirs.keys()), len(theirs.keys() - mine.keys())
            raise InputError(
                f"{first.source} and {other.source} were tested on different cases: {here} only in the first, {there} "
                f"only in the second (such as {min(odd)!r}): evaluate both on the same cases"
            )
        for case, result in mine.items():
            if abs(result.reference_area - theirs[case].reference_area) > 1e-9:
                raise InputError(
                    f"case {case!r} has another reference in {first.source} than in {other.source}: "
                    "these are different test cases under the same names"
                )


def check_metric(trainings: Sequence[Training], metric: str) -> None:
    """Refuses a metric that was not measured everywhere, or not in one unit.

    Raises:
        InputError: with the metrics that there are.
    """
    for training in trainings:
        rows = lesions(training)
        if not rows:
            raise InputError(f"{training.source} has no test case with something to find: nothing to compare")
        if lacking := [r for r in rows if metric not in r.metrics]:
            shared = [m for m in rows[0].metrics if all(m in r.metrics for r in rows)]
            raise InputError(
                f"{training.source} has no metric '{metric}' (case {lacking[0].case!r}): {near_names(metric, shared)}"
            )
    units = {r.unit for training in trainings for r in lesions(training)}
    if metric in DISTANCES and len(units) > 1:
        raise InputError(
            f"{metric} is in {' and '.join(sorted(units))}: distances of one unit alone can be compared"
        )


def require_seeds(methods: Sequence[Variant]) -> None:
    """Where one method was trained with several seeds, every one needs at least two.

    Raises:
        InputError: names the method that lacks them.
    """
    several = [m for m in methods if len(m.trainings) > 1]
    for method in methods:
        asked = any(t.stage not in ("", t.cell) for t in method.trainings)
        if len(method.trainings) < 2 and (several or asked):
            than = f" and '{several[0].name}' has {len(several[0].trainings)}" if several else ""
            raise InputError(
                f"'{method.name}' has one seed{than}: a comparison over seeds needs at least two of each: train it "
                "with others (matrix.seeds, or --set seed=1 --out ANOTHER), or choose other methods with --stages"
            )


def family_of(comparison: Comparison) -> tuple[bool, bool]:
    """What is corrected together: comparisons with the same network, or another one; at equal steps, or not."""
    return comparison.same_student, comparison.kind == "equal steps"


def compare_methods(
    pairs: Sequence[tuple[Variant, Variant]],
    metric: str = "dice",
    margin: float | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Compares (method, baseline) pairs on the same cases, with Holm's correction for each kind of baseline.

    Raises:
        InputError: different test cases, or a metric that was not measured.

    >>> compare_methods([])
    []
    """
    trainings = list({id(t): t for pair in pairs for method in pair for t in method.trainings}.values())
    if not trainings:
        return []
    check_metric(trainings, metric)
    require_same_cases(trainings)
    groups = [r.group for r in lesions(trainings[0])]
    found = []
    for method, baseline in pairs:
        facts: dict[str, Any] = {
            "method": method.name,
            "baseline": baseline.name,
            "metric": metric,
            "smaller_is_better": metric in SMALLER_IS_BETTER,
            "margin": margin,
            "kind": kind_of(method, baseline),
            "same_student": baseline in own_baselines(method, [baseline]),
        }
        found.append(
            compare_scores(method.scores(metric), baseline.scores(metric), groups, seed=seed, **facts)
        )
    families: dict[tuple[bool, bool], list[int]] = {}
    for k, comparison in enumerate(found):
        families.setdefault(family_of(comparison), []).append(k)
    for members in families.values():
        for k, corrected in zip(members, correct([found[k] for k in members]), strict=True):
            found[k] = corrected
    return found
