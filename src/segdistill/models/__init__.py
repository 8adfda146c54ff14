"""Networks: each returns logits and named features (`Output`); built by name with `create_model`."""

from segdistill.models.network import FeatureInfo, Output, pyramid, pyramid_info
from segdistill.models.registry import MODELS, ModelEntry, create_model, find

__all__ = ["MODELS", "FeatureInfo", "ModelEntry", "Output", "create_model", "find", "pyramid", "pyramid_info"]
