"""The recipes of AMTD and LightVessel are the papers', and the small ones compare what they say they compare."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segdistill.config.load import bundled_recipes, load_recipe
from segdistill.config.schema import Recipe
from segdistill.data.datasets import create_dataset
from segdistill.data.store import prepare_store
from segdistill.distillation import create_method
from segdistill.distillation.layers import declared_layers
from segdistill.experiment.cases import load_cases
from segdistill.imaging.patches import PatchGrid
from segdistill.models.network import FeatureInfo, Output, shapes_only
from segdistill.models.registry import create_network
from segdistill.papers.hours import stage_hours

STUDENTS = {"enet": "enet", "espnet": "espnet", "mobilenet": "mobilenet_v2"}
AMTD_METHODS = [
    ("soft_prediction", 0.1, {"temperature": 4.0}),
    ("attention_transfer", 0.1, {}),
    ("region_contrast", 0.1, {}),
]


def taught_by(recipe: Recipe, stage: str) -> list[str]:
    return recipe.stages[stage].taught_by


@pytest.mark.parametrize(("name", "subsets"), [("amtd/prostate", 3), ("amtd/spleen", 2)])
def test_amtd_is_the_papers(name: str, subsets: int) -> None:
    recipe = load_recipe(name)
    assert recipe.data.height_width == (384, 384)
    assert recipe.data.intensity == ("mr" if subsets == 3 else "ct")
    assert not recipe.data.skip_empty
    for stage, part in recipe.stages.items():
        fit = recipe.fit_settings(stage)
        assert (fit.epochs, fit.batch_size, fit.augment) == (100, 16, "amtd")
        assert (fit.optimizer.name, fit.optimizer.lr, fit.optimizer.weight_decay) == ("adam", 1e-2, 0)
        assert (fit.schedule.name, fit.schedule.lowest, fit.schedule.steps_up) == ("cyclic", 1e-6, 2000)
        assert part.loss.name == "amtd_seg"
        if part.task == "distillation":
            assert [(k.method, k.weight, k.options) for k in part.methods.values()] == AMTD_METHODS
            assert part.hard_weight == 1
    for student, network in STUDENTS.items():
        assert recipe.stages[f"{student}_baseline"].model.name == network
        for teacher in ("deeplab", "fcn", "pspnet", "resnext"):
            one = recipe.stages[f"{student}_{teacher}"]
            assert (one.model.name, taught_by(recipe, f"{student}_{teacher}")) == (network, [teacher])
            assert recipe.stages[teacher].sites is None
        several = recipe.stages[f"{student}_multi"]
        assert taught_by(recipe, f"{student}_multi") == [f"t{k}" for k in range(1, subsets + 1)]
        assert (several.weighting.name, several.combine) == ("score", "predictions")
    sites = [site for k in range(1, subsets + 1) for site in recipe.stages[f"t{k}"].sites or []]
    assert len(sites) == len(set(sites)) == (6 if subsets == 3 else 2)
    for k, teacher in enumerate(["deeplab", "fcn", "pspnet"][:subsets], 1):
        assert recipe.stages[f"t{k}"].model == recipe.stages[teacher].model


def test_amtd_cpu_compares_one_thing_at_a_time() -> None:
    recipe = load_recipe("amtd/cpu")
    assert [recipe.stages[f"t{k}"].sites for k in (1, 2, 3)] == [["RUNMC"], ["UCL"], ["BIDMC"]]
    assert len({recipe.stages[f"t{k}"].model.name for k in (1, 2, 3)}) == 3
    for student in STUDENTS:
        ways = [f"{student}_{way}" for way in ("baseline", "one", "multi", "uniform")]
        assert len({recipe.fit_settings(way).model_dump_json() for way in ways}) == 1  # equal steps
        assert len({recipe.stages[way].model.model_dump_json() for way in ways}) == 1
        assert len({recipe.stages[way].loss.model_dump_json() for way in ways}) == 1
        baseline, one, score, uniform = (recipe.stages[way] for way in ways)
        assert one.methods == score.methods == uniform.methods
        assert score == uniform.model_copy(update={"weighting": score.weighting, "about": score.about})
        assert (score.weighting.name, uniform.weighting.name) == ("score", "uniform")
        assert not baseline.teachers
        assert taught_by(recipe, ways[1]) == ["t1"]


@pytest.mark.parametrize("name", ["lightvessel/coronary", "lightvessel/clinical", "lightvessel/cpu"])
def test_lightvessel_is_the_papers(name: str) -> None:
    recipe = load_recipe(name)
    small = name == "lightvessel/cpu"
    assert recipe.data.channels == 1
    assert recipe.evaluation.pooled
    for stage, part in recipe.stages.items():
        fit = recipe.fit_settings(stage)
        codes = part.task == "autoencoder"
        if not small:
            assert (fit.epochs, fit.batch_size) == (100 if codes else 200, 16)
        assert (fit.optimizer.name, fit.optimizer.lr) == ("adam", 1e-3)
        assert fit.optimizer.weight_decay == (0 if codes else 2e-4)
        assert (fit.schedule.name, fit.schedule.power) == ("constant" if codes else "polynomial", 0.9)
        assert codes or part.loss.name == ("cross_entropy_rmse" if stage == "rmse" else "cross_entropy")
    networks = {"student": "mobilenet_v2_unet", "enet": "enet", "erfnet": "erfnet"}
    for stage, network in networks.items():
        part = recipe.stages[stage]
        baseline = "baseline" if stage == "student" else f"{stage}_baseline"
        assert part.model.name == recipe.stages[baseline].model.name == network
        assert recipe.fit_settings(stage) == recipe.fit_settings(baseline)
        assert [(name, k.weight) for name, k in part.methods.items()] == [
            ("feature_similarity", 1),
            ("adversarial_similarity", 1),
        ]
        codes = part.methods["feature_similarity"].autoencoders
        assert codes == {"student": f"{stage}_codes", "teacher": "teacher_codes"}
        assert taught_by(recipe, f"{stage}_codes") == [baseline]
    assert list(recipe.stages["student_fsd"].methods) == ["feature_similarity"]


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [("lightvessel/clinical", 992, 4), ("lightvessel/coronary", 300, 2), ("lightvessel/cpu", 300, 2)],
)
def test_patches_are_the_fewest_that_cover_a_picture(name: str, side: int, count: int) -> None:
    patches = load_recipe(name).data.patches
    assert patches is not None
    assert patches.count == count == -(-side // patches.size)
    offsets = PatchGrid(patches.count, patches.size).offsets(side)
    assert (offsets[0], offsets[-1] + patches.size) == (0, side)


def test_the_coronary_pairs_are_halved_with_duplicates_whole(data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe("lightvessel/cpu")
    found = load_cases(recipe.data, data_root / "coronary", tmp_path)
    splits = {case.id: case.split for case in found.cases}
    assert sorted(splits.values()) == ["test"] * 20 + ["train"] * 20
    assert len(found.pairs) == 4
    assert all(splits[pair.first] == splits[pair.second] for pair in found.pairs)
    assert not found.leaks


def test_every_site_of_promise12_trains_and_tests(data_root: Path, tmp_path: Path) -> None:
    recipe = load_recipe("amtd/cpu")
    found = load_cases(recipe.data, data_root / "promise12", tmp_path)
    assert len(found.cases) == len(create_dataset("promise12", data_root / "promise12")) == 37
    for split in ("train", "test"):
        assert {case.site for case in found.cases if case.split == split} == {"RUNMC", "UCL", "BIDMC"}


def test_lightvessels_methods_train_as_the_paper() -> None:
    """Table 1 as lightvessel/coronary: teacher and students for 200 epochs, none of whose views come again."""
    matrix, single = load_recipe("lightvessel/methods"), load_recipe("lightvessel/coronary")
    same = {
        "teacher": "teacher",
        "baseline@0": "baseline",
        "lightvessel@0": "student",
        "fsd@1": "student_fsd",
    }
    for name, other in same.items():
        fit = matrix.fit_settings(name)
        assert (fit, fit.epochs, fit.views) == (single.fit_settings(other), 200, None)
        assert matrix.stages[name].cache == single.stages[other].cache
    assert not any(stage.cache for stage in matrix.stages.values())
    hours = stage_hours(matrix, ["teacher"], "gpu")
    assert hours == pytest.approx(stage_hours(single, ["teacher"], "gpu"))
    assert 0.5 < hours < 2  # as the recipe's comment has it


@pytest.mark.parametrize("name", ["verdict/coronary", "lightvessel/methods"])
def test_lightvessels_comparators_read_its_pair(name: str) -> None:
    """One encoder and one decoder feature at a quarter of the size: 256 channels and 24 at 64x64 of 256x256."""
    stages = load_recipe(name).stages
    encoder, decoder = "pair_encoder|enc@4", "pair_decoder|dec@4"
    read = {"at": [encoder, decoder], "ifvd": [decoder], "skd": [encoder]}
    for method, layers in read.items():
        assert [part.options["layers"] for part in stages[f"{method}@2"].methods.values()] == [layers]
    with shapes_only():
        for model, channels in (("sk_unet", 256), ("mobilenet_v2_unet", 24)):
            found = declared_layers(create_network(model, in_channels=1), [encoder, decoder])
            assert found[encoder] == FeatureInfo("pair_encoder", channels, 4)
            assert found[decoder].stride == 4


@pytest.mark.parametrize(
    ("recipe", "stage", "parameters"),
    [
        ("usseg/networks", "unet_plus_plus", 9.163),
        ("lanet/comparators", "unet", 31.04),
        ("lanet/partial", "unet_50@0", 31.04),
    ],
)
def test_comparators_have_the_published_size(recipe: str, stage: str, parameters: float) -> None:
    model = load_recipe(recipe).stages[stage].model
    with shapes_only():
        network = create_network(model.name, 1, 1, **model.options)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(parameters, abs=0.005)


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("amtd/methods", [["UCL", "BIDMC", "HK"], ["RUNMC", "BMC"], ["I2CVB"]]),
        ("amtd/methods_spleen", [["Duke"], ["Task09_Spleen"]]),
    ],
)
def test_amtds_comparators_have_a_teacher_per_set(name: str, sites: list[list[str]]) -> None:
    recipe = load_recipe(name)
    teachers = [f"t{k}" for k in range(1, len(sites) + 1)]
    assert [recipe.stages[teacher].sites for teacher in teachers] == sites
    assert [name for name, stage in recipe.stages.items() if stage.variant is None] == ["fcn", *teachers]
    for method in ("kd", "at", "emkd", "cirkd", "protokd", "amtd_single"):
        assert taught_by(recipe, f"{method}@1") == ["fcn"]
    for method in ("amtml", "amtd"):
        assert taught_by(recipe, f"{method}@1") == teachers
    assert recipe.stages["at@0"].methods["attention_transfer"].options == {"exponent": 2}
    assert {part.loss.name for part in recipe.stages.values()} == {"amtd_seg"}


def test_the_real_spleen_is_windowed_and_stored_slice_by_slice(data_root: Path, tmp_path: Path) -> None:
    """Against the file itself, read here without the package."""
    (case,) = create_dataset("decathlon", data_root / "spleen")
    assert (case.id, case.site) == ("spleen_8", "Task09_Spleen")
    recipe = load_recipe("amtd/spleen_cpu")
    preprocess = recipe.data.preprocess()
    store = prepare_store([case], preprocess, tmp_path)
    voxels, organ = nifti(case.image), nifti(case.masks[0])
    assert voxels.shape == organ.shape
    assert (len(store), store.size) == (voxels.shape[0], (96, 96))
    shown = np.clip((voxels.astype(float) + 160) / 400, 0, 1) * 255
    for row in range(0, len(store), 5):
        assert store.image(row).mean() == pytest.approx(shown[row].mean(), abs=2)
        assert store.mask(row).mean() == pytest.approx((organ[row] > 0).mean(), abs=0.002)
    assert sum(store.has_foreground(row) for row in range(len(store))) == pytest.approx(
        int((organ > 0).any((1, 2)).sum()), abs=1
    )


def nifti(path: Path) -> NDArray[Any]:
    """The raw array (slices, rows, columns) of a NIfTI-1 file, as its header describes it."""
    content = gzip.decompress(path.read_bytes())
    kinds = {2: "<u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "<i1", 512: "<u2"}
    across, down, slices = np.frombuffer(content, "<i2", 4, 40)[1:]
    kind = kinds[int(np.frombuffer(content, "<i2", 1, 70)[0])]
    begin = int(np.frombuffer(content, "<f4", 1, 108)[0])
    slope, intercept = np.frombuffer(content, "<f4", 2, 112)
    count = int(across) * int(down) * int(slices)
    voxels = np.frombuffer(content, kind, count, begin).reshape(slices, down, across)
    return voxels * (float(slope) or 1.0) + float(intercept)


PAPERS = ("amtd/", "lanet/", "lightbtseg/", "lightvessel/", "usseg/")


@pytest.mark.parametrize("name", [name for name in bundled_recipes() if name.startswith(PAPERS)])
def test_no_two_stages_state_the_same(name: str) -> None:
    """A comparison of stages that differ in nothing, or in an option without effect, compares nothing."""
    recipe = load_recipe(name)
    known: dict[str, str] = {}
    for stage, part in recipe.stages.items():
        facts = {
            **part.facts(),
            "fit": recipe.fit_settings(stage).model_dump(),
            "locations": recipe.locations_of(stage),
            "sites": part.sites,
            "seed": recipe.seed_of(stage),
            "equal_time_to": part.equal_time_to,
        }
        other = known.setdefault(json.dumps(facts, sort_keys=True, default=str), stage)
        assert other == stage, f"{stage} is {other} again"
        joint = part.joint_settings
        learns_map = joint is not None and joint.location == "map" and not joint.labelled_only
        if learns_map and part.joint is not None and "pseudo_labels" in part.joint.model_fields_set:
            assert recipe.locations_of(stage) < 1, f"{stage}: pseudo labels are for images without a location"


def test_recipes_that_distil_state_their_weights() -> None:
    for name, about in bundled_recipes().items():
        if any(stage.methods for stage in load_recipe(name).stages.values()):
            assert re.search("[Ww]eights of the methods", about), name


@pytest.mark.parametrize("name", ["lightvessel/methods", "amtd/methods"])
def test_comparisons_at_equal_r_change_the_weights_alone(name: str) -> None:
    published, equal = load_recipe(name), load_recipe(f"{name}_equal")
    assert list(equal.stages) == list(published.stages)
    for stage, part in equal.stages.items():
        other = published.stages[stage]
        assert part.model_copy(update={"methods": {}}) == other.model_copy(update={"methods": {}})
        for key, method in part.methods.items():
            assert (method.weight, method.options.get("scale")) == (1.0, "gradient"), stage
            plain = {k: value for k, value in other.methods[key].options.items() if k != "scale"}
            assert {k: value for k, value in method.options.items() if k != "scale"} == plain


def test_amtd_printed_is_literal() -> None:
    """At T = 4 the method's KL is 16 times Eq. 2; the weighted one is 0.1 of the printed mean over positions."""
    recipe = load_recipe("amtd/printed")
    stage = recipe.stages["enet_printed"]
    kl = stage.methods["soft_prediction"]
    assert (stage.weighting.name, kl.options["direction"]) == ("printed", "student_teacher")
    rng = np.random.default_rng(0)
    logits = [torch.tensor(rng.normal(size=(1, 2, 3, 5)), dtype=torch.float32) for _ in range(2)]
    method = create_method("soft_prediction", **kl.options)
    student, teacher = (method.targets(Output(z, {})) for z in logits)
    s, t = (np.exp(z.numpy() / 4) / np.exp(z.numpy() / 4).sum(1, keepdims=True) for z in logits)
    printed = (s * np.log(s / t)).sum(1).mean()
    assert kl.weight * method(student, teacher).item() == pytest.approx(0.1 * printed, rel=1e-5)
    small = load_recipe("amtd/printed_cpu").stages["enet_printed"]
    assert (small.methods, small.weighting) == (stage.methods, stage.weighting)
