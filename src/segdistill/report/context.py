"""All numbers of a report, computed once: sections, comparison and model card only choose and show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segdistill.metrics.base import METRICS
from segdistill.metrics.calibration import Reliability
from segdistill.metrics.cases import Column, find_column
from segdistill.metrics.classification import ClassReport, Roc, reliability_of, roc_curve, truth_of
from segdistill.records import Classification, Interval, Summary, TableRecord
from segdistill.report.charts import COLOURS
from segdistill.report.data import Report, StageReport
from segdistill.report.render import NOTHING_TESTED, RESEARCH_ONLY
from segdistill.report.seeds import over_seeds
from segdistill.report.verdicts import is_distilled, next_steps, variants_of
from segdistill.stats.agreement import Agreement, area_agreement
from segdistill.stats.bootstrap import bootstrap_mean
from segdistill.stats.classification import summarise_classification
from segdistill.stats.comparison import Variant, find_verdicts, verdicts_elsewhere
from segdistill.stats.lesions import LesionTable, lesion_tables
from segdistill.stats.repetitions import Repeated, better_p, repeated
from segdistill.stats.subgroups import Subgroup, subgroups
from segdistill.stats.summary import summarise
from segdistill.stats.verdict import Verdict

SHOWN = 4
"""Networks in charts that hold one network each."""
REPEATED = ("accuracy", "f1", "auc", "iou", "dice")
"""What is summed up over repeated trainings of networks that classify."""
TESTED = ("auc", "iou")
"""What LA-Net's paper tests: AUC for classes, IoU for places."""
UNKNOWN = Interval(None, None, None, 0)


@dataclass(frozen=True, eq=False)
class Classes:
    """How a network classifies whole images.

    Attributes:
        report: the classes and a row per image.
        scores: with intervals, and the confusion table.
        roc: of the first class of the first network against all others; None where it has only one kind of image.
        reliability: of the probabilities that it gives.
    """

    report: ClassReport
    scores: Classification
    roc: Roc | None
    reliability: Reliability


@dataclass(frozen=True, eq=False)
class Network:
    """A row of the report's tables: one training, or the mean over the trainings of a variant.

    Attributes:
        stage: what was handed over, or its mean over seeds.
        colour: in charts and tables; the same for all seeds of a variant.
        summary: means with intervals.
        trainings: of a variant; a training has itself.
        spread: mean Dice over the trainings, with its standard deviation; None: not measured.
        agreement: of the areas; None where nothing was to find, and for a variant.
        undisturbed: Dice on the images without disturbances; None: robustness was not measured.
        compared_as: its name in verdicts.
        classes: None: it does not classify.
    """

    stage: StageReport
    colour: str
    summary: Summary
    trainings: Sequence[StageReport]
    compared_as: str = ""
    spread: Repeated | None = None
    agreement: Agreement | None = None
    undisturbed: Interval | None = None
    classes: Classes | None = None

    @property
    def name(self) -> str:
        """Of the stage, or of the variant."""
        return self.stage.name

    @property
    def dice(self) -> Interval:
        """Of all cases with something to find."""
        return self.summary.all.get("dice", UNKNOWN)

    @property
    def weights(self) -> str:
        """Which weights were judged."""
        return ", ".join(dict.fromkeys(stage.weights or "not recorded" for stage in self.trainings))

    def count(self, group: str) -> int:
        """The number of cases behind the Dice of all cases ("all") or of a class."""
        return self.summary.groups().get(group, {}).get("dice", UNKNOWN).n

    def site(self, name: str, metric: str) -> Interval:
        """A metric of the cases of a site."""
        return self.summary.sites.get(name, {}).get(metric, UNKNOWN)


@dataclass(frozen=True)
class Repetitions:
    """Repeated trainings of a network that classifies, as LA-Net reports them.

    Attributes:
        name: of the variant; count: number of trainings.
        scores: of REPEATED; None where a training lacks it.
        p: of those that are tested: one-sided, that the headline's variant is not better; None: not computable.
    """

    name: str
    count: int
    scores: dict[str, Repeated | None]
    p: dict[str, float | None]


