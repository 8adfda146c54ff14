"""Stages of auto-encoders, and the knowledge that reads features through them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from segdistill.errors import InputError
from segdistill.knowledge import FeatureAutoEncoders, Knowledge, create_knowledge, feature_autoencoder
from segdistill.recipes.schema_stage import AUTOENCODER, ModelRecipe, StageRecipe
from segdistill.recipes.stage import read_info
from segdistill.registry import build
from segdistill.training.checkpoint import load_weights
from segdistill.training.loop import WEIGHTS


def build_autoencoders(model: ModelRecipe, network: nn.Module, name: str) -> FeatureAutoEncoders:
    """Untrained auto-encoders for the features of a network, called `name` in messages.

    Raises:
        InputError: an unknown option, or a feature that the network does not have.

    >>> from segdistill.models import create_model
    >>> unet = create_model("unet", widths=[2, 4, 4])
    >>> build_autoencoders(ModelRecipe(name="feature_autoencoder", taps=[2], size=8), unet, "teacher").taps
    ('enc@2', 'dec@2')
    """
    parts = {AUTOENCODER: partial(feature_autoencoder, network, name)}
    return build("network", parts, model.name, model.options)


def load_autoencoders(folder: Path, network: nn.Module, name: str) -> FeatureAutoEncoders:
    """Trained auto-encoders from their stage's folder, for a network of the architecture that they learned from.

    Raises:
        InputError: the stage is not finished, or learned from another architecture.
    """
    info = read_info(folder)
    if info.get("weights_sha256") is None:
        raise InputError(f"stage {folder.name} is not finished: run its recipe again to continue")
    codes = build_autoencoders(ModelRecipe.model_validate(info["model"]), network, name)
    load_weights(folder / WEIGHTS, codes)
    return codes


def make_knowledge(
    stage: StageRecipe, codes: Callable[[str, str], FeatureAutoEncoders]
) -> dict[str, tuple[float, Knowledge]]:
    """Name -> (weight, knowledge) of a distillation stage.

    Args:
        stage: of the recipe.
        codes: (name of a network, name of the stage of its auto-encoders) -> these.

    Raises:
        InputError: an unknown knowledge or option.
    """
    made = {}
    for part in stage.knowledge:
        options = dict(part.options)
        if part.autoencoders:
            options["autoencoders"] = {
                name: codes(name, trained) for name, trained in part.autoencoders.items()
            }
        made[part.name] = (part.weight, create_knowledge(part.name, **options))
    return made
