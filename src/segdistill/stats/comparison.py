"""Trained networks brought together: seeds of one variant, its baselines, and the verdicts on all variants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.metrics.base import LENGTH, METRICS
from segdistill.metrics.cases import CaseResult, Column
from segdistill.registry import near_names
from segdistill.stats.folds import CaseScore, Tests, TrainingKey, compare_rows, shared_folds
from segdistill.stats.verdict import MARGIN, Kind, Verdict, compare_scores, correct


@dataclass(frozen=True)
class Elsewhere:
    """The results of one trained network on a table from elsewhere.

    Attributes:
        name: of the table. hash: of its content: tables with one hash are the same.
        results: per case.
    """

    name: str
    hash: str
    results: Sequence[CaseResult]


@dataclass(frozen=True)
class Training:
    """One trained network and its results on the test cases.

    Attributes:
        variant: what it is but for its seed, e.g. "student" of the stage "student@1".
        results: per case. seed: of the training, None where not known.
        role: as in `records.Role`, or "" where not known.
        network: equal for networks of one architecture. settings: equal for trainings that differ by their seed only.
            Both "" where not known.
        stage: the name with which it was trained, such as "student@1".
        run: name of the run. source: where it lies, for messages.
        steps: of the optimiser. seconds: of training. equal_time_to: the variant whose training time it was given.
        weights: which weights were judged, in words; "" where not recorded.
        fold: of a cross-validation, counted from 1; None: a run of its own. folds: of the cross-validation.
        teachers: names that tell the teachers' trainings apart; those that taught this one.
        external: its results on tables from elsewhere.
    """

    variant: str
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
    weights: str = ""
    fold: int | None = None
    folds: int = 1
    teachers: tuple[str, ...] = ()
    external: tuple[Elsewhere, ...] = ()

    def at(self, table: str) -> Training | None:
        """The same with its results on the table from elsewhere with this hash; None where it was not tested on it."""
        return next((replace(self, results=one.results) for one in self.external if one.hash == table), None)


@dataclass(frozen=True)
class Variant:
    """Trainings that differ by their seed only, or by their fold."""

    name: str
    trainings: tuple[Training, ...]

    @property
    def first(self) -> Training:
        """A training, for what all have in common."""
        return self.trainings[0]

    @property
    def runs(self) -> set[str]:
        """The runs of its trainings."""
        return {t.run for t in self.trainings}

    @property
    def seconds(self) -> float | None:
        """Mean training time; None where not known."""
        known = [t.seconds for t in self.trainings if t.seconds is not None]
        return float(np.mean(known)) if known else None

    @property
    def results(self) -> list[CaseResult]:
        """Of all its trainings, one after the other."""
        return [r for t in self.trainings for r in t.results]

    @property
    def keys(self) -> list[TrainingKey]:
        """Seed and fold of its trainings."""
        return [TrainingKey(t.seed, t.fold) for t in self.trainings]

    @property
    def is_crossed(self) -> bool:
        """Whether its trainings are those of a cross-validation."""
        return any(t.fold is not None for t in self.trainings)

    @property
    def has_one_teacher(self) -> bool:
        """Whether its trainings, several, have a teacher in common."""
        taught = [set(t.teachers) for t in self.trainings]
        return len(taught) > 1 and bool(set.intersection(*taught))

    @property
    def cases(self) -> list[CaseResult]:
        """The cases with something to find, by id; of a cross-validation those of all folds."""
        first = [t for t in self.trainings if t.seed == self.first.seed]
        return sorted((r for t in first for r in lesions(t)), key=lambda r: r.case)

    def at(self, table: str) -> Variant | None:
        """The same on the table from elsewhere with this hash: the trainings that were tested on it; None without one.

        >>> Variant("kd", (Training("kd", ()),)).at("no such table") is None
        True
        """
        found = [training.at(table) for training in self.trainings]
        tested = tuple(training for training in found if training is not None)
        return replace(self, trainings=tested) if tested else None

    def scores(self, metric: str) -> dict[TrainingKey, NDArray[np.float64]]:
        """Scores (n,) of the cases with something to find, in the order of their ids, by seed and fold."""
        return {
            TrainingKey(t.seed, t.fold): np.array([r.metrics[metric] for r in lesions(t)])
            for t in self.trainings
        }

    def rows(self, metric: str) -> Tests:
        """The same with ids and groups, as `compare_rows` takes them."""
        return {
            TrainingKey(t.seed, t.fold): [CaseScore(r.case, r.group, r.metrics[metric]) for r in lesions(t)]
            for t in self.trainings
        }

    def averaged(self, metric: str) -> dict[str, float]:
        """Case -> its score, averaged over seeds."""
        found: dict[str, list[float]] = {}
        for training in self.trainings:
            for r in lesions(training):
                found.setdefault(r.case, []).append(r.metrics[metric])
        return {case: float(np.mean(values)) for case, values in sorted(found.items())}


Pairs = Sequence[tuple[Variant, Variant]]
"""Variants and what each is compared with."""


def lesions(training: Training) -> list[CaseResult]:
    """The cases with something to find, by id."""
    return sorted((r for r in training.results if not r.normal), key=lambda r: r.case)


def group_variants(trainings: Iterable[Training]) -> tuple[list[Variant], list[str]]:
    """Trainings that differ by their seed only become one variant; its name has its run in front where needed.

    Returns:
        Variants in order of appearance, and a note on each training that was ignored, since it is there twice.

    Raises:
        InputError: a training that is there twice was tested on different cases: these are two experiments.

    >>> one, two = (Training("student", (), seed, settings="s") for seed in (0, 1))
    >>> [(v.name, len(v.trainings)) for v in group_variants([one, two])[0]]
    [('student', 2)]
    """
    variants: dict[tuple[str, str], dict[TrainingKey, Training]] = {}
    notes = []
    for training in trainings:
        seeds = variants.setdefault((training.variant, training.settings or training.source), {})
        key = TrainingKey(training.seed, training.fold)
        if key in seeds:
            other = seeds[key]
            if other.source != training.source:
                require_same_cases((other, training))
                notes.append(
                    f"{training.source} is ignored: it has the settings and the seed of {other.source}"
                )
            continue
        seeds[key] = training
    groups = [tuple(seeds[key] for key in sorted(seeds, key=str)) for seeds in variants.values()]
    names = [group[0].variant for group in groups]
    for named in (lambda t: f"{t.run}:{t.variant}", lambda t: t.source):
        names = [
            named(group[0]) if names.count(name) > 1 else name
            for name, group in zip(list(names), groups, strict=True)
        ]
    return [Variant(name, group) for name, group in zip(names, groups, strict=True)], notes


def tables_of(variants: Iterable[Variant]) -> dict[str, str]:
    """Hash -> name of the tables from elsewhere that some training was tested on; of several names the first.

    >>> tables_of([Variant("kd", (Training("kd", (), external=(Elsewhere("clinic", "9f2", ()),)),))])
    {'9f2': 'clinic'}
    """
    found: dict[str, str] = {}
    for variant in variants:
        for training in variant.trainings:
            for table in training.external:
                found.setdefault(table.hash, table.name)
    return found


def own_baselines(variant: Variant, others: Iterable[Variant]) -> list[Variant]:
    """The baselines that are the variant's network without distillation; those of its own runs where there are some."""
    same = [
        other
        for other in others
        if other.first.role == "baseline"
        and variant.first.network
        and other.first.network == variant.first.network
        and other is not variant
    ]
    return [other for other in same if variant.runs & other.runs] or same


