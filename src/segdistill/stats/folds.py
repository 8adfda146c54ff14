"""The verdict on a cross-validation: every case is tested once per seed, and all folds are judged together.

The paired differences of all folds are pooled, each case averaged over seeds first. Their mean has three errors:

1. cases: whole groups are drawn, from all folds together;
2. seeds: the trainings of a fold differ from each other on the same cases, with F (S - 1) degrees of freedom for F
   folds and S seeds;
3. folds: what the folds' means differ by beyond what cases and seeds explain, with F - 1 degrees of freedom: the
   training sets are others, and with one seed the luck of a training is in here, too.

The interval of the rule (stats/verdict.py) has all three, in quadrature. With five folds the third is known badly,
and the folds are not independent, since any two share most of their training cases. So Nadeau's and Bengio's interval
over the tests (`stats.tests.resampled_interval`) stands beside it, and a claim needs both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import InputError
from segdistill.stats.bootstrap import paired_difference
from segdistill.stats.power import Variances, needed, seeds_of
from segdistill.stats.tests import (
    Error,
    false_claim,
    group_error,
    group_means,
    joint_interval,
    rank_side,
    resampled_interval,
    seed_error,
)
from segdistill.stats.verdict import SEEDS, SeedScores, Verdict, compare_scores

MORE_SEEDS = (1, 2, 5)  # of each fold, for which the number of cases is computed


class CaseScore(NamedTuple):
    """The score of one network on one case; cases of one group (a patient) are drawn together."""

    case: str
    group: Hashable
    value: float


class TrainingKey(NamedTuple):
    """Which training: its seed, and its fold counted from 1; None where there is none."""

    seed: int | None
    fold: int | None = None


Tests = Mapping[TrainingKey, Iterable[CaseScore]]
"""What each training of a side was tested on."""


def compare_rows(a: Tests, b: Tests, *, planned_folds: int = 0, seed: int = 0, **facts: Any) -> Verdict:
    """The verdict on a minus b, from lists of scores per case and training.

    The folds of a cross-validation, each with test cases of its own, are pooled (see above); only folds are used that
    every seed of both sides was tested in. Where all trainings were tested on the same cases (one hold-out, or a
    table from elsewhere) each case is averaged over all of them first, and they count as that many trainings.

    A table from elsewhere is tested by the network of every fold. Give all of them, with their fold: each case is
    averaged over folds and seeds before anything else, and the spread between trainings is that of all of them. (They
    share training cases, so that the luck of the training set is counted too low there, and Nadeau's and Bengio's
    interval, which is about tests on the rest of the same cases, does not apply.)

    Args:
        a: of the variant.
        b: of the baseline; in every fold the same cases with the same groups.
        planned_folds: of the cross-validation; 0: as many as were tested.
        seed: of the bootstrap.
        facts: further fields of Verdict, such as variant, baseline, metric.

    Raises:
        InputError: the two sides share no fold, a fold has other cases on one side, or folds share some of their cases.
        ValueError: a score is NaN or infinite.
        MissingExtra: scipy is not installed, and there are several trainings.

    >>> hospital = {"p1": (0.7, 0.6), "p2": (0.8, 0.7), "p3": (0.9, 0.9)}  # case -> Dice of student and baseline
    >>> def tested(side: int) -> dict[TrainingKey, list[CaseScore]]:
    ...     rows = [CaseScore(case, case, scores[side]) for case, scores in hospital.items()]
    ...     return {TrainingKey(0, fold): rows for fold in (1, 2, 3)}  # three folds' networks, alike here
    >>> found = compare_rows(tested(0), tested(1), variant="student", baseline="baseline", metric="dice")
    >>> round(found.difference.mean, 4), found.difference.n, found.seeds, found.folds
    (0.0667, 3, 3, 1)
    """
    tables = [{key: {row.case: row for row in rows} for key, rows in side.items()} for side in (a, b)]
    folds = shared_folds(a, b)
    if not folds:
        raise InputError(
            "no fold was tested by all seeds of both sides: finish the trainings of at least one fold"
        )
    tested = {fold: _cases_of(tables, fold) for fold in folds}
    cases = {fold: names for fold, names in tested.items() if names} or {folds[0]: []}
    if len({tuple(names) for names in cases.values()}) == 1:
        return _alike(tables, list(cases), next(iter(cases.values())), seed, facts)
    every = [name for names in cases.values() for name in names]
    if len(set(every)) < len(every):
        raise InputError(
            "two folds tested some of the same cases: compare folds of one cross-validation only"
        )
    study = _Study(tuple(_fold(tables, fold, names) for fold, names in cases.items()))
    return _pooled(study, max(planned_folds, len(folds)), seed, facts)


Table = Mapping[TrainingKey, Mapping[str, CaseScore]]


def shared_folds(*sides: Iterable[TrainingKey]) -> list[int | None]:
    """The folds that every seed of every side was tested in.

    >>> shared_folds([TrainingKey(0, 1), TrainingKey(0, 2), TrainingKey(1, 2)], [TrainingKey(0, 1), TrainingKey(0, 2)])
    [2]
    """
    shared: set[int | None] | None = None
    for keys in map(list, sides):
        for seed in {key.seed for key in keys}:
            folds = {key.fold for key in keys if key.seed == seed}
            shared = folds if shared is None else shared & folds
    return sorted(shared or (), key=lambda fold: fold or 0)


def _any(table: Table, fold: int | None) -> Mapping[str, CaseScore]:
    return next(rows for key, rows in table.items() if key.fold == fold)


def _cases_of(tables: Sequence[Table], fold: int | None) -> list[str]:
    """The cases of a fold, by id, which are the same for all trainings.

    Raises:
        InputError: they are not.
    """
    names = {tuple(sorted(rows)) for side in tables for key, rows in side.items() if key.fold == fold}
    if len(names) > 1:
        first, second, *_ = (set(each) for each in names)
        raise InputError(
            f"the trainings of fold {fold} were tested on different cases (such as {min(first ^ second)!r}): "
            "evaluate all of them on the same cases"
        )
    return list(names.pop())


def _fold(tables: Sequence[Table], fold: int | None, cases: Sequence[str]) -> _Fold:
    """The scores of a fold, the cases in this order."""
    a, b = (
        {
            key.seed: np.array([rows[name].value for name in cases], np.float64)
            for key, rows in side.items()
            if key.fold == fold
        }
        for side in tables
    )
    return _Fold(a, b, [_any(tables[0], fold)[name].group for name in cases])


def _alike(
    tables: Sequence[Table],
    folds: Sequence[int | None],
    cases: Sequence[str],
    seed: int,
    facts: Mapping[str, Any],
) -> Verdict:
    """All trainings were tested on the same cases: those of folds count as seeds."""
    keys = sorted({key for side in tables for key in side}, key=str)
    number = {key: k for k, key in enumerate(keys)}
    scores: list[SeedScores] = [
        {
            number[key]: np.array([rows[name].value for name in cases], np.float64)
            for key, rows in side.items()
            if key.fold in folds
        }
        for side in tables
    ]
    groups = [_any(tables[0], folds[0])[name].group for name in cases]
    return compare_scores(scores[0], scores[1], groups, seed=seed, **facts)


@dataclass(frozen=True, eq=False)
class _Fold:
    """Scores (n,) of the trainings of both sides by seed, on the n cases of a fold, and the cases' groups."""

    a: Mapping[int | None, NDArray[np.float64]]
    b: Mapping[int | None, NDArray[np.float64]]
    groups: Sequence[Hashable]

    @property
    def difference(self) -> NDArray[np.float64]:
        """Of each case, averaged over seeds first."""
        mean_a, mean_b = (np.mean(list(side.values()), axis=0) for side in (self.a, self.b))
        found: NDArray[np.float64] = mean_a - mean_b
        return found

    @property
    def by_seed(self) -> list[float]:
        """The mean difference of each seed that both sides have; of the averages where they have none in common."""
        shared = [seed for seed in self.a if seed in self.b]
        if not shared:
            return [float(self.difference.mean())]
        return [float((self.a[seed] - self.b[seed]).mean()) for seed in shared]

    @property
    def seed_error(self) -> Error | None:
        """Of the mean difference, from training again; None with fewer than two seeds on a side."""
        return seed_error(*({seed: float(x.mean()) for seed, x in side.items()} for side in (self.a, self.b)))