@dataclass(frozen=True, eq=False)
class External:
    """The same networks on a table from elsewhere.

    Attributes:
        name: of the table.
        table: how many cases it has, and which of them are copies of training images.
        variants, trainings, columns, verdicts: as of Context.
    """

    name: str
    table: TableRecord
    variants: Sequence[Network]
    trainings: Sequence[Network]
    columns: Sequence[Column]
    verdicts: Sequence[Verdict]

    @property
    def is_repeated(self) -> bool:
        """Whether something was trained with several seeds."""
        return self.variants is not self.trainings


@dataclass(frozen=True, eq=False)
class Context:
    """What all sections read.

    Attributes:
        report: what was handed over.
        variants: a row per variant, means over seeds; trainings: a row per training. The same if nothing was repeated.
        headline: the variant that the report is about; trained: the training of it that is shown and exported.
        teachers: of the headline.
        is_distilled: whether a student with teachers is reported.
        verdicts: every student against its baselines; headline_verdicts: those on the headline, else all.
        missing: what the headline lacks for a verdict, as from next_steps; missing_for: the variant.
        columns: the metrics of all summaries, those that are always measured first.
        shown: the trainings in charts that hold one network each.
        by_subgroup: subgroups of the cases, and the Dice of each of `shown` on them (None: not measured).
        repetitions: of variants that classify and were trained more than once.
        lesions: missed lesions and outlines of every variant, of all cases and by size.
        limits: in words, "research use only" first.
        external: the networks on tables from elsewhere.
    """

    report: Report
    variants: Sequence[Network]
    trainings: Sequence[Network]
    headline: Network | None = None
    trained: Network | None = None
    teachers: Sequence[Network] = ()
    is_distilled: bool = False
    verdicts: Sequence[Verdict] = ()
    headline_verdicts: Sequence[Verdict] = ()
    missing: Sequence[tuple[str, str]] = ()
    missing_for: str = ""
    columns: Sequence[Column] = ()
    shown: Sequence[Network] = ()
    by_subgroup: Sequence[tuple[Subgroup, Sequence[Interval | None]]] = ()
    repetitions: Sequence[Repetitions] = ()
    lesions: Sequence[LesionTable] = ()
    limits: Sequence[str] = ()
    external: Sequence[External] = ()

    @property
    def all_verdicts(self) -> list[Verdict]:
        """Those at home first, then those on each table from elsewhere."""
        return [*self.verdicts, *(verdict for one in self.external for verdict in one.verdicts)]

    @property
    def headline_elsewhere(self) -> list[Verdict]:
        """Those on the headline on tables from elsewhere."""
        name = self.trained.compared_as if self.trained is not None else ""
        return [v for one in self.external for v in one.verdicts if v.variant == name]

    @property
    def is_repeated(self) -> bool:
        """Whether something was trained with several seeds."""
        return self.variants is not self.trainings

    def trainings_of(self, variant: Network) -> list[Network]:
        """The trainings of a variant."""
        return _find(self.trainings, variant.trainings)

    @property
    def one_each(self) -> list[Network]:
        """The first training of every variant."""
        return [self.trainings_of(variant)[0] for variant in self.variants]


def make_context(report: Report) -> Context:
    """Computes what a report shows.

    >>> make_context(Report("none")).limits[0][:17]
    'Research use only'
    """
    compared = variants_of(report.stages)
    compared_as = {t.source: v.name for v in compared for t in v.trainings}
    trainings = _trainings(report, compared_as)
    variants = _variants(report, trainings)
    stage = report.headline()
    trained = _find(trainings, [stage])[0] if stage is not None else None
    headline = next((v for v in variants if any(stage is one for one in v.trainings)), None)
    taught_by = (
        replace(report, stages=[v.stage for v in variants]).teachers_of(headline.stage) if headline else []
    )
    verdicts = find_verdicts(compared, report.margin, report.seed)
    own = [c for c in verdicts if trained is not None and c.variant == trained.compared_as]
    distilled = is_distilled(report)
    missing_for, missing = _missing(report, compared, verdicts) if distilled else ("", [])
    shown = _find(trainings, report.shown(SHOWN))
    return Context(
        report,
        variants,
        trainings,
        headline,
        trained,
        teachers=_find(variants, taught_by),
        is_distilled=distilled,
        verdicts=verdicts,
        headline_verdicts=own or verdicts,
        missing=missing,
        missing_for=missing_for,
        columns=_columns(variants),
        shown=shown,
        by_subgroup=_subgroups(shown, report.seed),
        repetitions=_repetitions(variants, trainings, headline),
        lesions=lesion_tables(
            {v.name: rows for v in variants if (rows := [r for t in v.trainings for r in t.results])},
            report.seed,
        ),
        limits=_limits(report, trained, verdicts),
        external=_external(report, compared, compared_as),
    )


