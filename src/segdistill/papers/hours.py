"""How long a stage will take, estimated from the operations of its networks before anything is run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from segdistill.config.schema import Recipe, StageRecipe
from segdistill.models.complexity import complexity
from segdistill.models.registry import network_facts

IMAGES = {
    "busi": 647,
    "dataset_b": 163,
    "coronary": 134,
    "prostate_multisite": 3891,
    "promise12": 610,
    "phantom": 120,
}
"""Pictures, or slices that train, of the published datasets: counts of the papers, and of PROMISE12's 37 volumes."""
SPLEEN_SLICES = 8560
"""Of the case table that a recipe on volumes without a dataset takes: AMTD's Table 1 prints 6,848 for 80 % of them."""
GMAC_PER_SECOND = {"cpu": 80.0, "gpu": 4000.0}
"""Multiply-accumulates that a training gets through on two processor cores (measured: 60 to 120), and about what one
data-centre GPU does."""


def stage_hours(recipe: Recipe, names: Iterable[str], device: str) -> float:
    """Hours that stages take on a device: forward and backward of each, forward of its teachers, on every image.

    Args:
        recipe: with the stages.
        names: of the stages; what they need is not added.
        device: "cpu" (two cores) or "gpu" (one).

    >>> from segdistill.config.load import load_recipe
    >>> 0.1 < stage_hours(load_recipe("lightbtseg/cpu"), ["student"], "cpu") < 2
    True
    """
    gmac = sum(_stage_gmac(recipe, name) for name in names) * (recipe.folds or 1)
    return gmac / GMAC_PER_SECOND[device] / 3600


def _stage_gmac(recipe: Recipe, name: str) -> float:
    stage, fit = recipe.stages[name], recipe.fit_settings(name)
    images = _images(recipe, name)
    passes = images * fit.epochs if fit.steps is None else fit.steps * fit.batch_size * fit.accumulate
    asked = images * min(fit.views, fit.epochs) if fit.views and stage.cache else passes
    taught = sum(_gmac(recipe, recipe.stages[teacher]) for teacher in stage.taught_by)
    if stage.task == "autoencoder" or stage.tuned_by is not None:
        return taught * asked
    tuned = (
        taught * passes if stage.finetune_teachers else 0.0
    )  # each on its own images, about a third of the cost each
    return 3 * (_gmac(recipe, stage) * passes + tuned) + taught * asked


def _images(recipe: Recipe, name: str) -> float:
    """Training images of a stage, about."""
    data, stage = recipe.data, recipe.stages[name]
    split = data.split
    tested = 1 / recipe.folds if recipe.folds else split.test
    if split.method == "counts" and split.counts:
        tested = sum(split.counts.values()) / IMAGES.get(data.dataset or "", SPLEEN_SLICES)
    count = IMAGES.get(data.dataset or "", SPLEEN_SLICES) * (1 - tested) * (1 - split.val)
    count *= data.patches.count**2 if data.patches else 1
    joint = stage.joint_settings
    if stage.task == "supervised" or (joint is not None and joint.labelled_only):
        count *= recipe.locations_of(name)
    if stage.labels is not None and data.labels is not None:
        count *= len(stage.labels) / len(data.labels)
    every = {site for other in recipe.stages.values() for site in other.sites or []}
    return count * (len(stage.sites) / len(every) if stage.sites else 1)


def _gmac(recipe: Recipe, stage: StageRecipe) -> float:
    options = {**{"classes": 2}, **stage.model.options}
    return _counted(
        stage.model.name, json.dumps(options, sort_keys=True), recipe.data.channels, recipe.data.height_width
    )


@cache
def _counted(name: str, options: str, channels: int, size: tuple[int, int]) -> float:
    if network_facts(name).kind == "external":
        return 0.0
    return complexity(name, (channels, *size), **json.loads(options)).macs / 1e9
