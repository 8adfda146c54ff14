"""How small a network can be: which rung of a ladder is claimed to be not worse than the largest network.

The rungs are tested in a fixed order, from large to small, each against the same reference, and the first that is not
shown to be "not worse" ends the claim. Because the order is fixed before training, no correction is needed for testing
several rungs (W. Maurer, L. Hothorn, W. Lehmacher, Multiple comparisons in drug clinical trials and preclinical
assays, 1995; B. Wiens, Pharmaceutical Statistics 2, 2003). Rungs below that end are exploratory: no claim is made.
"""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.stats.power import Variances
from segdistill.stats.text import number
from segdistill.stats.verdict import GROUPS, SEEDS, NotWorse, Verdict

ASSUMED_CASE_SD = 0.10
"""Of the paired difference in Dice of two trained networks on one case; BUSI at 128x128 is near it."""
ASSUMED_TRAINING_SD = 0.025
"""Of the difference in mean Dice of two trainings of one network; docs/results/verdict-busi.md has 0.018 for each."""


def claimed_rung(outcomes: Sequence[NotWorse]) -> int | None:
    """The smallest rung that passes with all rungs above it; None where the first does not pass.

    Args:
        outcomes: `Verdict.non_inferiority` of each rung, from large to small.

    >>> claimed_rung(["not worse", "not worse", "undecided", "not worse"]), claimed_rung(["worse", "not worse"])
    (1, None)
    """
    passed = [outcome == "not worse" for outcome in outcomes]
    count = passed.index(False) if False in passed else len(passed)
    return count - 1 if count else None


def count_tested(outcomes: Sequence[NotWorse]) -> int:
    """How many rungs the fixed sequence tests: those that pass, and the one that ends it; the others are exploratory.

    >>> count_tested(["not worse", "undecided", "not worse"]), count_tested(["not worse"])
    (2, 1)
    """
    last = claimed_rung(outcomes)
    return min(len(outcomes), (0 if last is None else last + 1) + 1)


def passing_margin(verdict: Verdict) -> float | None:
    """The smallest margin by which all intervals of a verdict would show "not worse".

    None without these intervals, and where trainings or groups are too few for any margin.

    >>> from segdistill.stats.bootstrap import PairedDifference
    >>> found = PairedDifference(-0.01, -0.02, 0.0, 90, 80, 0.4)
    >>> facts = {"low": -0.03, "high": 0.01, "resampled": (-0.035, 0.015), "seeds": 5, "baseline_seeds": 5}
    >>> passing_margin(Verdict("small", "large", "dice", found, **facts))
    0.035
    """
    if verdict.has_too_few:
        return None
    sign = 1 if verdict.higher_is_better else -1
    pairs = [(verdict.difference.low, verdict.difference.high), (verdict.low, verdict.high)]
    pairs += [verdict.resampled] if verdict.resampled is not None else []
    ends = [sign * end for pair in pairs for end in pair if end is not None]
    return max(0.0, -min(ends)) if len(ends) == 2 * len(pairs) else None


def decidable_margin(cases: int, groups: int, folds: int, seeds: int) -> float | None:
    """The smallest margin by which "not worse" is shown with 80 % power for a network that is as good as the reference.

    It rests on spreads that are assumed, since nothing is trained yet (`ASSUMED_CASE_SD`, `ASSUMED_TRAINING_SD`).

    Args:
        cases: that have something to find.
        groups: of these cases, such as patients.
        folds: of the cross-validation.
        seeds: trainings of each fold.

    Returns:
        None where folds times seeds, or groups, are too few for any claim.

    Raises:
        MissingExtra: scipy is not installed.

    >>> round(decidable_margin(500, 500, 5, 1), 3), round(decidable_margin(500, 500, 5, 3), 3)
    (0.06, 0.039)
    """
    if folds * seeds < SEEDS or groups < GROUPS:
        return None
    observed = Variances(ASSUMED_CASE_SD**2, ASSUMED_TRAINING_SD**2, groups / cases, folds)
    return observed.power_reach(cases, seeds)


def decidable_text(margin: float, found: float | None, cases: int, folds: int, seeds: int) -> str:
    """What these cases and trainings can decide, in a line that is shown before training.

    >>> decidable_text(0.05, 0.037, 500, 5, 3)
    '500 cases in 5 folds, 3 seeds: a margin of about 0.037 can be decided; yours is 0.05'
    >>> decidable_text(0.02, 0.059, 500, 5, 1).partition("; ")[2]
    'yours is 0.02, so that "undecided" is likely: more seeds (--seeds), more cases, or a larger --margin'
    """
    count = f"{cases} cases in {folds} folds, {seeds} seed{'s' * (seeds != 1)}"
    if found is None:
        return (
            f"{count}: no margin can be decided, since a verdict needs {SEEDS} trainings (folds times seeds) and "
            f"{GROUPS} groups of cases, such as patients"
        )
    line = f"{count}: a margin of about {number(found)} can be decided; yours is {margin:g}"
    if found <= margin:
        return line
    return f'{line}, so that "undecided" is likely: more seeds (--seeds), more cases, or a larger --margin'
