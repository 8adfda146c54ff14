"""What the scores rest on: cost, settings, data and split, environment, limits."""

from __future__ import annotations

from segdistill.report.data import Report, teachers_table
from segdistill.report.html import bullet_list, table, text
from segdistill.report.sections.headline import stage_name, summary_of
from segdistill.report.sections.verdict import find_verdicts
from segdistill.stats.text import NOT_MEASURED, amount, duration, quantity

RESEARCH_ONLY = (
    "Research use only. This is not a medical device: it must not be used for diagnosis, treatment, "
    "or any decision about a patient."
)
_SPLITS = ("train", "val", "test")
_TRAINING = {
    "cases": "Training cases",
    "epochs": "Epochs",
    "steps": "Steps",
    "best_epoch": "Best epoch",
    "seconds": "Training time",
    "stopped": "Ended by",
}


def cost_section(report: Report) -> str:
    """Size and speed of every network, and what its training took."""
    if not report.stages:
        return "<p>none</p>"
    rows: list[list[str]] = []
    training: list[list[str]] = []
    machines: dict[str, None] = {}
    columns = {
        key: head
        for key, head in _TRAINING.items()
        if key == "seconds" or any(stage.training.get(key) not in (None, "") for stage in report.stages)
    }
    for stage in report.stages:
        cost, took = stage.cost, stage.training
        exact = cost.get("parameters")
        count = f"{text(amount(exact))}<small>{exact:,}</small>" if isinstance(exact, int) else NOT_MEASURED
        operations = text(amount(cost.get("macs"), "MAC"))
        operations += f"<small>at {text(cost['input'])}</small>" if cost.get("input") else ""
        time = text(quantity(cost.get("ms"), "ms"))
        time += (
            f"<small>{text(cost['engine'])}</small>"
            if cost.get("engine") and cost.get("ms") is not None
            else ""
        )
        rows.append(
            [stage_name(report, stage), count, operations, text(quantity(cost.get("size_mb"), "MB")), time]
        )
        if cost.get("machine") and cost.get("ms") is not None:
            machines[str(cost["machine"])] = None
        shown = {**took, "seconds": duration(took.get("seconds"))}
        cells = ["—" if shown.get(key) in (None, "") else text(shown[key]) for key in columns]
        training.append([stage_name(report, stage), *cells])
    heads = ["Network", "Parameters", "Operations", "Size", "Time per image"]
    sizes = ", ".join(dict.fromkeys(s.cost.get("size_of", "weights as float32") for s in report.stages))
    where = text("; ".join(machines)) if machines else NOT_MEASURED
    parts = [
        table(heads, rows),
        f'<p class="soft">Operations: multiply-accumulates of one image. Size: {text(sizes)}. '
        f"Time measured on: {where}.</p>",
    ]
    if any(stage.training for stage in report.stages):
        parts.append("<h3>Training</h3>" + table(["Network", *columns.values()], training))
        told = [
            f"{stage.name}: {line}" for stage in report.stages for line in stage.training.get("warnings", ())
        ]
        parts += [f'<p class="warn">{text(line)}</p>' for line in told]
    return "\n".join(parts)


def settings_section(report: Report) -> str:
    """What the recipe says, as given; the file with every default is named."""
    tasks = [[stage_name(report, s), text(s.role), text(s.task or "—")] for s in report.stages]
    stages = table(["Stage", "Role", "Task"], tasks, "left") if tasks else ""
    if not report.settings.strip():
        return stages + "<p>The recipe was not recorded.</p>"
    lines = report.settings.rstrip("\n")
    count = lines.count("\n") + 1
    opened = " open" if count <= 60 else ""
    what, rest = "What the model file says of itself", ""
    if report.settings_of == "recipe":
        what = "What the recipe sets"
        rest = "<p>All else is at its default: <code>recipe.yaml</code> in the folder of the run has every setting.</p>"
    summary = f"<summary>{what}, {count} lines</summary>"
    return f"{stages}<details{opened}>{summary}<pre>{text(lines)}</pre></details>{rest}"


