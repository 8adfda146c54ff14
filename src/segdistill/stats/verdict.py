"""Whether a variant helps: one rule, fixed before the numbers are known, and the sentence for what it finds.

A variant "helps" when all of this holds, and "hurts" when it holds with the sign turned; else there is "no evidence":

1. both sides were trained with at least three seeds;
2. the 95 % bootstrap interval over groups (patients) of the mean paired difference excludes zero, where each case is
   averaged over seeds first;
3. Wilcoxon's signed ranks over groups are on the same side, with p below 0.05 after Holm's correction over all variants
   that are compared with this baseline;
4. the wider interval, which adds the spread between trainings, excludes zero, too.

The last part is needed because the interval over patients does not include luck in training: with many test cases a
lucky seed is "significant".

Over the folds of a cross-validation (stats/folds.py) the trainings are those of all folds and seeds, and Nadeau's and
Bengio's interval over the tests stands beside the rule. Where only one of the two finds a difference the verdict is
"undecided".

Beside "better than" stands "not worse than": a loss of the margin or more is excluded by the same intervals. The
margin is stated in the recipe; where it is not, 0.02 is taken for scores between 0 and 1, and shown as the default.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segdistill.stats.bootstrap import PairedDifference, paired_difference
from segdistill.stats.power import Needed, Variances, needed, needed_text, seeds_of
from segdistill.stats.tests import (
    Error,
    false_claim,
    group_error,
    group_means,
    holm,
    joint_interval,
    rank_side,
    seed_differences,
    seed_error,
)
from segdistill.stats.text import number, signed

SEEDS = 3
GROUPS = 6  # the fewest with which signed ranks can reach p < 0.05
MORE_SEEDS = (3, 5, 10)  # for which the number of cases is computed
LEVEL = 0.05
MARGIN = 0.02
"""The accepted loss of a score between 0 and 1 where the recipe states none."""
HELPS, HURTS, NO_EVIDENCE, UNDECIDED = "helps", "hurts", "no evidence", "undecided"

Outcome = Literal["helps", "hurts", "no evidence", "undecided"]
NotWorse = Literal["not worse", "worse", "undecided", ""]
"""Against the margin: a loss as large is excluded, is shown, is neither; "": there is no margin."""
Kind = Literal["equal steps", "equal time", "more time", ""]
"""What a baseline has in common with the variant, or more of; "" where neither is known."""
KINDS: dict[Kind, str] = {
    "equal steps": "at equal steps",
    "equal time": "at equal wall-clock",
    "more time": "with more wall-clock",
    "": "",
}

SeedScores = Mapping[int | None, NDArray[np.float64]]
"""Scores (N,) of each training by its seed, the cases in the same order everywhere."""


@dataclass(frozen=True)
class Reason:
    """A part of the rule that is not met, and a clause.

    The parts are "seeds", "groups", "interval", "p", "ranks" and "trainings", and "folds" where Nadeau's and Bengio's
    interval and the rest of the rule disagree.
    """

    rule: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """One variant against one baseline in one metric; every number is variant minus baseline.

    Attributes:
        variant, baseline: what was compared.
        metric: its name. label: for readers, with its unit. higher_is_better: its direction.
        difference: of each case's average over seeds: mean, interval over groups, Wilcoxon's p.
        side: of Wilcoxon's ranks: 1, -1, or 0.
        corrected: p after Holm's correction over `family` variants; None where p is.
        low, high: interval over groups and trainings together; None with fewer than two trainings on a side.
        seeds, baseline_seeds: number of trainings.
        per_seed: mean differences of the seeds that both sides have.
        spread: their standard deviation (where the seeds differ, that of the difference of one training of each).
        margin: a loss that would be accepted, stated before training; None: not stated.
        kind: of the baseline.
        same_student: whether the baseline is the variant's network without distillation.
        default_margin: the margin where none was stated; None: none is used.
        folds: that were tested; 1: no cross-validation. planned_folds: of the recipe.
        resampled: Nadeau's and Bengio's interval over the tests of a cross-validation; None: not computed.
        false_claim: probability that the claim "better" is false, given these cases and trained networks
            (`stats.tests.false_claim`); None: not computable.
        this_teacher: whether all trainings of the variant had a teacher in common, so that the verdict is about it.
        needed: cases and seeds that would show a difference; empty where the spread is not known.
        smallest: the smallest true difference that this number of cases and seeds would show with a power of 80 %; with
            fewer than three seeds on a side, the cases alone. None: not computable.
        tested_on: name of the table from elsewhere that it is about; "" at home: the test cases of the run.
    """

    variant: str
    baseline: str
    metric: str
    difference: PairedDifference
    label: str = "Dice"
    higher_is_better: bool = True
    side: int = 0
    corrected: float | None = None
    family: int = 1
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    baseline_seeds: int = 1
    per_seed: tuple[float, ...] = ()
    spread: float | None = None
    margin: float | None = None
    kind: Kind = ""
    same_student: bool = False
    default_margin: float | None = None
    folds: int = 1
    planned_folds: int = 1
    resampled: tuple[float, float] | None = None
    false_claim: float | None = None
    this_teacher: bool = False
    needed: tuple[Needed, ...] = ()
    smallest: float | None = None
    tested_on: str = ""

    @property
    def place(self) -> str:
        """Where the cases are from, in words: "" at home.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Verdict("kd", "unet", "dice", found, tested_on="clinic").place
        ' at clinic'
        """
        return f" at {self.tested_on}" if self.tested_on else ""

    @property
    def _sign(self) -> int:
        return 1 if self.higher_is_better else -1

    @property
    def accepted(self) -> float | None:
        """The margin: as stated, else the default."""
        return self.default_margin if self.margin is None else self.margin

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Which parts of the rule are not met; none where the outcome is "helps" or "hurts"."""
        found = self._unmet
        return (*found, Reason("folds", self._disagreement)) if self._disagreement else found

    @property
    def _disagreement(self) -> str:
        """How the rest of the rule and the corrected t-test over folds disagree; "" where they do not."""
        if self.resampled is None or any(reason.rule in ("seeds", "groups") for reason in self._unmet):
            return ""
        side = _side(self.resampled)
        if not self._unmet and side * (self.difference.mean or 0) <= 0:
            return "the corrected t-test over folds does not confirm it"
        return "but the corrected t-test over folds excludes zero" if self._unmet and side else ""

    @property
    def _unmet(self) -> tuple[Reason, ...]:
        found, of = [], self.difference
        if (fewest := min(self.seeds, self.baseline_seeds)) < SEEDS:
            trained = "one training" if fewest == 1 else f"{fewest} trainings"
            found.append(Reason("seeds", f"{trained} on a side, and a verdict needs {SEEDS} seeds"))
        if of.low is None or of.high is None:
            return (*found, Reason("groups", "too few groups for an interval"))
        if of.low <= 0 <= of.high:
            found.append(Reason("interval", "the interval over cases contains zero"))
        if self.corrected is None or self.corrected >= LEVEL:
            p = "cannot be computed" if self.corrected is None else f"is {number(self.corrected, 3)}"
            found.append(Reason("p", f"the corrected p {p}"))
        elif self.side * (of.mean or 0) <= 0:
            found.append(Reason("ranks", "the ranks point the other way than the mean"))
        if self.low is not None and self.high is not None and self.low <= 0 <= self.high:
            found.append(Reason("trainings", "trainings differ from each other by as much"))
        return tuple(found)

    @property
    def outcome(self) -> Outcome:
        """By the rule of this file.

        >>> found = PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.001)
        >>> Verdict("kd", "alone", "dice", found, "Dice", True, 1, 0.004, 4, 0.01, 0.05, 3, 3).outcome
        'helps'
        >>> Verdict("kd", "alone", "dice", found, "Dice", True, 1, 0.004, 4, seeds=1).outcome
        'no evidence'
        """
        if self._disagreement:
            return "undecided"
        if self.reasons:
            return "no evidence"
        return "helps" if self._sign * (self.difference.mean or 0) > 0 else "hurts"

    @property
    def not_worse(self) -> bool:
        """Whether a loss as large as the margin is excluded, by all intervals, three seeds and six groups at least."""
        return self.non_inferiority == "not worse"

    @property
    def has_too_few(self) -> bool:
        """Whether trainings or groups are too few for any claim "not worse" or "worse"."""
        return min(self.seeds, self.baseline_seeds) < SEEDS or self.difference.groups < GROUPS

    @property
    def non_inferiority(self) -> NotWorse:
        """The other claim, "not worse than by the margin": shown, refuted, or undecided.

        "not worse" needs the better ends of all intervals on this side of the margin, "worse" all of them beyond it.

        >>> found = PairedDifference(-0.04, -0.05, -0.03, 90, 80, 0.001)
        >>> facts = {"low": -0.055, "high": -0.025, "seeds": 3, "baseline_seeds": 3, "margin": 0.02}
        >>> Verdict("small", "large", "dice", found, **facts).non_inferiority
        'worse'
        """
        if self.accepted is None:
            return ""
        ends = [self.difference.low, self.low, self.difference.high, self.high, *(self.resampled or ())]
        known = [self._sign * end for end in ends if end is not None]
        if self.has_too_few or len(known) < max(4, len(ends)):
            return "undecided"
        if min(known) > -self.accepted:
            return "not worse"
        return "worse" if max(known) < -self.accepted else "undecided"

    @property
    def words(self) -> str:
        """The outcome and what limits it: what would have been shown, where there is no evidence; "not worse than by
        MARGIN" where that was shown and adds something; "with this teacher", where all trainings had the same.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> facts = {"low": -0.015, "high": 0.015, "seeds": 3, "baseline_seeds": 3, "margin": 0.02}
        >>> Verdict("kd", "alone", "dice", found, corrected=1.0, **facts).words
        'no evidence, not worse than by 0.02'
        >>> Verdict("kd", "alone", "dice", found, corrected=1.0, smallest=0.046, this_teacher=True, **facts).words
        'no evidence, would show 0.046 or more, not worse than by 0.02, with this teacher'
        """
        return ", ".join(filter(None, [self.outcome, *self._limits.values()]))

    @property
    def _limits(self) -> dict[str, str]:
        """What limits the outcome, "" where nothing does."""
        limits = {"smallest": "", "margin": "", "teacher": "with this teacher" if self.this_teacher else ""}
        if self.outcome == NO_EVIDENCE and self.smallest:  # it is 0 where nothing varies
            shown = f"would show {number(self.smallest, 3)} or more"
            limits["smallest"] = shown if self.has_seeds else f"shows nothing below {SEEDS} seeds"
        if self.not_worse and self.outcome != HELPS:
            limits["margin"] = f"not worse than by {self.accepted:g}"
        return limits

    @property
    def has_seeds(self) -> bool:
        """Whether both sides have the trainings that a claim needs.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Verdict("kd", "unet", "dice", found, seeds=3, baseline_seeds=2).has_seeds
        False
        """
        return min(self.seeds, self.baseline_seeds) >= SEEDS

    @property
    def claim(self) -> str:
        """The words without the smallest difference, which is another one for each comparison."""
        return ", ".join(filter(None, [self.outcome, self._limits["margin"], self._limits["teacher"]]))

    @property
    def smallest_text(self) -> str:
        """Where there is no evidence, what would have been: the smallest difference; "" elsewhere, or if not known.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Verdict("kd", "unet", "dice", found, seeds=3, baseline_seeds=3, smallest=0.046).smallest_text
        'The smallest difference that 90 cases and 3 seeds would show with 80 % power is about 0.046.'
        >>> Verdict("kd", "unet", "dice", found, smallest=0.02).smallest_text
        'Below 3 seeds no difference can be shown; 90 cases alone would show about 0.020 with 80 % power.'
        """
        if self.outcome != NO_EVIDENCE or not self.smallest:
            return ""
        cases, least = f"{self.difference.n} cases", f"about {number(self.smallest, 3)}"
        if not self.has_seeds:
            alone = f"{cases} alone would show {least} with 80 % power"
            return f"Below {SEEDS} seeds no difference can be shown; {alone}."
        seeds = " and ".join(dict.fromkeys([str(self.seeds), str(self.baseline_seeds)]))
        trained = f"{cases} and {seeds} {'trainings' if self.folds > 1 else 'seeds'}"
        return f"The smallest difference that {trained} would show with 80 % power is {least}."

    @property
    def short(self) -> str:
        """The outcome as a sentence; about distillation only where the baseline is the same network.

        With one teacher for all trainings it is about distillation "with this teacher": another training of the teacher
        may teach better or worse.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Verdict("kd", "unet", "dice", found).short
        'No evidence of a difference between kd and unet.'
        """
        a, b = self.variant, self.baseline
        within = " with this teacher" if self.this_teacher else ""
        beside = ", with this teacher" if self.this_teacher else ""
        sentences = {
            "helps": (f"Distillation{within} helps.", f"{a} is better than {b}{beside}."),
            "hurts": (f"Distillation{within} hurts.", f"{a} is worse than {b}{beside}."),
            "no evidence": (
                f"No evidence that distillation{within} helps or hurts.",
                f"No evidence of a difference between {a} and {b}{beside}.",
            ),
            "undecided": (
                f"Undecided whether distillation{within} helps or hurts.",
                f"Undecided whether {a} and {b} differ{beside}.",
            ),
        }
        line = sentences[self.outcome][not self.same_student]
        line = f"{line[:-1]}{self.place}."
        if self.not_worse and self.outcome != HELPS:
            line += f" Not worse than by {self.accepted:g}."
        return line

    @property
    def details(self) -> str:
        """The numbers behind the outcome, and what is missing for a claim."""
        what = " ".join(f"{self.variant} minus {self.baseline}{self.place} {KINDS[self.kind]}".split())
        line = f"{what}: {self._numbers()}."
        if self.reasons:
            line += f" No claim is made: {'; '.join(reason.text for reason in self.reasons)}."
        return " ".join(filter(None, [line, self.smallest_text, self.not_worse_text, self.false_claim_text]))

    @property
    def not_worse_text(self) -> str:
        """The claim "not worse than by the margin" with its outcome; "" without a margin or an interval.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Verdict("kd", "unet", "dice", found, low=-0.03, high=0.03, default_margin=0.02).not_worse_text
        'Not worse than by 0.02 (the default margin): undecided, the intervals reach −0.030.'
        """
        ends = (self.difference.low, self.low, *(self.resampled or ()), self.difference.high, self.high)
        known = [end for end in ends if end is not None]
        if self.accepted is None or not known:
            return ""
        of = "the default margin" if self.margin is None else "the margin"
        worst = min(known) if self.higher_is_better else max(known)
        words = {"not worse": "shown", "worse": "refuted", "undecided": "undecided"}[self.non_inferiority]
        return f"Not worse than by {self.accepted:g} ({of}): {words}, the intervals reach {signed(worst)}."

    @property
    def false_claim_text(self) -> str:
        """The probability that the claim "better" is false, in words; "" where it was not computed."""
        if self.false_claim is None:
            return ""
        percent = "below 0.1" if self.false_claim < 0.001 else number(100 * self.false_claim, 1)
        return f"Probability that the claim “better” is false: {percent} % (cases only)."

    @property
    def fold_words(self) -> str:
        """How many folds were tested; "" for a hold-out.

        >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
        >>> Verdict("kd", "unet", "dice", found, folds=3, planned_folds=5).fold_words
        '3 of 5 folds'
        """
        if self.folds < 2:
            return ""
        of = f" of {self.planned_folds}" if self.folds < self.planned_folds else ""
        return f"{self.folds}{of} folds"

    @property
    def needed_text(self) -> str:
        """The cases and seeds that would show a difference, in words."""
        return needed_text(self.needed, self.folds)

    def __str__(self) -> str:
        return f"{self.short} {self.details}"

    def _numbers(self) -> str:
        of = self.difference
        parts = [f"{signed(of.mean)} {self.label}"]
        if of.low is None:
            parts.append("too few groups for an interval")
        else:
            parts.append(f"95 % interval {signed(of.low)} to {signed(of.high)}")
        parts[-1] += f" over {of.n} paired cases" + ("" if of.groups == of.n else f" in {of.groups} groups")
        if self.low is not None:
            over = f"{self.seeds} trainings in {self.fold_words}" if self.folds > 1 else "trainings"
            parts.append(f"with the spread over {over} {signed(self.low)} to {signed(self.high)}")
        if self.resampled is not None:
            ends = f"{signed(self.resampled[0])} to {signed(self.resampled[1])}"
            parts.append(f"by the corrected t-test over folds {ends}")
        if of.p is not None:
            parts.append(f"Wilcoxon p {_p(of.p)}")
            if self.family > 1 and self.corrected is not None:
                parts.append(f"after Holm over {self.family} variants {_p(self.corrected)}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON: the fields, "outcome", "not_worse", "non_inferiority", "reasons", "sentence".

        >>> found = Verdict("kd", "alone", "dice", PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.001))
        >>> Verdict.from_dict(found.to_dict()) == found
        True
        """
        reasons = [asdict(reason) for reason in self.reasons]
        derived = {
            "outcome": self.outcome,
            "not_worse": self.not_worse,
            "non_inferiority": self.non_inferiority,
            "reasons": reasons,
            "sentence": str(self),
        }
        lists = {
            "per_seed": list(self.per_seed),
            "resampled": None if self.resampled is None else list(self.resampled),
            "needed": [one._asdict() for one in self.needed],
        }
        return {**asdict(self), **lists, **derived}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Verdict:
        """Reads what `to_dict` gave."""
        known = {each.name: facts[each.name] for each in fields(cls) if each.name in facts}
        difference = PairedDifference(**known.pop("difference"))
        resampled = known.pop("resampled", None)
        return cls(
            difference=difference,
            per_seed=tuple(known.pop("per_seed")),
            resampled=None if resampled is None else (resampled[0], resampled[1]),
            needed=tuple(Needed(**one) for one in known.pop("needed", ())),
            **known,
        )


def sentence_of(verdicts: Sequence[Verdict], most: int = 4) -> str:
    """Several verdicts in a sentence; of more than `most`, those with the same outcome together.

    >>> found = PairedDifference(0.0, -0.01, 0.01, 90, 80, 0.9)
    >>> sentence_of([Verdict(name, "alone", "dice", found) for name in "ab"])
    'a against alone: no evidence; b against alone: no evidence.'
    """
    if len(verdicts) <= most:
        return "; ".join(f"{v.variant} against {v.baseline}{v.place}: {v.words}" for v in verdicts) + "."
    alike: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        alike.setdefault(verdict.claim, []).append(verdict)
    parts = []
    for words, members in alike.items():
        named = ", ".join(f"{v.variant} against {v.baseline}{v.place}" for v in members)
        count = f"{'all ' if len(alike) == 1 else ''}{len(members)}"
        shows = [v for v in members if v.smallest_text and v.has_seeds]  # with fewer seeds none would show
        least = sorted(v.smallest for v in shows if v.smallest is not None)
        ends = " to ".join(dict.fromkeys(number(end, 3) for end in (least[0], least[-1]))) if least else ""
        shown = f" (the smallest difference that would show: {ends})" if ends else ""
        parts.append(f"{words}: {named if len(members) <= most else count}{shown}")
    return f"Of {len(verdicts)} comparisons: {'; '.join(parts)}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def compare_scores(
    a: SeedScores, b: SeedScores, groups: Sequence[Hashable], *, seed: int = 0, **facts: Any
) -> Verdict:
    """Averages each case over the trainings of a side, pairs the cases, and measures the difference a - b.

    Args:
        a: scores (N,) of each training of the variant, by its seed.
        b: the same of the baseline; the cases in the same order.
        groups: of the N cases.
        seed: of the bootstrap.
        facts: further fields of Verdict, such as variant, baseline, metric.

    Raises:
        ValueError: lengths differ, or a score is NaN or infinite.
        MissingExtra: scipy is not installed, and there are several trainings.

    >>> one = {0: np.array([0.8, 0.9]), 1: np.array([0.7, 0.9])}
    >>> two = {0: np.array([0.7, 0.8]), 1: np.array([0.6, 0.8])}
    >>> found = compare_scores(one, two, ["p", "q"], variant="kd", baseline="alone", metric="dice")
    >>> round(found.difference.mean, 3)
    0.1
    """
    mean_a, mean_b = (np.mean(list(side.values()), axis=0) for side in (a, b))
    found = paired_difference(mean_a.tolist(), mean_b.tolist(), groups, seed=seed)
    verdict = Verdict(difference=found, seeds=len(a), baseline_seeds=len(b), **facts)
    if found.mean is None:
        return verdict
    averages = [{key: float(scores.mean()) for key, scores in side.items()} for side in (a, b)]
    trainings = seed_error(*averages)
    verdict = replace(
        verdict,
        side=rank_side(group_means(mean_a - mean_b, groups).tolist()),
        corrected=found.p,
        per_seed=tuple(seed_differences(*averages)),
        spread=None if trainings is None else _spread(trainings, len(a), len(b)),
    )
    if found.low is None:
        return verdict
    cases = group_error(mean_a - mean_b, groups)
    sign = 1 if verdict.higher_is_better else -1
    share = found.groups / found.n
    alone = Variances(found.n * cases.variance, 0.0, share)
    verdict = replace(
        verdict, false_claim=false_claim(sign * found.mean, cases), smallest=alone.power_reach(found.n, SEEDS)
    )
    if trainings is None:
        return verdict
    low, high = joint_interval(found.mean, [cases, trainings])
    observed = replace(alone, training=(verdict.spread or 0.0) ** 2)
    verdict = replace(verdict, low=low, high=high, needed=needed(observed, MORE_SEEDS))
    if not verdict.has_seeds:
        return verdict
    return replace(verdict, smallest=observed.power_reach(found.n, seeds_of(len(a), len(b))))


def _side(interval: tuple[float, float]) -> int:
    """1 above zero, -1 below it, 0 around it."""
    low, high = interval
    return 1 if low > 0 else -1 if high < 0 else 0


def _spread(error: Error, a: int, b: int) -> float:
    """The standard deviation of the difference between one training of each side."""
    return float(np.sqrt(error.variance * 2 / (1 / a + 1 / b)))


def correct(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with Holm's correction over all of them: those of several variants with one baseline.

    >>> found = PairedDifference(0.03, 0.02, 0.04, 90, 80, 0.03)
    >>> [c.corrected for c in correct([Verdict(name, "alone", "dice", found) for name in "ab"])]
    [0.06, 0.06]
    """
    p = holm([c.difference.p for c in verdicts])
    return [replace(c, corrected=value, family=len(verdicts)) for c, value in zip(verdicts, p, strict=True)]
