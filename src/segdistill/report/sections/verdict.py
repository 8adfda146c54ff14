"""The report's answer to the one question: did distillation help? With the numbers that carry it, or why it is open."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import yaml

from segdistill.report.charts import forest_plot
from segdistill.report.data import Report, StageReport
from segdistill.report.html import table, text
from segdistill.stats.comparison import (
    Training,
    Variant,
    compare_methods,
    family_of,
    group_variants,
    lesions,
    own_baselines,
    split_name,
)
from segdistill.stats.text import number, signed
from segdistill.stats.verdict import HELPS, HURTS, LEVEL, NO_EVIDENCE, SEEDS, Comparison

AGAIN = "run the same command again with"
_SHARED = ("model", "loss", "labels", "sites", "fit")  # what a student has in common with itself alone

Stages = Mapping[str, Mapping[str, Any]]
"""Name -> what the recipe says of a stage."""


def next_steps(report: Report, student: StageReport, kinds: Collection[str], seeds: int) -> list[str]:
    """One sentence or two for each thing that is missing; `commands` and `lines for the recipe` in backticks.

    Args:
        report: of a distillation; without a recipe in its `settings` it is only said what is missing.
        student: the stage that is asked about.
        kinds: of the baselines, its network without distillation, that it was compared with.
        seeds: the number of trainings of the student, or of these baselines if they have fewer.

    >>> recipe = "stages: {s: {role: student}, longer: {role: baseline, equal_time_to: s}}"
    >>> report = Report("r", [StageReport("s", "student")], settings=recipe)
    >>> next_steps(report, report.stages[0], {"equal steps"}, 3)[0].partition(": ")[2]
    'run the same command again with `--stages longer`.'
    """
    stages = _stages(report)
    steps = []
    if "equal steps" not in kinds:
        steps.append(f"The baseline at equal steps was not trained{_alone(report, student, stages, False)}.")
    if not {"equal time", "more time"} & set(kinds):
        steps.append(
            f"The baseline at equal wall-clock was not trained{_alone(report, student, stages, True)}."
        )
    if seeds < SEEDS:
        steps.append(
            f"A verdict needs {SEEDS} seeds, here {_are(seeds)}{_more_seeds(report, student, stages)}."
        )
    return steps


def _stages(report: Report) -> Stages:
    try:
        content = yaml.safe_load(report.settings) if report.settings_of == "recipe" else None
    except yaml.YAMLError:
        return {}
    stages = content.get("stages") if isinstance(content, dict) else None
    return stages if isinstance(stages, dict) else {}


def _are(seeds: int) -> str:
    return "is one" if seeds == 1 else f"are {seeds or 'none'}"


def _alone(report: Report, student: StageReport, stages: Stages, timed: bool) -> str:
    """How to get the student without distillation, given the time that it takes with it, or as many steps."""
    own = stages.get(student.name)
    if own is None:
        return ""
    ready = [
        name
        for name in _untrained(report, stages)
        if _is_alone(stages[name], own) and bool(stages[name].get("equal_time_to")) == timed
    ]
    if ready:
        return f": {AGAIN} `--stages {','.join(ready)}`"
    cell, _ = split_name(student.name)
    if _is_cell(own):
        name, told = ("baseline_equal_time", f"{{equal_time_to: {cell}}}") if timed else ("baseline", "{}")
        return f": {AGAIN} `--set 'matrix.methods.{name}={told}'`"
    name = f"{student.name}_equal_time" if timed else f"{student.name}_alone"
    stage = {"role": "baseline"} | {key: own[key] for key in _SHARED if key in own}
    stage |= {"equal_time_to": student.name} if timed else {}
    told = yaml.safe_dump({name: stage}, default_flow_style=True, sort_keys=False, width=10_000)
    return f": add this stage to the recipe, and {AGAIN} `--stages {name}`: `{told.strip().removeprefix('{')[:-1]}`"


def _more_seeds(report: Report, student: StageReport, stages: Stages) -> str:
    """How to train the student and itself alone more often."""
    own, (cell, _) = stages.get(student.name), split_name(student.name)
    if own is None:
        return ""
    if _is_cell(own):
        if len(_of_cell(stages, cell)) < SEEDS:
            return f": {AGAIN} `--set 'matrix.seeds={list(range(SEEDS))}'`"
        waiting = [
            name
            for name in _untrained(report, stages)
            if split_name(name)[0] == cell or _is_alone(stages[name], own)
        ]
        return f": {AGAIN} `--stages {','.join(waiting)}`" if waiting else ""
    others = [report.seed + k for k in range(1, SEEDS)]
    folders = [f"runs/{report.title}-{seed}" for seed in others]
    commands = " and with ".join(
        f"`--set seed={seed} --out {folder}`" for seed, folder in zip(others, folders, strict=True)
    )
    return f": run the same command with {commands}, then `segdistill compare RUN {' '.join(folders)}`"


def _untrained(report: Report, stages: Stages) -> Iterable[str]:
    reported = {stage.name for stage in report.stages if stage.results}
    return [name for name in stages if name not in reported]


def _is_alone(stage: Mapping[str, Any], student: Mapping[str, Any]) -> bool:
    return stage.get("role") == "baseline" and stage.get("model") == student.get("model")


def _is_cell(stage: Mapping[str, Any]) -> bool:
    return bool(stage.get("may_fail"))  # cells of a matrix have it


def _of_cell(stages: Stages, cell: str) -> list[str]:
    return [name for name in stages if split_name(name)[0] == cell]


NO_BASELINE = (
    "No student without distillation was trained and evaluated on the same cases: "
    "no gain from distillation can be claimed."
)
KINDS = {
    "equal steps": "at equal steps",
    "equal time": "at equal wall-clock",
    "more time": "with more wall-clock",
    "": "",
}


def is_distilled(report: Report) -> bool:
    """Whether a student of this report has teachers, so that the question arises.

    >>> is_distilled(Report("none"))
    False
    """
    return any(s.role == "student" and (s.teachers or report.teachers_of(s)) for s in report.stages)


def methods_of(report: Report) -> list[Variant]:
    """The stages of a report with results, seeds of one cell ("student@0", "student@1") together.

    >>> methods_of(Report("none"))
    []
    """
    return group_variants(_training(stage) for stage in report.stages if stage.results)[0]


def _training(stage: StageReport) -> Training:
    cell, seed = split_name(stage.name)
    took = stage.training
    steps = (took.get("epochs") or 0) * (took.get("cases") or 0)  # of one image each: they are only compared
    network = stage.cost.get("parameters")
    return Training(
        cell,
        stage.results,
        seed,
        role=stage.role,
        network="" if network is None else str(network),
        settings=stage.role,
        stage=stage.name,
        source=stage.name,
        steps=steps or None,
        seconds=took.get("seconds"),
        equal_time_to=took.get("equal_time_to") or "",
    )


def find_verdicts(report: Report) -> list[Comparison]:
    """Every student against its own baselines without distillation, or, where it has none, against every baseline, in Dice.

    Stages that were measured on other cases are left out.

    >>> find_verdicts(Report("none"))
    []
    """
    methods = methods_of(report)
    baselines = [m for m in methods if m.first.role == "baseline"]
    alike: dict[tuple[str, ...], list[tuple[Variant, Variant]]] = {}
    for method in (m for m in methods if m.first.role == "student"):
        for baseline in own_baselines(method, baselines) or baselines:
            cases = {tuple(r.case for r in lesions(t)) for m in (method, baseline) for t in m.trainings}
            if len(cases) == 1 and (ids := cases.pop()):
                alike.setdefault(ids, []).append((method, baseline))
    return [
        c for pairs in alike.values() for c in compare_methods(pairs, margin=report.margin, seed=report.seed)
    ]


def headline_verdicts(report: Report) -> list[Comparison]:
    """The verdicts on the report's headline stage; all of them where it has none."""
    found, stage = find_verdicts(report), report.headline()
    names = {m.name for m in methods_of(report) if stage and any(t.source == stage.name for t in m.trainings)}
    return [c for c in found if c.method in names] or found


