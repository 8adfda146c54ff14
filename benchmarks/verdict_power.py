"""How often verdicts are wrong without an effect, and how often they find one: simulated studies.

Studies have the spread that was observed on BUSI: differences of one case between two trainings have a standard
deviation of 0.12, of which a part belongs to the patient and to the case and the rest to the training; a training as
a whole is lucky or not (0.01), and so is the training set of a fold (0.005). Compared are a hold-out of 96 cases with
three seeds, and five folds of 647 cases with one and with two seeds. The figure is the largest rate of wrong verdicts
("helps" or "hurts") without an effect, the bar 5 % and two standard errors of the simulation.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from common import arguments, log, machine, report
from segdistill.stats.folds import CaseScore, TrainingKey, compare_rows
from segdistill.stats.verdict import HELPS, HURTS, Verdict

CASES_OF_A_GROUP = 1.3
PATIENT, CASE, TRAINED = 0.05, 0.07, 0.083  # standard deviations; together 0.12
TRAINING, TRAINING_SET = 0.01, 0.005


class Design(NamedTuple):
    """A study: its cases, its folds (1: a hold-out), its seeds, and the two kinds of luck."""

    cases: int
    folds: int
    seeds: int
    training: float = TRAINING
    training_set: float = TRAINING_SET


DESIGNS = {
    "hold-out, 96 cases, 3 seeds": Design(96, 1, 3),
    "hold-out, 96 cases, 3 seeds, double luck": Design(96, 1, 3, 0.02, 0.01),
    "5 folds, 647 cases, 1 seed": Design(647, 5, 1),
    "5 folds, 647 cases, 2 seeds": Design(647, 5, 2),
    "5 folds, 647 cases, 2 seeds, double luck": Design(647, 5, 2, 0.02, 0.01),
}


def study(rng: np.random.Generator, design: Design, effect: float) -> Verdict:
    """One study in which the variant is better by `effect`: its verdict."""
    groups = np.sort(rng.integers(round(design.cases / CASES_OF_A_GROUP), size=design.cases))
    share = rng.normal(0, PATIENT, design.cases)[groups] + rng.normal(0, CASE, design.cases)
    fold_of = rng.integers(design.folds, size=design.cases)[groups] + 1  # groups stay whole
    sets = rng.normal(0, design.training_set, design.folds + 1)
    a: dict[TrainingKey, list[CaseScore]] = {}
    b: dict[TrainingKey, list[CaseScore]] = {}
    for fold in range(1, design.folds + 1):
        inside = np.flatnonzero(fold_of == fold)
        for seed in range(design.seeds):
            luck = rng.normal(0, design.training)
            value = effect + sets[fold] + luck + share[inside] + rng.normal(0, TRAINED, len(inside))
            key = TrainingKey(seed, fold if design.folds > 1 else None)
            pairs = [(f"c{case}", int(groups[case])) for case in inside]
            a[key] = [CaseScore(*pair, float(v)) for pair, v in zip(pairs, value, strict=True)]
            b[key] = [CaseScore(*pair, 0.0) for pair in pairs]
    return compare_rows(a, b, variant="variant", baseline="baseline", metric="dice", default_margin=0.02)


def rates(design: Design, effect: float, studies: int, seed: int) -> dict[str, Any]:
    """The share of each outcome, of "not worse", and of intervals over cases alone that exclude zero."""
    rng = np.random.default_rng([seed, round(1000 * effect) % 997])
    outcomes: Counter[str] = Counter()
    not_worse = cases_alone = 0
    for _ in range(studies):
        found = study(rng, design, effect)
        outcomes[found.outcome] += 1
        not_worse += found.not_worse
        low, high = found.difference.low or 0.0, found.difference.high or 0.0
        cases_alone += low > 0 or high < 0
    return {
        **{name: round(count / studies, 4) for name, count in outcomes.items()},
        "not worse by 0.02": round(not_worse / studies, 4),
        "interval over cases alone excludes 0": round(cases_alone / studies, 4),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--studies", type=int, default=1000, help="of each design without an effect; a third as many with one"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    for name, design in DESIGNS.items():
        table[name] = {
            f"{effect:+.2f}": rates(
                design, effect, args.studies if effect == 0 else max(1, args.studies // 3), args.seed
            )
            for effect in (-0.02, 0.0, 0.01, 0.02)
        }
        log(f"{name}: {table[name]}")
    wrong = {name: row["+0.00"].get(HELPS, 0.0) + row["+0.00"].get(HURTS, 0.0) for name, row in table.items()}
    figure = max(wrong.values())
    bar = round(0.05 + 2 * float(np.sqrt(0.05 * 0.95 / args.studies)), 4)
    details = {
        "wrong": {name: round(rate, 4) for name, rate in wrong.items()},
        "power at +0.02": {name: row["+0.02"].get(HELPS, 0.0) for name, row in table.items()},
        "wrongly not worse": {name: row["-0.02"]["not worse by 0.02"] for name, row in table.items()},
        "rates": table,
        "studies": args.studies,
        "spread": {
            "patient": PATIENT,
            "case": CASE,
            "trained": TRAINED,
            "training": TRAINING,
            "set": TRAINING_SET,
        },
        "machine": machine(),
    }
    report("verdict_power", figure, bar, figure <= bar, details, args.json)


if __name__ == "__main__":
    main()
