"""The CLAIM checklist: which of its items this report covers, and which its authors must state."""

from __future__ import annotations

from dataclasses import dataclass

from segdistill.report.context import Context
from segdistill.report.sections import Values, register_report_section


@dataclass(frozen=True)
class Item:
    """One item of CLAIM 2024 (Tejani et al., Radiology: Artificial Intelligence 2024), in our words.

    Attributes:
        part: of the checklist.
        number: there.
        words: what is to be reported.
        sections: names of the report's sections that cover it, as far as a tool can; (): none does.
        beside: what the authors must add to it; "" for nothing.
    """

    part: str
    number: int
    words: str
    sections: tuple[str, ...] = ()
    beside: str = ""


_TITLE, _INTRODUCTION, _DESIGN = "Title and abstract", "Introduction", "Study design"
_DATA, _STANDARD, _PARTITIONS = "Data", "Reference standard", "Data partitions"
_MODEL, _TRAINING, _EVALUATION = "Model", "Training", "Evaluation"
_RESULTS, _DISCUSSION, _OTHER = "Results", "Discussion", "Other information"

ITEMS = (
    Item(_TITLE, 1, "the study is one of AI, and of which technology"),
    Item(_TITLE, 2, "a structured abstract"),
    Item(_INTRODUCTION, 3, "scientific and clinical background, intended use and clinical role"),
    Item(_INTRODUCTION, 4, "aims, objectives and hypotheses"),
    Item(_DESIGN, 5, "prospective or retrospective"),
    Item(_DESIGN, 6, "goal of the study"),
    Item(
        _DATA, 7, "sources of the data", ("data",), beside="where, when and by whom the images were acquired"
    ),
    Item(_DATA, 8, "criteria of inclusion and exclusion"),
    Item(_DATA, 9, "pre-processing", ("settings",)),
    Item(_DATA, 10, "selection of subsets of the data", ("settings",), beside="why"),
    Item(_DATA, 11, "de-identification"),
    Item(_DATA, 12, "handling of missing data", ("data",)),
    Item(_DATA, 13, "protocol of image acquisition"),
    Item(_STANDARD, 14, "how the reference standard was defined"),
    Item(_STANDARD, 15, "why this reference standard"),
    Item(_STANDARD, 16, "who annotated, with which qualification"),
    Item(_STANDARD, 17, "annotation of the test set"),
    Item(_STANDARD, 18, "variability within and between annotators"),
    Item(_PARTITIONS, 19, "how cases were assigned to partitions", ("data",)),
    Item(_PARTITIONS, 20, "level at which partitions are disjoint", ("data",), beside="what a group is"),
    Item(
        _PARTITIONS, 21, "intended size of the test set", ("verdict",), beside="whether it was set beforehand"
    ),
    Item(_MODEL, 22, "detailed description of the model", ("settings", "cost")),
    Item(_MODEL, 23, "software and its versions", ("environment",)),
    Item(_MODEL, 24, "first values of the parameters", ("settings",)),
    Item(_TRAINING, 25, "training: augmentation, settings, number of networks", ("settings", "curves")),
    Item(_TRAINING, 26, "how the final model was selected", ("settings", "results")),
    Item(_TRAINING, 27, "ensembles", ("settings",)),
    Item(_EVALUATION, 28, "metrics", ("results",)),
    Item(_EVALUATION, 29, "statistics of significance and uncertainty", ("results", "verdict")),
    Item(_EVALUATION, 30, "robustness or sensitivity", ("trust",)),
    Item(_EVALUATION, 31, "explainability, and how it was validated"),
    Item(_EVALUATION, 32, "evaluation on internal data", ("results",)),
    Item(_EVALUATION, 33, "testing on external data", ("external",)),
    Item(_EVALUATION, 34, "registration of a clinical trial"),
    Item(
        _RESULTS, 35, "cases that were included and excluded", ("data",), beside="those before the case table"
    ),
    Item(_RESULTS, 36, "demographic and clinical characteristics of each partition"),
    Item(_RESULTS, 37, "performance with its uncertainty, on all partitions", ("results", "distribution")),
    Item(_RESULTS, 38, "diagnostic performance and its precision", ("classes",)),
    Item(_RESULTS, 39, "analysis of failures", ("cases", "table"), beside="why these cases fail"),
    Item(_DISCUSSION, 40, "limitations", ("limits",), beside="those of the study"),
    Item(_DISCUSSION, 41, "implications for practice"),
    Item(_OTHER, 42, "the full protocol", ("settings", "environment"), beside="that of the study"),
    Item(
        _OTHER, 43, "availability of software, model and data", ("environment",), beside="of model and data"
    ),
    Item(_OTHER, 44, "funding, and the role of the funders"),
)


@register_report_section("claim", "CLAIM checklist", template="claim.html", order=160)
def claim(context: Context) -> Values:
    """Every item, with links to the sections that cover it."""
    absent = _absent(context)
    rows = [(item, [name for name in item.sections if name not in absent]) for item in ITEMS]
    return {"rows": rows, "covered": sum(bool(names) for _, names in rows)}


def _absent(context: Context) -> set[str]:
    """Sections that are not in this report, or have nothing to show for an item."""
    trainings = context.trainings
    there = {
        "verdict": context.is_distilled,
        "external": bool(context.external),
        "curves": context.report.settings_of == "recipe",
        "classes": any(network.classes for network in trainings),
        "trust": any(network.stage.robustness for network in trainings),
        **dict.fromkeys(
            ("results", "distribution", "cases", "table"), any(n.stage.results for n in trainings)
        ),
    }
    return {name for name, is_there in there.items() if not is_there}