def verdict_words(comparison: Comparison) -> tuple[str, str]:
    """The verdict as a short sentence, and what carries it, as plain text.

    Only where the baseline is the same network, the sentence is about distillation.
    """
    c = comparison
    if c.same_student:
        short = {
            HELPS: "Distillation helps.",
            HURTS: "Distillation hurts.",
            NO_EVIDENCE: "No evidence that distillation helps or hurts.",
        }[c.verdict]
    else:
        short = {
            HELPS: f"{c.method} is better than {c.baseline}.",
            HURTS: f"{c.method} is worse than {c.baseline}.",
            NO_EVIDENCE: f"No evidence of a difference between {c.method} and {c.baseline}.",
        }[c.verdict]
    if c.not_worse and c.verdict != HELPS:
        short += f" Not worse than by {c.margin:g}."
    at = f" {KINDS[c.kind]}" if KINDS.get(c.kind) else ""
    long = f"{c.method} minus {c.baseline}{at}: {c.numbers}."
    if c.doubts:
        long += f" No claim is made: {'; '.join(c.doubts)}."
    return short, long


def verdict_section(report: Report) -> str:
    """All methods against the student without distillation: forest plot and table, at equal steps and at equal time."""
    if not is_distilled(report):
        return ""
    found = find_verdicts(report)
    if not found:
        return f'<p class="warn">{NO_BASELINE}</p>\n{_missing(report, found)}'
    parts = [verdicts_html(found), _missing(report, found)]
    if not any(c.same_student for c in found):
        parts.insert(0, f'<p class="warn">{NO_BASELINE} The baselines below are other networks.</p>')
    return "\n".join(part for part in parts if part)


