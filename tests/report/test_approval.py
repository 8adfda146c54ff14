"""The Applied Model Card has the schema's elements in its order; CLAIM has its 44 items; front matter is YAML."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from segdistill.config.load import load_recipe
from segdistill.errors import InputError
from segdistill.report.approval import NAMESPACE, NOT_STATED, render_applied_model_card
from segdistill.report.card_schema import OPTIONAL, card_keys
from segdistill.report.context import make_context
from segdistill.report.data import Report, StageReport
from segdistill.report.sections.claim import ITEMS
from tests.report.synthetic import card_of, full_report, page_of
from tests.report.test_report import Page

# the schema's sequences, read by hand from version 0.2; ? is minOccurs="0"
OUTLINE = """
BasicInfo: ModelName ModelDeveloper DeveloperContact
ReleaseInfo: ReleaseStage ReleaseDate ReleaseVersion GlobalAvailability EHRCompatibility? RegulatoryApproval?
ModelSummary: Summary Keywords
UsesAndDirections: IntendedUseAndWorkflow PrimaryIntendedUsers HowToUse TargetedPatientPopulation
 CautionedOutOfScopeSettings
Warnings: KnownRisksAndLimitations KnownBiasesOrEthicalConsiderations ClinicalRiskLevel
TrustIngredients: AISystemFacts TransparencyInformation
AISystemFacts: OutcomesAndOutputs ModelType FoundationModels? InputDataSource OutputAndInputDataTypes
 DevelopmentDataCharacterization BiasMitigationApproaches OngoingMaintenance Security? Transparency?
TransparencyInformation: FundingSource ThirdPartyInformation? StakeholdersConsulted
KeyMetrics: UsefulnessUsabilityEfficacy FairnessEquity SafetyReliability
Metric: MetricGoal Results Interpretation TestType TestingDataDescription ValidationProcessAndJustification
MetricResult: Label ValueJson
Resources: EvaluationReferences? ClinicalTrial? PeerReviewedPublications ReimbursementStatus? PatientConsentOrDisclosure
"""
SEQUENCES = {
    head: words.split()
    for head, _, words in (line.partition(": ") for line in OUTLINE.replace("\n ", " ").strip().splitlines())
}
METRICS = ("UsefulnessUsabilityEfficacy", "FairnessEquity", "SafetyReliability")


def check(card: str) -> ElementTree.Element:
    """Every sequence of the card against the schema's."""
    root = ElementTree.fromstring(card)
    space = f"{{{NAMESPACE}}}"
    assert root.tag == f"{space}AppliedModelCard"
    children = [child.tag.removeprefix(space) for child in root]
    assert children == [
        *("BasicInfo", "ReleaseInfo", "ModelSummary", "UsesAndDirections", "Warnings", "TrustIngredients"),
        *("KeyMetrics", "Resources", "Bibliography"),
    ]
    for element in root.iter():
        name = element.tag.removeprefix(space)
        inner = [child.tag.removeprefix(space) for child in element]
        if name in ("Keywords", "Results"):
            assert set(inner) <= {"Keyword", "MetricResult"}
            assert inner or name == "Keywords"
            continue
        wanted = SEQUENCES.get("Metric" if name in METRICS else name)
        if wanted is None:
            assert inner == [] or name == "AppliedModelCard"
            continue
        required = [word for word in wanted if not word.endswith("?")]
        known = [word.rstrip("?") for word in wanted]
        assert [word for word in inner if word in required] == required
        assert inner == [word for word in known if word in inner]
    return root


def text(root: ElementTree.Element, name: str) -> str:
    found = root.find(f".//{{{NAMESPACE}}}{name}")
    assert found is not None
    return found.text or ""


def test_the_schema_is_kept() -> None:
    for report in (full_report(), Report("nothing"), Report("one", [StageReport("s", "student")])):
        check(render_applied_model_card(make_context(report)))


def test_what_is_measured_is_there_and_the_rest_is_not_stated() -> None:
    context = make_context(full_report())
    root = check(render_applied_model_card(context))
    assert context.trained is not None
    results = root.findall(f".//{{{NAMESPACE}}}MetricResult")
    found = {str(each[0].text): json.loads(str(each[1].text)) for each in results}
    dice = context.trained.summary.all["dice"]
    assert found["dice, all cases"] == {"mean": dice.mean, "low": dice.low, "high": dice.high, "n": 12}
    assert "false_positive_rate, normal images" in found
    assert text(root, "InputDataSource") == "BUSI"
    assert "1 leaks between the splits" in text(root, "KnownRisksAndLimitations")
    for name in ("ModelDeveloper", "IntendedUseAndWorkflow", "ClinicalRiskLevel", "FundingSource"):
        assert text(root, name) == NOT_STATED
    assert text(root, "Bibliography") == f"% {NOT_STATED}"


def test_what_the_users_state_is_taken() -> None:
    stated = {key: f"{key} <&> \x1b" for key in card_keys()}
    root = check(render_applied_model_card(make_context(replace(full_report(), card=stated))))
    for key, name in (
        ("funding_source", "FundingSource"),
        ("how_to_use", "HowToUse"),
        ("security", "Security"),
    ):
        assert text(root, name) == f"{key} <&> \\x1b"
    assert all(root.find(f".//{{{NAMESPACE}}}{name}") is not None for name in OPTIONAL)


def test_a_recipe_states_it_by_name() -> None:
    assert load_recipe("distill", {"card.model_developer": "we"}).card == {"model_developer": "we"}
    with pytest.raises(InputError, match="card: no element 'model_develope': did you mean 'model_developer'"):
        load_recipe("distill", {"card.model_develope": "we"})
    with pytest.raises(InputError, match="card"):
        load_recipe("distill", {"card.model_name": 3})


def test_the_how_to_names_every_element() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "report-for-approval.md").read_text()
    assert [key for key in card_keys() if f"`{key}`" not in page] == []


def test_claim_has_its_items_and_links_that_lead_somewhere() -> None:
    assert [item.number for item in ITEMS] == list(range(1, 45))
    for report in (full_report(), Report("one", [StageReport("s", "student")])):
        html = page_of(report)
        page = Page(html)
        assert "claim" in page.ids
        links = [link for link in page.links if link.startswith("#")]
        assert {link[1:] for link in links} <= set(page.ids)
    assert html.count("NOT STATED") > 25
    assert "44 · Other information</th><td>funding, and the role of the funders</td>\n<td>NOT STATED" in html


def test_the_front_matter_is_yaml() -> None:
    _, front, body = card_of(full_report()).split("---\n", 2)
    facts: dict[str, Any] = yaml.safe_load(front)
    assert body.startswith("# Model card")
    assert (facts["license"], facts["pipeline_tag"]) == ("unknown", "image-segmentation")
    (model,) = facts["model-index"]
    (result,) = model["results"]
    assert result["task"]["type"] == "image-segmentation"
    assert result["dataset"] == {"type": "busi", "name": "BUSI", "split": "test"}
    dice = next(each for each in result["metrics"] if each["type"] == "dice")
    context = make_context(full_report())
    assert context.trained is not None
    assert dice["value"] == pytest.approx(context.trained.dice.mean, abs=1e-4)
    assert "model-index" not in yaml.safe_load(card_of(Report("nothing")).split("---\n", 2)[1])
