"""The Applied Model Card of the Coalition for Health AI: what a run measured, and NOT STATED for what no tool can know.

Those who use a network state the rest in the recipe's `card`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from segdistill.files import shown_lines, write_text
from segdistill.records import Interval
from segdistill.report.card_schema import (
    METRIC,
    NAMESPACE,
    NOT_STATED,
    OPTIONAL,
    SCHEMA,
    card_elements,
    key_of,
)
from segdistill.report.context import Context, Network
from segdistill.report.opening import ratio_sentence, sentence
from segdistill.report.render import RESEARCH_ONLY
from segdistill.stats.text import amount, quantity

FILE = "applied_model_card.xml"


def render_applied_model_card(context: Context) -> str:
    """The card of the network in the headline, as XML.

    >>> from segdistill.report.context import make_context
    >>> from segdistill.report.data import Report
    >>> "<ModelDeveloper>NOT STATED</ModelDeveloper>" in render_applied_model_card(make_context(Report("demo")))
    True
    """
    stated = {name: context.report.card.get(key_of(name), "") for name in card_elements()}
    values = _known(context) | {name: text for name, text in stated.items() if text}
    root = ElementTree.Element("AppliedModelCard", {"xmlns": NAMESPACE})
    for name, part in SCHEMA.items():
        _add(root, name, part, values)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _add(parent: ElementTree.Element, name: str, part: Any, values: Mapping[str, Any]) -> None:
    """Adds an element: one of text, of keywords, of a metric, or of further elements."""
    if name in OPTIONAL and name not in values:
        return
    element = ElementTree.SubElement(parent, name)
    if name == "Keywords":
        for word in values[name]:
            ElementTree.SubElement(element, "Keyword").text = shown_lines(word)
    elif part is METRIC:
        _add_metric(element, values[name])
    elif part:
        inner = part if isinstance(part, dict) else dict.fromkeys(part, ())
        for each, content in inner.items():
            _add(element, each, content, values)
    else:
        element.text = shown_lines(values.get(name) or NOT_STATED)


def write_applied_model_card(context: Context, path: str | Path) -> None:
    """Writes the card, whole or not at all.

    Raises:
        InputError: the file cannot be written.

    >>> import tempfile
    >>> from segdistill.report.context import make_context
    >>> from segdistill.report.data import Report
    >>> write_applied_model_card(make_context(Report("demo")), Path(tempfile.mkdtemp()) / FILE)
    """
    write_text(path, render_applied_model_card(context))


def _add_metric(element: ElementTree.Element, values: Mapping[str, Any]) -> None:
    for name in METRIC:
        inner = ElementTree.SubElement(element, name)
        if name != "Results":
            inner.text = shown_lines(str(values.get(name) or NOT_STATED))
            continue
        for label, value in values.get("Results") or [(NOT_STATED, None)]:
            result = ElementTree.SubElement(inner, "MetricResult")
            ElementTree.SubElement(result, "Label").text = shown_lines(label)
            ElementTree.SubElement(result, "ValueJson").text = json.dumps(value)


def _known(context: Context) -> dict[str, Any]:
    """Element -> what the run knows of it."""
    report, network = context.report, context.trained
    stage = network.stage if network is not None else None
    verdicts = [str(v) for v in (*context.headline_verdicts, *context.headline_elsewhere)]
    limits = "\n".join(f"- {line}" for line in context.limits)
    words = [sentence(context, network), ratio_sentence(network, context.teachers), *verdicts]
    classes = " and the class of the whole image" if network is not None and network.classes else ""
    return {
        "ModelName": f"{report.title}: {stage.name}" if stage else report.title,
        "ReleaseDate": report.date,
        "Summary": " ".join(filter(None, words)),
        "Keywords": [
            "medical imaging",
            "segmentation",
            *(["knowledge distillation"] if context.is_distilled else []),
        ],
        "HowToUse": "`segdistill predict model.onnx IMAGE...` writes masks, overlays and a table of measurements.",
        "CautionedOutOfScopeSettings": RESEARCH_ONLY,
        "KnownRisksAndLimitations": limits,
        "KnownBiasesOrEthicalConsiderations": _subgroups(context),
        "OutcomesAndOutputs": f"A mask of the image, the probability of foreground for every pixel{classes}.",
        "ModelType": _model_type(stage.task, stage.cost.parameters, stage.cost.macs) if stage else "",
        "InputDataSource": report.data.name,
        "OutputAndInputDataTypes": f"Input of the network: {stage.cost.input} (channels x height x width)"
        if stage and stage.cost.input
        else "",
        "DevelopmentDataCharacterization": _data(context),
        "UsefulnessUsabilityEfficacy": _efficacy(context, network, verdicts),
        "FairnessEquity": _fairness(context, network),
        "SafetyReliability": _safety(context, network),
        "Bibliography": f"% {NOT_STATED}",  # a comment of BibTeX
    }


def _model_type(task: str, parameters: int | None, macs: int | None) -> str:
    return f"{task or 'network'}; {amount(parameters)} parameters, {amount(macs, 'MAC')} per image"


def _subgroups(context: Context) -> str:
    """Dice by class, site and size, of the headline's training."""
    found = [
        f"{part.kind} {part.name}: Dice {quantity(scores[0].mean, '', 3).strip()} (n = {scores[0].n})"
        for part, scores in context.by_subgroup
        if scores and scores[0] is not None
    ]
    return f"Measured by subgroup: {'; '.join(found)}. Age, sex and ethnicity: {NOT_STATED}." if found else ""