def _external(report: Report, compared: Sequence[Variant], compared_as: Mapping[str, str]) -> list[External]:
    """What was measured on each table from elsewhere, by the same rules as at home."""
    verdicts = verdicts_elsewhere(compared, report.margin, report.seed)
    found = []
    for name, table in report.data.external.items():
        stages = [stage.at(name) for stage in report.stages if name in stage.external]
        there = replace(report, stages=stages)
        trainings = _trainings(there, compared_as)
        variants = _variants(there, trainings)
        own = [replace(verdict, tested_on=name) for verdict in verdicts.get(table.hash, [])]
        found.append(External(name, table, variants, trainings, _columns(variants), own))
    return found


def _columns(networks: Sequence[Network]) -> list[Column]:
    keys = [key for n in networks for scores in n.summary.named().values() for key in scores]
    return [find_column(key) for key in dict.fromkeys([*METRICS.always(), *keys])]


def _find(networks: Sequence[Network], stages: Sequence[StageReport]) -> list[Network]:
    """The networks of these stages, in the order of the stages."""
    return [next(n for n in networks if n.stage is stage) for stage in stages]


def _trainings(report: Report, compared_as: Mapping[str, str]) -> list[Network]:
    names = list(dict.fromkeys(stage.variant or stage.name for stage in report.stages))
    positive = next((stage.classes.classes[0] for stage in report.stages if stage.classes), "")
    networks = []
    for stage in report.stages:
        rows, undisturbed = [r for r in stage.results if not r.normal], None
        if stage.robustness:
            scores, groups = [r.metrics["dice"] for r in rows], [r.group for r in rows]
            undisturbed = bootstrap_mean(scores, groups, seed=report.seed)
        networks.append(
            Network(
                stage,
                COLOURS[names.index(stage.variant or stage.name) % len(COLOURS)],
                stage.summary or summarise(stage.results, report.seed),
                (stage,),
                compared_as.get(stage.name, ""),
                agreement=area_agreement(rows, report.seed) if rows else None,
                undisturbed=undisturbed,
                classes=_classes(stage.classes, positive, report.seed) if stage.classes else None,
            )
        )
    return networks


def _classes(report: ClassReport, positive: str, seed: int) -> Classes:
    names, roc = list(report.classes), None
    if positive in names:
        column = names.index(positive)
        truth = truth_of(report.rows, names) == column
        roc = roc_curve(truth, np.array([row.probability[column] for row in report.rows]))
    scores = summarise_classification(report.rows, names, seed)
    return Classes(report, scores, roc, reliability_of(report.rows, names))


def _variants(report: Report, trainings: list[Network]) -> list[Network]:
    cells = report.cells()
    if all(len(cell) == 1 for cell in cells):
        return trainings
    variants = []
    for mean, cell in zip(over_seeds(report), cells, strict=True):
        members = _find(trainings, cell)
        known = [member.dice.mean for member in members if member.dice.mean is not None]
        spread = repeated(known) if known else None
        summary = mean.summary if mean.summary is not None and len(cell) > 1 else members[0].summary
        first = members[0]
        variants.append(Network(mean, first.colour, summary, tuple(cell), first.compared_as, spread))
    return variants


