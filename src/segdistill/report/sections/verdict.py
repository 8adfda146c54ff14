"""Did distillation help? The rule, and every student against its baselines at equal steps and at equal time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from segdistill.metrics.cases import find_column
from segdistill.report.charts import forest_plot
from segdistill.report.context import Context
from segdistill.report.opening import outcome_text
from segdistill.report.sections import Values, register_report_section
from segdistill.stats.comparison import family_of
from segdistill.stats.lesions import LesionTable
from segdistill.stats.verdict import KINDS, LEVEL, SEEDS, Verdict


@register_report_section("verdict", "Did distillation help?", template="verdict.html", order=10)
def verdict(context: Context) -> Values:
    """All students against the same networks without teachers."""
    if not context.is_distilled:
        return None
    return verdict_values(context.all_verdicts) | {"guards": _guards(context)}


def _guards(context: Context) -> list[tuple[str, list[str], list[str], str]]:
    """Of every student what was expected before training, with the reasons, and what came of it."""
    rows = []
    for network in context.variants:
        found = [stage.guard for stage in network.trainings if stage.guard is not None]
        outlooks = list(dict.fromkeys(str(guard.outlook) for guard in found))
        reasons = list(dict.fromkeys(reason for guard in found for reason in guard.reasons))
        if found:
            rows.append((network.name, outlooks, reasons, outcome_text(context, network)))
    return rows


@register_report_section("external", "Tables from elsewhere", template="external.html", order=12)
def external(context: Context) -> Values:
    """All networks on each table from elsewhere, which nothing was trained or selected on."""
    return {"tables": context.external} if context.external else None


@register_report_section("lesions", "Missed lesions and outlines", template="lesions.html", order=18)
def lesions(context: Context) -> Values:
    """Lesions that are missed, apart from how well the others are outlined, by size."""
    return lesion_values(context.lesions) if context.lesions else None


def lesion_values(tables: Sequence[LesionTable]) -> dict[str, Any]:
    """For lesions.html: a table of all cases and of each third by size; none where no case has something to find."""
    return {"lesion_tables": tables, "lesion_head": lambda key: find_column(key).head}


def verdict_values(comparisons: Sequence[Verdict]) -> dict[str, Any]:
    """For verdicts.html: the rule, and a forest plot and a table for each kind of baseline."""
    families = []
    places = list(dict.fromkeys(["", *(c.tested_on for c in comparisons)]))  # home first

    def order(c: Verdict) -> tuple[int, bool, bool]:
        same_student, at_steps = family_of(c)
        return places.index(c.tested_on), not same_student, not at_steps

    for (_, other_network, _), members in groupby(sorted(comparisons, key=order), key=order):
        shown = list(members)
        names, kinds = dict.fromkeys(c.baseline for c in shown), {c.kind for c in shown}
        title = f"Against {', '.join(names)}"
        title += shown[0].place
        title += f" {KINDS[shown[0].kind]}" if not other_network and len(kinds) == 1 and kinds != {""} else ""
        chart = forest_plot(shown, title, headed=False)
        families.append({"title": title, "chart": chart, "rows": shown})
    return {
        "families": families,
        "kinds": KINDS,
        "rows": [c for c in comparisons if c.smallest_text or c.not_worse_text or c.needed_text],
        "folds": max((c.folds for c in comparisons), default=1),
        "margin": comparisons[0].margin if comparisons else None,
        "default_margin": comparisons[0].default_margin if comparisons else None,
        "seeds": SEEDS,
        "level": LEVEL,
        "has_own_baseline": any(c.same_student for c in comparisons),
    }
