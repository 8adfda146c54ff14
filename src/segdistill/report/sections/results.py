"""The report's scores: tables per class and site, pooled scores, training curves, and Dice case by case."""

from __future__ import annotations

from segdistill.imaging.contours import class_colour
from segdistill.metrics.base import LENGTH
from segdistill.metrics.cases import CaseResult, columns_of
from segdistill.metrics.pooled import POOLED
from segdistill.metrics.surfaces import MISSED
from segdistill.report.charts import case_distribution, training_curves
from segdistill.report.context import Context
from segdistill.report.sections import Values, register_report_section
from segdistill.report.sections.cases import example_ids


@register_report_section("results", "Results", template="results.html", order=20)
def results(context: Context) -> Values:
    """One table per class, all cases first: every metric with its interval; then pooled scores and normal images."""
    return {
        "groups": list(dict.fromkeys(name for n in context.variants for name in n.summary.groups())),
        "pooled": POOLED,
        "volumes": any(r.is_volume for n in context.trainings for r in n.stage.results),
        "notes": _notes(context),
    }


def _notes(context: Context) -> str:
    """What the metrics' numbers mean; of several classes what was done with the distances of those that were missed."""
    notes = " ".join(dict.fromkeys(column.metric.note for column in context.columns if column.metric.note))
    results = [r for n in context.trainings for r in n.stage.results]
    lengths = {column.metric.name for column in context.columns if column.metric.unit == LENGTH}
    several = [each for r in results for each in r.structures.values()]
    missed = [each for each in several if each.reference_area and not each.predicted_area]
    if not several or any(lengths & each.metrics.keys() for each in missed):
        return notes
    rule = (
        "one that was missed altogether has none and is counted" if missed else "none was missed altogether"
    )
    return notes.replace(MISSED, f"of several structures {rule}")


@register_report_section("structures", "Class by class", template="structures.html", order=25)
def structures(context: Context) -> Values:
    """Every metric of each class of the masks, one table each; left away where masks have one kind of foreground."""
    names = list(dict.fromkeys(name for network in context.variants for name in network.summary.structures))
    colours = {name: class_colour(k) for k, name in enumerate(names, start=1)}
    return {"colours": colours} if names else None


@register_report_section("sites", "Site by site", template="sites.html", order=40)
def sites(context: Context) -> Values:
    """Every metric site by site, one table each; left away where there are fewer than two sites."""
    names = list(dict.fromkeys(site for network in context.variants for site in network.summary.sites))
    return {"names": names} if names else None


@register_report_section("distribution", "Distribution of Dice", template="distribution.html", order=50)
def distribution(context: Context) -> Values:
    """One chart per class: every case a dot, one line per network."""
    found = {n.name: [r for r in n.stage.results if not r.normal] for n in context.variants}
    labels = sorted({r.label for rows in found.values() for r in rows if r.label})
    charts = []
    for label in ["", *(labels if len(labels) > 1 else [])]:
        values = {
            name: [r.metrics["dice"] for r in rows if not label or r.label == label]
            for name, rows in found.items()
        }
        if any(values.values()):
            charts.append(case_distribution(values, label or "all cases"))
    for structure in dict.fromkeys(name for rows in found.values() for r in rows for name in r.structures):
        values = {
            name: [known["dice"] for r in rows if "dice" in (known := r.structures[structure].metrics)]
            for name, rows in found.items()
        }
        charts.append(case_distribution(values, structure))
    return {"charts": charts}


@register_report_section("curves", "Training curves", template="curves.html", order=100)
def curves(context: Context) -> Values:
    """Loss and its parts, validation Dice and learning rate, network by network; left away for a model file."""
    if context.report.settings_of == "model file":  # it holds none
        return None
    return {
        "charts": {n.name: list(training_curves(n.stage.curves, n.name).values()) for n in context.trainings}
    }


@register_report_section("table", "All cases", template="table.html", order=90)
def table(context: Context) -> Values:
    """Every case in one table that sorts by a click on a head; a case with a stored picture opens it."""
    scored = [network for network in context.variants if network.stage.results]
    if context.headline is None or not scored:
        return {"rows": []}
    first = context.headline if context.headline.stage.results else scored[-1]

    def place(r: CaseResult) -> tuple[bool, float, str]:
        return r.normal, -r.predicted_area if r.normal else r.metrics["dice"], r.case

    return {
        "rows": sorted(first.stage.results, key=place),
        "first": first,
        "dice": {
            n.name: {r.case: r.metrics["dice"] for r in n.stage.results if not r.normal} for n in scored
        },
        "others": [column for column in columns_of(first.stage.results) if column.key != "dice"],
        "blocks": example_ids(context.report),
        "volumes": any(r.is_volume for r in first.stage.results),
        "words": {
            head: key
            for head, key in (("Class", "label"), ("Site", "site"))
            if any(getattr(r, key) for r in first.stage.results)
        },
    }