def kind_of(variant: Variant, baseline: Variant) -> Kind:
    """What makes the comparison with a baseline fair: "equal steps", "equal time", "more time", or "" for neither.

    Equal time is what was measured for this variant, or took as long within a tenth.

    >>> kd = Variant("kd", (Training("kd", (), steps=100, seconds=60.0),))
    >>> longer = Variant("longer", (Training("longer", (), steps=130, seconds=61.0),))
    >>> kind_of(kd, kd), kind_of(kd, longer)
    ('equal steps', 'equal time')
    """
    if baseline.first.equal_time_to and baseline.first.equal_time_to == variant.first.variant:
        return "equal time"
    steps = variant.first.steps, baseline.first.steps
    if None not in steps and steps[0] == steps[1] and not baseline.first.equal_time_to:
        return "equal steps"
    mine, theirs = variant.seconds, baseline.seconds
    if not mine or not theirs or theirs < 0.9 * mine:
        return ""
    return "equal time" if theirs <= 1.1 * mine else "more time"


def require_same_cases(trainings: Sequence[Training]) -> None:
    """Refuses results that cannot be paired: those of one fold, or without folds all of them.

    Raises:
        InputError: other cases (with the number on one side only), or other references under the same names.
    """
    by_fold: dict[int | None, list[Training]] = {}
    for training in trainings:
        by_fold.setdefault(training.fold, []).append(training)
    for alike in by_fold.values():
        _require_alike(alike[0], alike[1:])


