"""Every bundled recipe runs, all its stages, from synthetic data to the report, with reduced networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segdistill.config.load import bundled_recipes
from segdistill.experiment.machine import Machine
from segdistill.experiment.run import run_recipe
from segdistill.metrics.cases import read_metrics_csv
from segdistill.records import EvaluationRecord, StageRecord
from tests.experiment.synthetic import tiny_recipe, write_data


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", bundled_recipes())
def test_a_bundled_recipe_runs(name: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(name)
    folder = tmp_path / "runs" / "r"
    list(run_recipe(recipe, write_data(recipe, tmp_path / "data"), folder, Machine("cpu")))
    networks = [stage for stage, part in recipe.stages.items() if part.task != "autoencoder"]
    assert json.loads((folder / "run.json").read_text())["stages"] == networks
    assert (folder / "report.html").stat().st_size > 1000
    assert (folder / "model.onnx").exists() == (recipe.export is not None)
    require_different(folder, networks)
    for stage in networks:
        results = read_metrics_csv(folder / "stages" / stage / "metrics.csv")
        evaluated = EvaluationRecord.read(folder / "stages" / stage)
        assert evaluated is not None
        assert results or evaluated.classification  # a classifier gives no mask
        assert all(set(recipe.evaluation.metrics) <= set(result.metrics) for result in results)
        assert bool(evaluated.pooled) == recipe.evaluation.pooled
        if recipe.data.intensity is not None:  # tested as volumes, not slice by slice
            assert {result.depth for result in results} == {4}
            assert len({result.site for result in results}) > 1


@pytest.mark.slow
def test_the_ablation_of_pseudo_labels_compares_three_things(tmp_path: Path) -> None:
    """They are for images without a location: with all locations they would end with the same weights."""
    recipe, names = tiny_recipe("lanet/ablation"), ["half@0", "no_pseudo@0", "release_rule@0"]
    assert {recipe.locations_of(name) for name in [*names, "locate_half@0"]} == {0.5}
    list(run_recipe(recipe, write_data(recipe, tmp_path / "data"), tmp_path / "r", Machine("cpu"), names))
    require_different(tmp_path / "r", names)


def require_different(folder: Path, names: list[str]) -> None:
    """No two stages of a run have the same weights: a comparison of two would compare nothing."""
    hashes: dict[str, str] = {}
    for name in names:
        record = StageRecord.read(folder / "stages" / name)
        assert record is not None
        other = hashes.setdefault(record.weights_sha256, name)
        assert other == name, f"{name} has the weights of {other}"
