"""The elements of the Applied Model Card of the Coalition for Health AI, and their names in a recipe.

Source: its schema, version 0.2 (namespace `NAMESPACE`).
"""

from __future__ import annotations

import re
from typing import Any

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
NOT_STATED = "NOT STATED"

METRIC = (
    "MetricGoal",
    "Results",
    "Interpretation",
    "TestType",
    "TestingDataDescription",
    "ValidationProcessAndJustification",
)
SCHEMA: dict[str, Any] = {
    "BasicInfo": ("ModelName", "ModelDeveloper", "DeveloperContact"),
    "ReleaseInfo": (
        *("ReleaseStage", "ReleaseDate", "ReleaseVersion", "GlobalAvailability", "RegulatoryApproval"),
    ),
    "ModelSummary": ("Summary", "Keywords"),
    "UsesAndDirections": (
        "IntendedUseAndWorkflow",
        "PrimaryIntendedUsers",
        "HowToUse",
        "TargetedPatientPopulation",
        "CautionedOutOfScopeSettings",
    ),
    "Warnings": ("KnownRisksAndLimitations", "KnownBiasesOrEthicalConsiderations", "ClinicalRiskLevel"),
    "TrustIngredients": {
        "AISystemFacts": (
            "OutcomesAndOutputs",
            "ModelType",
            "FoundationModels",
            "InputDataSource",
            "OutputAndInputDataTypes",
            "DevelopmentDataCharacterization",
            "BiasMitigationApproaches",
            "OngoingMaintenance",
            "Security",
            "Transparency",
        ),
        "TransparencyInformation": ("FundingSource", "ThirdPartyInformation", "StakeholdersConsulted"),
    },
    "KeyMetrics": {
        "UsefulnessUsabilityEfficacy": METRIC,
        "FairnessEquity": METRIC,
        "SafetyReliability": METRIC,
    },
    "Resources": (
        *("EvaluationReferences", "ClinicalTrial", "PeerReviewedPublications", "ReimbursementStatus"),
        "PatientConsentOrDisclosure",
    ),
    "Bibliography": (),
}
"""Elements of the card in the order of the schema; (): text itself."""
OPTIONAL = {
    *("RegulatoryApproval", "FoundationModels", "Security", "Transparency", "ThirdPartyInformation"),
    *("EvaluationReferences", "ClinicalTrial", "ReimbursementStatus"),
}
"""Written only where they are stated."""


def card_elements() -> list[str]:
    """The elements of text, which a recipe's `card` may state.

    >>> card_elements()[:2]
    ['ModelName', 'ModelDeveloper']
    """
    return [*(name for part in SCHEMA.values() for name in _texts(part)), "Bibliography"]


def card_keys() -> list[str]:
    """Their names in a recipe: lower-case words with underscores.

    >>> card_keys()[:3]
    ['model_name', 'model_developer', 'developer_contact']
    """
    return [key_of(name) for name in card_elements()]


def _texts(part: Any) -> list[str]:
    if isinstance(part, dict):
        return [name for inner in part.values() if inner is not METRIC for name in _texts(inner)]
    return [name for name in part if name != "Keywords"]


def key_of(element: str) -> str:
    """The name of an element in a recipe's `card`.

    >>> key_of("AISystemFacts"), key_of("HowToUse")
    ('ai_system_facts', 'how_to_use')
    """
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", element)
    return "_".join(words).lower()
