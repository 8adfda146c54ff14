"""What a teacher hands over, how far the student is from it, and whose word weighs how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segdistill.distillation.base import STUDENT, Contested, Knowledge, Mixable, Weighing
from segdistill.distillation.composed import Composed, flat, within
from segdistill.distillation.methods.amtml import AMTML, Relations
from segdistill.distillation.methods.attention_transfer import (
    AttentionTransfer,
    attention_map,
    attention_transfer_gap,
)
from segdistill.distillation.methods.cirkd import (
    CIRKD,
    CrossImage,
    MemoryContrast,
    cross_image_gap,
    memory_gap,
)
from segdistill.distillation.methods.cwd import CWD, ChannelWise, channel_wise_gap
from segdistill.distillation.methods.emkd import EMKD
from segdistill.distillation.methods.fitnet import FitNet, hint_gap
from segdistill.distillation.methods.ifvd import IFVD, IntraClass, intra_class_map
from segdistill.distillation.methods.lightvessel import (
    AdversarialSimilarity,
    FeatureAutoEncoders,
    FeatureSimilarity,
    adversarial_similarity_gap,
    feature_autoencoder,
    feature_similarity_gap,
    latent_similarity,
)
from segdistill.distillation.methods.protokd import ProtoKD, Prototypes, prototype_gap
from segdistill.distillation.methods.region_contrast import RegionContrast, region_contrast
from segdistill.distillation.methods.skd import Holistic, PairWise, StructuredKnowledge, similarities
from segdistill.distillation.methods.soft_prediction import SoftLabel, SoftPrediction, soft_prediction_gap
from segdistill.distillation.teacher import Teacher, teacher_weights
from segdistill.distillation.weighting import WEIGHINGS, AdaptiveFactors, create_weighing, soft_dice_score
from segdistill.errors import InputError
from segdistill.registry import build

KNOWLEDGE: dict[str, Callable[..., Knowledge]] = {
    "soft_prediction": SoftPrediction,
    "soft_label": SoftLabel,
    "attention_transfer": AttentionTransfer,
    "region_contrast": RegionContrast,
    "feature_similarity": FeatureSimilarity,
    "adversarial_similarity": AdversarialSimilarity,
    "fitnet": FitNet,
    "skd": StructuredKnowledge,
    "pair_wise": PairWise,
    "holistic": Holistic,
    "ifvd": IFVD,
    "intra_class": IntraClass,
    "cwd": CWD,
    "channel_wise": ChannelWise,
    "emkd": EMKD,
    "cirkd": CIRKD,
    "cross_image": CrossImage,
    "memory_contrast": MemoryContrast,
    "protokd": ProtoKD,
    "prototypes": Prototypes,
    "amtml": AMTML,
    "relations": Relations,
}


def create_knowledge(name: str, **options: Any) -> Knowledge:
    """Builds the knowledge that is registered as `name`.

    Raises:
        InputError: unknown name or option, or an option of another type.

    >>> create_knowledge("soft_prediction", temperature=4.0).features
    ()
    """
    classes = options.get("classes", 2)
    if isinstance(classes, int) and classes < 2:
        raise InputError(f"knowledge '{name}': classes must be at least 2, background and one more")
    return build("knowledge", KNOWLEDGE, name, options)


__all__ = [
    "AMTML",
    "CIRKD",
    "CWD",
    "EMKD",
    "IFVD",
    "KNOWLEDGE",
    "STUDENT",
    "WEIGHINGS",
    "AdaptiveFactors",
    "AdversarialSimilarity",
    "AttentionTransfer",
    "ChannelWise",
    "Composed",
    "Contested",
    "CrossImage",
    "FeatureAutoEncoders",
    "FeatureSimilarity",
    "FitNet",
    "Holistic",
    "IntraClass",
    "Knowledge",
    "MemoryContrast",
    "Mixable",
    "PairWise",
    "ProtoKD",
    "Prototypes",
    "RegionContrast",
    "Relations",
    "SoftLabel",
    "SoftPrediction",
    "StructuredKnowledge",
    "Teacher",
    "Weighing",
    "adversarial_similarity_gap",
    "attention_map",
    "attention_transfer_gap",
    "channel_wise_gap",
    "create_knowledge",
    "create_weighing",
    "cross_image_gap",
    "feature_autoencoder",
    "feature_similarity_gap",
    "flat",
    "hint_gap",
    "intra_class_map",
    "latent_similarity",
    "memory_gap",
    "prototype_gap",
    "region_contrast",
    "similarities",
    "soft_dice_score",
    "soft_prediction_gap",
    "teacher_weights",
    "within",
]
