"""What a recipe may do, but is told about before anything is trained: one line each."""

from __future__ import annotations

from collections import Counter

import torch

from segdistill.evaluation.comparison import split_name
from segdistill.evaluation.verdict import SEEDS
from segdistill.models.discriminator import RECEPTIVE_FIELD
from segdistill.recipes.check import without_weights
from segdistill.recipes.schema import Recipe
from segdistill.training.adversary import seen_sizes, stage_shapes


def cautions(recipe: Recipe, stages: list[str]) -> list[str]:
    """What to know before the stages are trained; their parts have been checked.

    >>> from segdistill.recipes.matrix import expand_matrix
    >>> net = {"model": {"name": "unet"}}
    >>> methods = {"alone": {}, "kd": {"knowledge": [{"name": "soft_prediction"}]}}
    >>> matrix = {"students": {"small": net}, "teachers": {"big": net}, "methods": methods, "seeds": [0]}
    >>> recipe = Recipe.model_validate({"name": "r", **expand_matrix({"matrix": matrix})})
    >>> cautions(recipe, list(recipe.stages))
    ['1 seed: a verdict needs at least three']
    """
    return [*_few_seeds(recipe, stages), *_small_maps(recipe, stages)]


def _few_seeds(recipe: Recipe, stages: list[str]) -> list[str]:
    """A matrix that compares methods with a baseline by fewer trainings than the rule of verdict.py asks for."""
    cells = [name for name in stages if recipe.stages[name].may_fail and split_name(name)[1] is not None]
    roles = {recipe.stages[name].role for name in cells}
    if not {"student", "baseline"} <= roles:
        return []
    fewest = min(Counter(split_name(name)[0] for name in cells).values())
    needed = {2: "two", 3: "three"}.get(SEEDS, str(SEEDS))
    found = f"{fewest} seed{'s' if fewest > 1 else ''}"
    return [f"{found}: a verdict needs at least {needed}"] if fewest < SEEDS else []


def _small_maps(recipe: Recipe, stages: list[str]) -> list[str]:
    """Discriminators of patches that are larger than what they see: one line for all stages, with the smallest map."""
    size, channels = recipe.data.height_width, recipe.data.channels
    small: dict[str, tuple[int, int]] = {}
    for name in stages:
        stage = recipe.stages[name]
        if stage.task != "adversarial":
            continue
        with torch.device("meta"):
            shapes = stage_shapes(without_weights(stage, channels), channels, size)
        sizes = seen_sizes(stage.adversarial_settings, shapes, size)
        smallest = min(sizes, key=min, default=None)
        if smallest is not None and min(smallest) < RECEPTIVE_FIELD:
            small[name] = smallest
    if not small:
        return []
    height, width = min(small.values(), key=min)
    named = f"stage{'s' if len(small) > 1 else ''} {', '.join(small)}"
    return [
        f"{named}: discriminators see maps of {height}x{width}, smaller than the {RECEPTIVE_FIELD}x{RECEPTIVE_FIELD} "
        "pixels that each of their logits looks at: they judge maps as a whole, not by patches"
    ]
