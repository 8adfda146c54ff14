"""Missed lesions apart from outlines: of all cases, and by the size of what is to be found."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from segdistill.metrics.cases import CaseResult
from segdistill.metrics.lesions import MISSED_BELOW
from segdistill.records import Interval
from segdistill.stats.bootstrap import bootstrap_mean, bootstrap_rate
from segdistill.stats.subgroups import subgroups

COMPONENTS = ("lesions_found", "lesions_matched", "false_positive_components")
"""What is shown where it was measured."""


@dataclass(frozen=True)
class LesionScores:
    """Of one network (all its trainings) on some cases, with intervals over groups.

    Attributes:
        missed: share of cases with a Dice below 0.3.
        outline: mean Dice of the others.
        components: the metrics of COMPONENTS, means over cases; those that were measured on all of them.
    """

    missed: Interval
    outline: Interval
    components: Mapping[str, Interval]


@dataclass(frozen=True)
class LesionTable:
    """Some of the cases: `title` in words, their number, and the scores of every network by its name."""

    title: str
    cases: int
    rows: Mapping[str, LesionScores]


def lesion_scores(results: Sequence[CaseResult], seed: int = 0) -> LesionScores:
    """The scores of one network.

    Args:
        results: of its trainings, all together; a case that several trainings were tested on is there several times,
            and is drawn with all of them.
        seed: of the bootstrap.

    >>> rows = [CaseResult(str(k), str(k), metrics={"dice": k / 5}, reference_area=0.1) for k in range(5)]
    >>> found = lesion_scores(rows)
    >>> found.missed.mean, round(found.outline.mean, 3), dict(found.components)
    (0.4, 0.6, {})
    """
    rows = [r for r in results if not r.normal]
    groups: list[Hashable] = [r.group for r in rows]
    lost = [r.metrics["dice"] < MISSED_BELOW for r in rows]
    outlined = [r for r, one in zip(rows, lost, strict=True) if not one]
    return LesionScores(
        bootstrap_rate(lost, groups, seed=seed),
        bootstrap_mean([r.metrics["dice"] for r in outlined], [r.group for r in outlined], seed=seed),
        {
            name: bootstrap_mean([r.metrics[name] for r in rows], groups, seed=seed)
            for name in COMPONENTS
            if rows and all(name in r.metrics for r in rows)
        },
    )


def lesion_tables(networks: Mapping[str, Sequence[CaseResult]], seed: int = 0) -> list[LesionTable]:
    """A table of all cases, and one for each third of them by the share of the image that the reference covers.

    Args:
        networks: name -> results of all its trainings, on the same cases.
        seed: of the bootstrap.

    >>> rows = [CaseResult(str(k), str(k), metrics={"dice": 0.8}, reference_area=0.1 * (k + 1)) for k in range(6)]
    >>> [(table.title, table.cases) for table in lesion_tables({"net": rows})][:2]
    [('All cases', 6), ('Small, up to 26.7 %', 2)]
    """
    first = next(iter(networks.values()), ())
    once = list({r.case: r for r in first if not r.normal}.values())
    parts = [("All cases", once)] if once else []
    parts += [(part.name.capitalize(), list(part.cases)) for part in subgroups(once) if part.kind == "size"]
    tables = []
    for title, cases in parts:
        names = {r.case for r in cases}
        own = {name: [r for r in rows if r.case in names] for name, rows in networks.items()}
        shown = {name: lesion_scores(rows, seed) for name, rows in own.items() if rows}
        tables.append(LesionTable(title, len(cases), shown))
    return tables
