"""Every bundled recipe at tiny size: small networks of the same names, one epoch, synthetic pictures or volumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segdistill.config.load import load_recipe
from segdistill.config.schema import Recipe, parse_recipe
from segdistill.data.case import Case
from segdistill.data.phantom import draw_phantom, write_phantom
from segdistill.data.table import write_cases
from segdistill.models.registry import NETWORKS, network_facts
from tests.imaging.volumes import ORGAN, write_itk

SIDE = 64  # the least that every network takes, and divisible by 32


def tiny_recipe(name: str) -> Recipe:
    """The bundled recipe with its own stages, losses, method and data steps, and reduced networks."""
    content = load_recipe(name).model_dump(mode="json", exclude_none=True)
    content["data"]["size"] = SIDE
    if "patches" in content["data"]:
        content["data"]["patches"]["size"] = SIDE
    content["data"]["split"] = {"method": "hold_out", "test": 0.25, "val": 0.25}
    # the first seed of a matrix: the others are the same stages again
    content["stages"] = {
        name: stage
        for name, stage in content["stages"].items()
        if stage.get("variant") is None or stage["seed"] == 0
    }
    stages = content["stages"].values()
    for part in (content, *stages):
        fit = part.setdefault("fit", {})
        fit |= {"epochs": 1, "batch_size": 4, "precision": "fp32", "workers": 0}
    for stage in stages:
        stage["model"] |= reduced(stage["model"])
        if "locations" in stage:  # of so few cases a quarter may be none of one class
            stage["locations"] = max(stage["locations"], 0.5)
        joint = stage.get("joint", {})
        if "starts_from" in stage and stage["task"] == "joint" and "release" not in joint.values():
            stage["joint"] = joint | {
                "tau": 0.51
            }  # after one epoch no class is sure enough for a pseudo label
    for key in ("run", "folds"):  # all stages, once
        content.pop(key, None)
    return parse_recipe(content, name)


def reduced(model: dict[str, Any]) -> dict[str, Any]:
    """Options that make a network small, where it has such options."""
    if model["name"] == "feature_autoencoder":
        return {"hidden": 8}
    options = NETWORKS[model["name"]].options
    found: dict[str, Any] = {"base": 8, "middle": 1}
    if "depth" not in network_facts(model["name"]).fixed:
        found["depth"] = 18
    if "widths" in options:
        widths = model.get("widths") or options["widths"].default
        found["widths"] = [max(8, width // 32) for width in widths]
    return {name: value for name, value in found.items() if name in options}


def write_data(recipe: Recipe, folder: Path) -> Path:
    """A case table that the recipe can use: volumes of all its sites where it wants an intensity, else pictures."""
    sites = {site for stage in recipe.stages.values() for site in stage.sites or []} | set(
        recipe.data.sites or []
    )
    if recipe.data.intensity is not None:
        cases = [volume(folder, site, k) for site in sorted(sites) for k in range(4)]
    else:
        cases = [replace(case, site="") for case in write_phantom(folder, 30, size=SIDE + 16)]
    write_cases(cases, folder / "cases.csv")
    return folder / "cases.csv"


def volume(folder: Path, site: str, number: int) -> Case:
    """A volume of four slices: lesions in the two middle ones, nothing in the others."""
    drawn = [draw_phantom("benign", 100 * number + k + sum(map(ord, site)), SIDE) for k in range(2)]
    empty = np.zeros((SIDE, SIDE))
    voxels = np.stack([drawn[0][0] * 0.5, *(pixels for pixels, _ in drawn), drawn[1][0] * 0.5])
    masks = np.stack([empty, *(mask for _, mask in drawn), empty])
    name = f"{site}-{number}"
    image = write_itk(folder / f"{name}.mhd", voxels.astype(np.int16))
    mask = write_itk(folder / f"{name}_mask.mhd", masks.astype(np.uint8))
    return Case(name, image, (mask,), site=site, classes=ORGAN)