def data_section(report: Report) -> str:
    """Counts per class and split, leaks, near-duplicates, what the check found, the hash, and who taught whom."""
    data = report.data
    parts = []
    if data.counts:
        splits = [s for s in _SPLITS if s in data.counts] + sorted(s for s in data.counts if s not in _SPLITS)
        labels = sorted({label for by_label in data.counts.values() for label in by_label})
        rows = [
            _count_row(text(label or "no class"), [data.counts[s].get(label, 0) for s in splits])
            for label in labels
        ]
        if len(labels) > 1:
            rows.append(_count_row("All cases", [sum(data.counts[s].values()) for s in splits]))
        if data.groups:
            groups = [data.groups.get(s, 0) for s in splits]
            rows.append(["Groups", *(str(g) for g in groups), "—" if len(splits) > 1 else str(groups[0])])
        parts.append(table(["Class", *(text(s or "no split") for s in splits), "Total"], rows))
    else:
        parts.append("<p>Counts: not recorded.</p>")
    facts = [
        ["Dataset", text(data.name or "not named")],
        ["Split", text(data.split or "not described")],
        ["Table hash", f"<code>{text(data.hash)}</code>" if data.hash else "not recorded"],
        ["Evaluated on", text(report.evaluated_on or "all cases")],
        *([["Network trained on", text(data.trained_on)]] if data.trained_on else []),
        ["Left out: no reference", str(len(data.skipped)) if data.skipped else "none"],
    ]
    parts.append(table(["Fact", "Value"], facts, "left"))
    parts.append(teachers_table(data.taught))
    one_split = "nothing to compare: all cases are of one split" if len(data.counts) == 1 else "not checked"
    for title, lines, without in (
        ("Leaks between splits", data.leaks, one_split),
        ("Near-duplicates", data.near_duplicates, "not checked"),
    ):
        parts.append(f"<h3>{title}{f': {len(lines)}' if lines else ''}</h3>")
        parts.append(
            f"<p>{without}</p>"
            if lines is None
            else bullet_list(list(lines))
            if lines
            else "<p>none found</p>"
        )
    if data.findings:
        parts.append(
            f"<h3>Findings of the data check: {len(data.findings)}</h3>" + bullet_list(list(data.findings))
        )
    return "\n".join(parts)


def _count_row(name: str, counts: list[int]) -> list[str]:
    return [name, *(str(c) for c in counts), str(sum(counts))]


def environment_section(report: Report) -> str:
    """Versions, machine, threads, seed and date; and what each network was trained on, where that was recorded."""
    rows = [[text(name), text(value)] for name, value in report.environment.items()]
    rows += [
        ["Bootstrap", f"2,000 resamples of groups, seed {report.seed}"],
        ["Date", text(report.date or "not recorded")],
    ]
    parts = [table(["What", "Value"], rows, "left")]
    recorded = [stage for stage in report.stages if stage.environment]
    if recorded:
        names = list(dict.fromkeys(name for stage in recorded for name in stage.environment))
        apart = [name for name in names if len({str(s.environment.get(name, "")) for s in recorded}) > 1]
        other = [
            name
            for name in names
            if name not in apart
            and str(recorded[0].environment[name]) != str(report.environment.get(name, ""))
        ]
        parts.append("<h3>What the networks were trained on</h3>")
        if not apart and not other:
            parts.append("<p>All on what is listed above.</p>")
        else:
            heads = ["Network", *(text(name) for name in [*apart, *other])]
            cells = [
                [stage_name(report, s), *(text(s.environment.get(name, "—")) for name in [*apart, *other])]
                for s in recorded
            ]
            parts.append(table(heads, cells, "left") + "<p>All else as listed above.</p>")
    return "\n".join(parts)


def known_limits(report: Report) -> list[str]:
    """The limits that can be read off the report itself, and those given; plain text, "research use only"
    first.

    >>> known_limits(Report("none"))[0][:17]
    'Research use only'
    """
    lines = [RESEARCH_ONLY]
    stage = report.headline()
    if stage is not None:
        summary = summary_of(stage, report.seed)
        count = summary["all"]["dice"]["n"]
        if count < 30:
            lines.append(f"Only {count} evaluated cases have something to find: the intervals are rough.")
        if "normal" not in summary:
            lines.append("No normal images were evaluated: how often it marks healthy tissue is not known.")
    sites = {r.site for s in report.stages for r in s.results if r.site}
    if len(sites) < 2:
        lines.append(
            "Evaluated on the images of one source: other scanners, sites and populations may differ."
        )
    if any(r.unit == "px" for s in report.stages for r in s.results):
        lines.append("The size of a pixel is not known for all images: their distances are in pixels.")
    if report.data.leaks:
        lines.append(f"{len(report.data.leaks)} leaks between the splits make the scores too kind.")
    elif report.data.leaks is None and len(report.data.counts) != 1:
        lines.append("Leaks between the splits were not checked.")
    if any(min(c.seeds, c.baseline_seeds) < 2 for c in find_verdicts(report)):
        lines.append("Networks were trained once: the spread between training seeds is not known.")
    return [*lines, *report.limits]


def limits_section(report: Report) -> str:
    """The limits as a list."""
    return bullet_list(known_limits(report))