@dataclass(frozen=True, eq=False)
class _Study:
    """The folds of a cross-validation with the trainings of two sides.

    Attributes:
        folds: with at least one case each.
    """

    folds: tuple[_Fold, ...]

    @property
    def weights(self) -> NDArray[np.float64]:
        """The share of each fold in all cases (F,)."""
        sizes = np.array([len(fold.groups) for fold in self.folds], np.float64)
        shares: NDArray[np.float64] = sizes / sizes.sum()
        return shares

    @property
    def difference(self) -> NDArray[np.float64]:
        """Of all cases (N,), fold by fold."""
        return np.concatenate([fold.difference for fold in self.folds])

    @property
    def groups(self) -> list[Hashable]:
        """Of all cases."""
        return [group for fold in self.folds for group in fold.groups]

    def errors(self) -> tuple[Error, Error | None, Error | None]:
        """The errors of the mean over all cases from cases, seeds and folds; None where they cannot be told."""
        weights, found = self.weights, [fold.seed_error for fold in self.folds]
        known = [one for one in found if one is not None]
        seeds = None
        if len(known) == len(found):
            variance = sum(w**2 * one.variance for w, one in zip(weights, known, strict=True))
            seeds = Error(float(variance), sum(one.freedom for one in known))
        return group_error(self.difference, self.groups), seeds, self._fold_error(known)

    def _fold_error(self, seeds: Sequence[Error]) -> Error | None:
        count, weights = len(self.folds), self.weights
        each = [fold.difference for fold in self.folds]
        if any(len(set(fold.groups)) < 2 for fold in self.folds):
            return None
        means = np.array([x.mean() for x in each])
        observed = float(weights @ np.square(means - weights @ means)) * count / (count - 1)
        explained = [group_error(x, fold.groups).variance for x, fold in zip(each, self.folds, strict=True)]
        expected = float(weights @ np.array(explained))
        if len(seeds) == count:
            expected += float(weights @ np.array([one.variance for one in seeds]))
        return Error(max(0.0, observed - expected) * float(np.square(weights).sum()), count - 1)


