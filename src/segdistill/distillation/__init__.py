"""What a teacher hands over, how far the student is from it, and whose word weighs how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from segdistill.distillation.base import STUDENT, Combinable, DistillationMethod, Weighting, WithCritics
from segdistill.distillation.composed import Composed, flat, within
from segdistill.distillation.methods.amtml import AMTML, Relations
from segdistill.distillation.methods.attention_transfer import (
    AttentionTransfer,
    attention_map,
    attention_transfer_loss,
)
from segdistill.distillation.methods.cirkd import (
    CIRKD,
    CrossImage,
    MemoryContrast,
    cross_image_loss,
    memory_loss,
)
from segdistill.distillation.methods.cwd import CWD, ChannelWise, channel_wise_loss
from segdistill.distillation.methods.emkd import EMKD
from segdistill.distillation.methods.fitnet import FitNet, hint_loss
from segdistill.distillation.methods.ifvd import IFVD, IntraClass, intra_class_map
from segdistill.distillation.methods.lightvessel import (
    AdversarialSimilarity,
    FeatureAutoEncoders,
    FeatureSimilarity,
    adversarial_similarity_loss,
    feature_autoencoder,
    feature_similarity_loss,
    latent_similarity,
)
from segdistill.distillation.methods.protokd import ProtoKD, Prototypes, prototype_loss
from segdistill.distillation.methods.region_contrast import RegionContrast, region_contrast
from segdistill.distillation.methods.skd import Holistic, PairWise, StructuredKnowledge, similarities
from segdistill.distillation.methods.soft_prediction import SoftLabel, SoftPrediction, soft_prediction_loss
from segdistill.distillation.teacher import Teacher, teacher_weights
from segdistill.distillation.weighting import WEIGHTINGS, AdaptiveFactors, create_weighting, soft_dice_score
from segdistill.errors import InputError
from segdistill.registry import build

METHODS: dict[str, Callable[..., DistillationMethod]] = {
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


def create_method(name: str, **options: Any) -> DistillationMethod:
    """Builds the method that is registered as `name`.

    Raises:
        InputError: unknown name or option, or an option of another type.

    >>> create_method("soft_prediction", temperature=4.0).features
    ()
    """
    classes = options.get("classes", 2)
    if isinstance(classes, int) and classes < 2:
        raise InputError(f"method '{name}': classes must be at least 2, background and one more")
    return build("methods", METHODS, name, options)


__all__ = [
    "AMTML",
    "CIRKD",
    "CWD",
    "EMKD",
    "IFVD",
    "METHODS",
    "STUDENT",
    "WEIGHTINGS",
    "AdaptiveFactors",
    "AdversarialSimilarity",
    "AttentionTransfer",
    "ChannelWise",
    "Combinable",
    "Composed",
    "CrossImage",
    "DistillationMethod",
    "FeatureAutoEncoders",
    "FeatureSimilarity",
    "FitNet",
    "Holistic",
    "IntraClass",
    "MemoryContrast",
    "PairWise",
    "ProtoKD",
    "Prototypes",
    "RegionContrast",
    "Relations",
    "SoftLabel",
    "SoftPrediction",
    "StructuredKnowledge",
    "Teacher",
    "Weighting",
    "WithCritics",
    "adversarial_similarity_loss",
    "attention_map",
    "attention_transfer_loss",
    "channel_wise_loss",
    "create_method",
    "create_weighting",
    "cross_image_loss",
    "feature_autoencoder",
    "feature_similarity_loss",
    "flat",
    "hint_loss",
    "intra_class_map",
    "latent_similarity",
    "memory_loss",
    "prototype_loss",
    "region_contrast",
    "similarities",
    "soft_dice_score",
    "soft_prediction_loss",
    "teacher_weights",
    "within",
]