def _data(context: Context) -> str:
    data = context.report.data
    counts = [
        f"{split or 'no split'}: "
        + ", ".join(f"{n} {label or 'without class'}" for label, n in labels.items())
        for split, labels in data.counts.items()
    ]
    groups = ", ".join(f"{n} in {split or 'no split'}" for split, n in data.groups.items())
    leaks = "not checked" if data.leaks is None else f"{len(data.leaks)} found"
    parts = [
        *counts,
        f"groups (patients): {groups}" if groups else "",
        f"split: {data.split}" if data.split else "",
    ]
    return "; ".join(
        filter(None, [*parts, f"leaks between splits: {leaks}", f"hash of the table: {data.hash}"])
    )


def _efficacy(context: Context, network: Network | None, verdicts: Sequence[str]) -> dict[str, Any]:
    margin = context.report.margin
    goal = "Overlap of mask and reference, per image, averaged over images (Dice and others)"
    found = _results("all cases", network.summary.all) if network is not None else []
    found += [
        (f"{one.name}: {label}", value)
        for one in context.external
        for n in one.trainings
        if network is not None and n.name == network.name
        for label, value in _results("all cases", n.summary.all)
    ]
    return _tested(
        context,
        goal + (f"; accepted loss of Dice {margin:g}" if margin is not None else ""),
        found,
        " ".join(verdicts),
    )


def _fairness(context: Context, network: Network | None) -> dict[str, Any]:
    found = []
    if network is not None:
        for name, scores in network.summary.named().items():
            found += _results(name, scores) if name != "all" else []
    return _tested(context, "The same metrics for each class of images and each site", found)


def _safety(context: Context, network: Network | None) -> dict[str, Any]:
    found = [] if network is None else _results("normal images", network.summary.normal)
    for one in network.stage.robustness if network is not None else ():
        found.append((f"Dice under {one.kind} {one.strength:g}", _value(one.score)))
    for place, values in (network.stage.calibration if network is not None else {}).items():
        if isinstance(values, Mapping):
            found += [
                (f"{name}, {place} pixels", values.get(name)) for name in ("ece", "brier") if name in values
            ]
    goal = "False positives on normal images; Dice on disturbed images; calibration of the probabilities"
    return _tested(context, goal, found)


def _tested(context: Context, goal: str, found: Sequence[tuple[str, Any]], words: str = "") -> dict[str, Any]:
    report = context.report
    if not found:
        return {"MetricGoal": goal}
    where = f"{report.evaluated_on or 'all'} cases of {report.data.name or 'the case table'}"
    return {
        "MetricGoal": goal,
        "Results": found,
        "Interpretation": words,
        "TestType": "internal and external testing" if context.external else "internal testing",
        "TestingDataDescription": f"{where}, split: {report.data.split or NOT_STATED}",
        "ValidationProcessAndJustification": (
            f"95 % bootstrap intervals over groups (patients). Whether settings were chosen elsewhere: {NOT_STATED}."
        ),
    }


def _results(group: str, scores: Mapping[str, Interval]) -> list[tuple[str, Any]]:
    return [(f"{name}, {group}", _value(score)) for name, score in scores.items() if score.mean is not None]


def _value(score: Interval) -> dict[str, Any]:
    return asdict(score)