def _pooled(study: _Study, planned: int, seed: int, facts: Mapping[str, Any]) -> Verdict:
    """The verdict over folds with different cases."""
    difference, groups = study.difference, study.groups
    sides = [
        np.concatenate([np.mean(list(getattr(fold, side).values()), axis=0) for fold in study.folds])
        for side in ("a", "b")
    ]
    found = paired_difference(sides[0].tolist(), sides[1].tolist(), groups, seed=seed)
    count = len(study.folds)
    tests = [value for fold in study.folds for value in fold.by_seed]
    verdict = Verdict(
        difference=found,
        seeds=sum(len(fold.a) for fold in study.folds),
        baseline_seeds=sum(len(fold.b) for fold in study.folds),
        folds=count,
        planned_folds=planned,
        per_seed=tuple(tests),
        **facts,
    )
    if found.mean is None or found.low is None:
        return verdict
    cases, seeds, folds = study.errors()
    sign = 1 if verdict.higher_is_better else -1
    low, high = joint_interval(found.mean, [error for error in (cases, seeds, folds) if error is not None])
    trainings = sum(error.variance for error in (seeds, folds) if error is not None) * len(tests)
    observed = Variances(found.n * cases.variance, trainings, found.groups / found.n, planned)
    shown = replace(observed, folds=count)
    if verdict.has_seeds:
        smallest = shown.power_reach(found.n, seeds_of(verdict.seeds, verdict.baseline_seeds) / count)
    else:
        smallest = replace(shown, training=0.0, folds=1).power_reach(found.n, SEEDS)
    return replace(
        verdict,
        side=rank_side(group_means(difference, groups).tolist()),
        corrected=found.p,
        low=low,
        high=high,
        spread=float(np.sqrt(trainings)),
        resampled=resampled_interval(tests, 1 / (planned - 1)),
        false_claim=false_claim(sign * found.mean, cases),
        needed=needed(observed, MORE_SEEDS),
        smallest=smallest,
    )