def _missing(report: Report, found: Sequence[Comparison]) -> str:
    """What the headline's method lacks for a verdict, and how to get it."""
    students = [m for m in methods_of(report) if m.first.role == "student"]
    stage = report.headline()
    method = next((m for m in students if stage and stage.name in [t.source for t in m.trainings]), None)
    method = method or next(iter(students), None)
    if method is None:
        return ""
    own = [c for c in found if c.same_student and c.method == method.name]
    seeds = min([len(method.trainings), *(c.baseline_seeds for c in own)])
    student = next(s for s in report.stages if s.name == method.first.source)
    steps = next_steps(report, student, {c.kind for c in own}, seeds)
    if not steps:
        return ""
    shown = "".join(f"<li>{_with_code(step)}</li>" for step in steps)
    return f'<p class="soft">What is missing for a verdict on {text(method.name)}:</p><ul class="soft">{shown}</ul>'


def _with_code(line: str) -> str:
    """What stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(line))


def verdicts_html(comparisons: Sequence[Comparison]) -> str:
    """The rule, and a forest plot and a table for each kind of baseline."""
    margin = comparisons[0].margin if comparisons else None
    stated = (
        "No margin of non-inferiority was stated beforehand." if margin is None else f"Margin: {margin:g}."
    )
    parts = [
        f"<p>The rule: <b>helps</b> or <b>hurts</b> needs at least {SEEDS} seeds on both sides, a 95 % interval over "
        "cases (whole groups drawn) that excludes zero, Wilcoxon’s ranks on the same side with p below "
        f"{LEVEL:g} after Holm’s correction over the methods, and an interval that excludes zero also when the spread "
        "between trainings is added. All else is <b>no evidence</b>, which is not evidence of no difference. "
        f"{stated}</p>"
    ]
    for (same_student, _), members in groupby(
        sorted(comparisons, key=family_of, reverse=True), key=family_of
    ):
        shown = list(members)
        names = ", ".join(dict.fromkeys(c.baseline for c in shown))
        kinds = {c.kind for c in shown}
        title = f"Against {names}"
        title += f" {KINDS[shown[0].kind]}" if same_student and len(kinds) == 1 and kinds != {""} else ""
        parts.append(f"<h3>{text(title)}</h3>")
        parts.append(
            f'<div class="charts one">{forest_plot(shown, title, headed=False)}</div>{_table(shown)}'
        )
    parts.append(
        '<p class="soft">Each case is averaged over seeds, then paired. Thick bar: 95 % interval over cases; thin bar: '
        "with the spread between trainings; ticks below: each seed; shaded: losses within the margin.</p>"
    )
    return "\n".join(parts)


def _table(comparisons: Sequence[Comparison]) -> str:
    several = len({c.baseline for c in comparisons}) > 1
    mixed = len({c.kind for c in comparisons}) > 1
    rows = []
    for c in comparisons:
        of = c.difference
        name = f'<span class="net">{text(c.method)}</span>'
        name += f"<small>against {text(c.baseline)}</small>" if several else ""
        name += f"<small>{KINDS[c.kind] or 'another time'}</small>" if mixed else ""
        rows.append(
            [
                name,
                signed(of.mean) + f"<small>{span_text(of.low, of.high)}</small>",
                span_text(c.low, c.high),
                number(c.spread)
                + (f"<small>{', '.join(signed(d) for d in c.per_seed)}</small>" if c.per_seed else ""),
                str(c.seeds) if c.seeds == c.baseline_seeds else f"{c.seeds} and {c.baseline_seeds}",
                f"{p_text(of.p)}<small>{p_text(c.corrected)}</small>",
                f"{of.n}<small>{of.groups} groups</small>",
                f"<b>{c.verdict}</b>"
                + (f"<small>{text(c.words.partition(', ')[2])}</small>" if ", " in c.words else ""),
            ]
        )
    heads = [
        "Variant",
        "Difference<small>over cases</small>",
        "With trainings",
        "Spread<small>each seed</small>",
        "Seeds",
        "Wilcoxon p<small>after Holm</small>",
        "Cases",
        "Verdict",
    ]
    return table(heads, rows)


def p_text(value: float | None) -> str:
    """A p value as HTML.

    >>> p_text(0.0001), p_text(None)
    ('&lt; 0.001', '—')
    """
    return "&lt; 0.001" if value is not None and value < 0.001 else number(value)


def span_text(low: float | None, high: float | None) -> str:
    """The ends of an interval of differences.

    >>> span_text(-0.01, 0.02)
    '−0.010 to +0.020'
    """
    return "—" if low is None or high is None else f"{signed(low)} to {signed(high)}"