def _require_alike(first: Training, others: Sequence[Training]) -> None:
    mine = {r.case: r for r in lesions(first)}
    for other in others:
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


def metric_column(trainings: Sequence[Training], name: str) -> Column:
    """A metric that was measured of all cases of all trainings, and in one unit.

    Raises:
        InputError: it was not, with the metrics that there are; or it is not registered.
    """
    for training in trainings:
        rows = lesions(training)
        if not rows:
            raise InputError(f"{training.source} has no test case with something to find: nothing to compare")
        if lacking := [r for r in rows if name not in r.metrics]:
            shared = [m for m in rows[0].metrics if all(m in r.metrics for r in rows)]
            raise InputError(
                f"{training.source} has no metric '{name}' (case {lacking[0].case!r}): {near_names(name, shared)}"
            )
    metric = METRICS.create(name)
    if metric.unit != LENGTH:
        return Column(metric, metric.unit)
    units = sorted({r.unit for training in trainings for r in lesions(training)})
    if len(units) > 1:
        raise InputError(f"{name} is in {' and '.join(units)}: only lengths of one unit can be compared")
    return Column(metric, units[0])


def require_seeds(variants: Sequence[Variant]) -> None:
    """Where one variant was trained with several seeds, every one needs at least two; with folds one is enough.

    Raises:
        InputError: names the variant that lacks them.
    """
    single = [v for v in variants if not v.is_crossed]
    several = [v for v in single if len(v.trainings) > 1]
    for variant in single:
        asked = any(t.stage not in ("", t.variant) for t in variant.trainings)
        if len(variant.trainings) < 2 and (several or asked):
            than = f" and '{several[0].name}' has {len(several[0].trainings)}" if several else ""
            raise InputError(
                f"'{variant.name}' has one seed{than}: a comparison over seeds needs at least two of each: train it "
                "with others (seeds: [0, 1, 2], or --set seed=1 --out ANOTHER), or choose others with --stages"
            )


def family_of(verdict: Verdict) -> tuple[bool, bool]:
    """What is corrected together: comparisons with the same network, or another one; at equal steps, or not."""
    return verdict.same_student, verdict.kind == "equal steps"


def compare_variants(
    pairs: Pairs, metric: str = "dice", margin: float | None = None, seed: int = 0, tested_on: str = ""
) -> list[Verdict]:
    """A verdict on each pair, on the same cases, with Holm's correction for each kind of baseline.

    Args:
        pairs: (variant, baseline).
        metric: of metrics.csv.
        margin: the accepted loss; None: not stated.
        seed: of the bootstrap.
        tested_on: name of the table from elsewhere that the results are of; "" at home.

    Raises:
        InputError: different test cases, or a metric that was not measured.

    >>> compare_variants([])
    []
    """
    trainings = list({id(t): t for pair in pairs for variant in pair for t in variant.trainings}.values())
    if not trainings:
        return []
    column = metric_column(trainings, metric)
    require_same_cases(trainings)
    compared = [_compare(*pair, column, margin, seed) for pair in pairs]
    found = [replace(verdict, tested_on=tested_on) for verdict in compared]
    families: dict[tuple[bool, bool], list[int]] = {}
    for k, verdict in enumerate(found):
        families.setdefault(family_of(verdict), []).append(k)
    for members in families.values():
        for k, corrected in zip(members, correct([found[k] for k in members]), strict=True):
            found[k] = corrected
    return found


