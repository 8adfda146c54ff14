"""Results of a cross-validation: mean and standard deviation over its folds, and the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from segdistill.metrics.cases import CaseResult, find_column
from segdistill.records import Summary
from segdistill.report.render import render
from segdistill.report.sections.verdict import lesion_values, verdict_values
from segdistill.stats.lesions import lesion_tables
from segdistill.stats.text import number
from segdistill.stats.verdict import Verdict, sentence_of

FoldSummary = dict[str, dict[str, dict[str, Any]]]
"""Group of cases -> metric -> mean, sd, n (cases) and folds (fold -> value)."""


NORMAL_HEADS = {"false_positive_rate": "Share with any false positive", "area": "Share of the image marked"}


def over_folds(summaries: Mapping[int, Summary], same_cases: bool = False) -> FoldSummary:
    """Mean and sample standard deviation over folds of every group of cases and metric.

    Args:
        summaries: fold, counted from 1 -> its summary.
        same_cases: whether all folds were tested on the same cases, which then count once.

    Returns:
        Per group ("all", classes, "site NAME", "normal") and metric {"mean", "sd", "n", "folds"}: the mean of the
        folds' means (every fold has the same weight), its standard deviation (None for one fold), the cases of all
        folds, and the value of each fold that has one.

    >>> from segdistill.records import Interval
    >>> made = {k: Summary({"dice": Interval(value, None, None, 10)}) for k, value in ((1, 0.7), (2, 0.8))}
    >>> found = over_folds(made)["all"]["dice"]
    >>> round(found["mean"], 3), round(found["sd"], 4), found["n"], found["folds"]
    (0.75, 0.0707, 20, {'1': 0.7, '2': 0.8})
    """
    groups = {
        fold: one.named() | ({"normal": one.normal} if one.normal else {}) for fold, one in summaries.items()
    }
    places = dict.fromkeys(
        (group, metric) for one in groups.values() for group, scores in one.items() for metric in scores
    )
    found: FoldSummary = {}
    for group, metric in places:
        values = {fold: one[group][metric] for fold, one in groups.items() if metric in one.get(group, {})}
        means = {str(fold): value.mean for fold, value in values.items() if value.mean is not None}
        found.setdefault(group, {})[metric] = {
            "mean": fmean(means.values()) if means else None,
            "sd": stdev(means.values()) if len(means) > 1 else None,
            "n": (max if same_cases else sum)(
                [value.n for value in values.values() if value.mean is not None] or [0]
            ),
            "folds": means,
        }
    return found


def mean_and_spread(value: Mapping[str, Any], digits: int = 3) -> str:
    """Mean and standard deviation in a few characters.

    >>> mean_and_spread({"mean": 0.75, "sd": 0.0707}), mean_and_spread({})
    ('0.750 ± 0.071', '—')
    """
    if value.get("mean") is None:
        return "—"
    spread = f" ± {number(value['sd'], digits)}" if value.get("sd") is not None else ""
    return number(value["mean"], digits) + spread


def render_folds(
    title: str,
    about: str,
    folds: int,
    finished: Sequence[int],
    stages: Mapping[str, FoldSummary],
    external: Mapping[str, Mapping[str, FoldSummary]],
    weights: Sequence[str] = (),
    *,
    verdicts: Sequence[Verdict] = (),
    results: Mapping[str, Sequence[CaseResult]] | None = None,
    expected: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page of a cross-validation as HTML; it links to the reports of the folds, which lie beside it.

    Args:
        title: of the recipe.
        about: of the recipe.
        folds: how many there are.
        finished: those whose results are here.
        stages: name -> summary over folds.
        external: name of a table from elsewhere -> name of a stage -> summary over folds on it.
        weights: which weights were judged in the folds.
        verdicts: over all folds and seeds, at home and on tables from elsewhere.
        results: variant -> results of all its trainings, of all folds.
        expected: student -> what was expected of its distillation before each training (`records.GuardRecord`).

    Raises:
        MissingExtra: Jinja2, or with verdicts matplotlib, is not installed.

    >>> "1 of 2 folds" in render_folds("demo", "", 2, [1], {}, {})
    True
    """
    names = dict.fromkeys(group for summary in stages.values() for group in summary)
    groups = {
        group: {name: summary[group] for name, summary in stages.items() if group in summary}
        for group in names
    }
    return render(
        "folds.html",
        title=title,
        about=about,
        finished=finished,
        weights=weights,
        groups=groups,
        external={
            table: {name: summary.get("all", {}) for name, summary in by_stage.items()}
            for table, by_stage in external.items()
        },
        mean_and_spread=mean_and_spread,
        head_of=lambda metric: NORMAL_HEADS.get(metric) or find_column(metric).head,
        sentence=sentence_of(verdicts) if verdicts else "",
        expected=[_expected_line(name, outlooks, verdicts) for name, outlooks in (expected or {}).items()],
        **lesion_values(lesion_tables(results or {})),
        **(verdict_values(verdicts) if verdicts else {}) | {"folds": folds},
    )


def _expected_line(student: str, outlooks: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """What was expected of a student before training, and what came of it.

    >>> _expected_line("kd", ["likely", "likely", "unknown"], [])
    'kd: before training, a gain from distillation was likely (2 trainings), unknown (1); outcome: not compared.'
    """
    counts = [(outlook, outlooks.count(outlook)) for outlook in dict.fromkeys(outlooks)]
    told = [f"{outlook} ({count}{' trainings' * (not k)})" for k, (outlook, count) in enumerate(counts)]
    outcome = [f"{v.words}{v.place}" for v in verdicts if v.variant == student]
    return (
        f"{student}: before training, a gain from distillation was {', '.join(told)}; "
        f"outcome: {', '.join(outcome) or 'not compared'}."
    )
