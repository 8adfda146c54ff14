"""Networks: each returns logits and named features (`Output`); built by name with `create_network`."""

from segdistill.models.network import FeatureInfo, Output, pyramid, pyramid_info
from segdistill.models.registry import MODELS, ModelEntry, create_network, find

__all__ = ["MODELS", "FeatureInfo", "ModelEntry", "Output", "create_network", "find", "pyramid", "pyramid_info"]
