"""What a teacher hands over, how far the student is from it, and whose word weighs how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segdistill.knowledge.adversarial_similarity import AdversarialSimilarity, adversarial_similarity_gap
from segdistill.knowledge.attention_transfer import AttentionTransfer, attention_map, attention_transfer_gap
from segdistill.knowledge.autoencoder import FeatureAutoEncoders, feature_autoencoder
from segdistill.knowledge.base import STUDENT, Knowledge, Mixable
from segdistill.knowledge.feature_similarity import (
    FeatureSimilarity,
    feature_similarity_gap,
    latent_similarity,
)
from segdistill.knowledge.region_contrast import RegionContrast, region_contrast
from segdistill.knowledge.soft_prediction import SoftPrediction, soft_prediction_gap
from segdistill.knowledge.teachers import Teacher, teacher_weights
from segdistill.knowledge.weighing import WEIGHINGS, Weighing, create_weighing, soft_dice_score
from segdistill.registry import build

KNOWLEDGE: dict[str, Callable[..., Knowledge]] = {
    "soft_prediction": SoftPrediction,
    "attention_transfer": AttentionTransfer,
    "region_contrast": RegionContrast,
    "feature_similarity": FeatureSimilarity,
    "adversarial_similarity": AdversarialSimilarity,
}


def create_knowledge(name: str, **options: Any) -> Knowledge:
    """Builds the knowledge that is registered as `name`.

    Raises:
        InputError: unknown name or option.

    >>> create_knowledge("soft_prediction", temperature=4.0).features
    ()
    """
    return build("knowledge", KNOWLEDGE, name, options)


__all__ = [
    "KNOWLEDGE",
    "STUDENT",
    "WEIGHINGS",
    "AdversarialSimilarity",
    "AttentionTransfer",
    "FeatureAutoEncoders",
    "FeatureSimilarity",
    "Knowledge",
    "Mixable",
    "RegionContrast",
    "SoftPrediction",
    "Teacher",
    "Weighing",
    "adversarial_similarity_gap",
    "attention_map",
    "attention_transfer_gap",
    "create_knowledge",
    "create_weighing",
    "feature_autoencoder",
    "feature_similarity_gap",
    "latent_similarity",
    "region_contrast",
    "soft_dice_score",
    "soft_prediction_gap",
    "teacher_weights",
]