def _compare(variant: Variant, baseline: Variant, column: Column, margin: float | None, seed: int) -> Verdict:
    metric = column.metric.name
    facts: dict[str, Any] = {
        "variant": variant.name,
        "baseline": baseline.name,
        "metric": metric,
        "label": " ".join(filter(None, (column.unit, column.metric.label))),
        "higher_is_better": column.metric.higher_is_better,
        "margin": margin,
        "default_margin": None if column.unit else MARGIN,
        "kind": kind_of(variant, baseline),
        "same_student": baseline in own_baselines(variant, [baseline]),
        "this_teacher": variant.has_one_teacher,
    }
    if variant.is_crossed != baseline.is_crossed:
        raise InputError(
            f"'{variant.name}' and '{baseline.name}' cannot be paired: only one of them is of a cross-validation; "
            "compare two cross-validations, or two runs without folds"
        )
    if variant.is_crossed:
        planned = max(t.folds for t in variant.trainings)
        rows = (variant.rows(metric), baseline.rows(metric))
        return compare_rows(*rows, planned_folds=planned, seed=seed, **facts)
    groups = [r.group for r in lesions(variant.first)]
    sides = [
        {key.seed: scores for key, scores in side.scores(metric).items()} for side in (variant, baseline)
    ]
    return compare_scores(sides[0], sides[1], groups, seed=seed, **facts)


def _tested(variant: Variant) -> dict[int | None, set[tuple[str, ...]]]:
    """The cases with something to find by fold: one tuple where all trainings of the fold have the same."""
    found: dict[int | None, set[tuple[str, ...]]] = {}
    for training in variant.trainings:
        found.setdefault(training.fold, set()).add(tuple(r.case for r in lesions(training)))
    return found


def find_verdicts(
    variants: Sequence[Variant],
    margin: float | None = None,
    seed: int = 0,
    metric: str = "dice",
    tested_on: str = "",
) -> list[Verdict]:
    """Every student against its own baselines or, where it has none, against every baseline and comparator.

    Variants that were measured on other cases are not compared. Call it once per run, and pass the verdicts on.

    Args:
        variants: from `group_variants`.
        margin: the accepted loss; None: not stated.
        seed: of the bootstrap.
        metric: of metrics.csv.
        tested_on: name of the table from elsewhere that the results are of; "" at home.

    >>> find_verdicts([])
    []
    """
    others = [v for v in variants if v.first.role in ("baseline", "comparator")]
    alike: dict[str, list[tuple[Variant, Variant]]] = {}
    for student in (v for v in variants if v.first.role == "student"):
        for baseline in own_baselines(student, others) or others:
            mine, theirs = _tested(student), _tested(baseline)
            folds = shared_folds(student.keys, baseline.keys)
            cases = [mine[fold] | theirs[fold] for fold in folds]
            if cases and all(len(each) == 1 for each in cases) and any(ids for each in cases for ids in each):
                alike.setdefault(repr(cases), []).append((student, baseline))
    return [
        verdict
        for pairs in alike.values()
        for verdict in compare_variants(pairs, metric, margin, seed, tested_on)
    ]


def verdicts_elsewhere(
    variants: Sequence[Variant], margin: float | None = None, seed: int = 0, metric: str = "dice"
) -> dict[str, list[Verdict]]:
    """As `find_verdicts`, of each table from elsewhere: hash -> verdicts; Holm's correction is within a table.

    Networks of several folds are all tested on the whole table: each case is averaged over folds and seeds first
    (`stats.folds.compare_rows`).

    >>> verdicts_elsewhere([])
    {}
    """
    return {
        table: find_verdicts(
            [there for v in variants if (there := v.at(table)) is not None], margin, seed, metric, name
        )
        for table, name in tables_of(variants).items()
    }


def pairs_elsewhere(pairs: Pairs, metric: str = "dice") -> dict[str, Pairs]:
    """Name of each table from elsewhere -> the same pairs on it.

    Those tables that all trainings were tested on, with this metric and something to find; tables are the same where
    their content is, and have the first pair's name.

    >>> pairs_elsewhere([])
    {}
    """
    variants = list({id(each): each for pair in pairs for each in pair}.values())
    found: dict[str, Pairs] = {}
    for table, name in tables_of(variants).items():
        there = {id(each): each.at(table) for each in variants}
        if all(
            one is not None and len(one.trainings) == len(each.trainings) and _has_metric(one, metric)
            for each, one in zip(variants, there.values(), strict=True)
        ):
            shown = name if name not in found else f"{name} ({table[:8]})"
            found[shown] = [
                (a, b)
                for x, y in pairs
                if (a := there[id(x)]) is not None and (b := there[id(y)]) is not None
            ]
    return found


def _has_metric(variant: Variant, metric: str) -> bool:
    rows = [lesions(training) for training in variant.trainings]
    return all(rows) and all(metric in r.metrics for each in rows for r in each)
