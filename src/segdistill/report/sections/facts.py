"""What the scores rest on: cost, settings, data and split, environment, limits."""

from __future__ import annotations

from segdistill.report.context import Context
from segdistill.report.sections import Values, register_report_section


@register_report_section("cost", "Cost", template="cost.html", order=110)
def cost(context: Context) -> Values:
    """Size and speed of every network, and what its training took."""
    costs = [network.stage.cost for network in context.trainings]
    return {
        "sizes": list(dict.fromkeys(c.size_of for c in costs)),
        "machines": list(dict.fromkeys(c.machine for c in costs if c.ms is not None and c.machine)),
    }


@register_report_section("data", "Data and split", template="data.html", order=120)
def data(context: Context) -> Values:
    """Counts per class and split, leaks, near-duplicates, findings of the check, the hash, and who taught whom.

    A row of `taught` is of one teacher; students that it taught alike, such as the seeds of one variant, share it.
    """
    own = context.report.data
    variant = {stage.name: network.name for network in context.variants for stage in network.trainings}
    students: dict[tuple[str, int | None, int, int | None], dict[str, None]] = {}
    for taught in own.taught:
        alike = (taught.teacher, taught.learned, taught.taught, taught.overlap)
        students.setdefault(alike, {})[variant.get(taught.student, taught.student)] = None
    return {
        "data": own,
        "labels": sorted({label for by_label in own.counts.values() for label in by_label}),
        "taught": [(*alike, ", ".join(names)) for alike, names in students.items()],
    }


@register_report_section("settings", "Settings", template="settings.html", order=130)
def settings(context: Context) -> Values:
    """What the recipe sets, as given; or the metadata of a model file."""
    return {"text": context.report.settings.rstrip("\n")}


@register_report_section("environment", "Environment", template="environment.html", order=140)
def environment(context: Context) -> Values:
    """Versions, machine, threads, seed and date; and what each network was trained on, where that was recorded."""
    recorded = [network for network in context.trainings if network.stage.environment]
    found = [network.stage.environment for network in recorded]

    def differs(name: str) -> bool:
        """Between the networks, or from what the report lists for all."""
        values = {str(own.get(name, "")) for own in found}
        return len(values) > 1 or values != {str(context.report.environment.get(name, ""))}

    names = dict.fromkeys(name for own in found for name in own)
    return {"recorded": recorded, "different": [name for name in names if differs(name)]}


@register_report_section("limits", "Limits", template="limits.html", order=150)
def limits(context: Context) -> Values:
    """The limits as a list."""
    return {"lines": context.limits}