def _missing(
    report: Report, variants: Sequence[Variant], verdicts: Sequence[Verdict]
) -> tuple[str, list[tuple[str, str]]]:
    """A variant, the headline's or else the first student, and what it lacks for a verdict."""
    stage = report.headline()
    students = [v for v in variants if v.first.role == "student"]
    own = [v for v in students if stage is not None and stage.name in [t.source for t in v.trainings]]
    variant = next(iter([*own, *students]), None)
    if variant is None:
        return "", []
    made = [c for c in verdicts if c.same_student and c.variant == variant.name]
    seeds = min([len(variant.trainings), *(c.baseline_seeds for c in made)])
    student = next(s for s in report.stages if s.name == variant.first.source)
    return variant.name, next_steps(report, student, {c.kind for c in made}, seeds)


def _subgroups(shown: Sequence[Network], seed: int) -> list[tuple[Subgroup, list[Interval | None]]]:
    found = [{(part.kind, part.name): part for part in subgroups(network.stage.results)} for network in shown]
    return [
        (part, [own[key].score("dice", seed) if key in own else None for own in found])
        for key, part in (found[0].items() if found else ())
    ]


def _repetitions(
    variants: Sequence[Network], trainings: Sequence[Network], headline: Network | None
) -> list[Repetitions]:
    """Means over the trainings of each variant, and t-tests of the headline's against the others."""
    values: dict[str, dict[str, list[float]]] = {}
    for variant in variants:
        found = [network.classes.scores for network in _find(trainings, variant.trainings) if network.classes]
        if len(found) > 1:
            means = {
                name: [s.scores[name].mean if name in s.scores else None for s in found] for name in REPEATED
            }
            values[variant.name] = {
                name: [float(mean) for mean in each if mean is not None] if None not in each else []
                for name, each in means.items()
            }
    ours = values.get(headline.name) if headline else None
    tested = [name for name in TESTED if ours and ours[name]]
    rows = []
    for variant_name, own in values.items():
        p = {
            name: better_p(ours[name], own[name]) if ours and own is not ours and own[name] else None
            for name in tested
        }
        scores = {name: repeated(each) if each else None for name, each in own.items()}
        count = next(len(v.trainings) for v in variants if v.name == variant_name)
        rows.append(Repetitions(variant_name, count, scores, p))
    return rows


def _limits(report: Report, trained: Network | None, verdicts: Sequence[Verdict]) -> list[str]:
    """The limits that follow from the report itself, and those given."""
    lines, data = [RESEARCH_ONLY], report.data
    if not report.is_tested:
        lines.append(NOTHING_TESTED)
    lines += _limits_elsewhere(data.external)
    if trained is not None:
        if trained.dice.n < 30 and report.is_tested:
            lines.append(
                f"Only {trained.dice.n} evaluated cases have something to find: the intervals are rough."
            )
        if not trained.summary.normal and report.is_tested:
            lines.append("No normal images were evaluated: how often healthy tissue is marked is not known.")
    sites = {r.site for s in report.stages for r in s.results if r.site}
    if len(sites) < 2 and report.is_tested and not data.external:
        lines.append(
            "The evaluated images are of one source: other scanners, sites and populations may differ."
        )
    if any(r.unit == "px" for s in report.stages for r in s.results):
        lines.append("The size of a pixel is not known for all images: their distances are in pixels.")
    if data.leaks:
        lines.append(f"{len(data.leaks)} leaks between the splits: scores are optimistically biased.")
    elif data.leaks is None and len(data.counts) != 1:
        lines.append("Leaks between the splits were not checked.")
    if any(min(c.seeds, c.baseline_seeds) < 2 for c in verdicts):
        lines.append("Networks were trained once: the spread between training seeds is not known.")
    return [*lines, *report.limits]


def _limits_elsewhere(tables: Mapping[str, TableRecord]) -> list[str]:
    """Tables from elsewhere that hold images on which the networks were trained."""
    return [
        f"{len(table.copies)} images at {name} are copies of training or validation images: scores there are "
        "optimistically biased."
        for name, table in tables.items()
        if table.copies
    ]
