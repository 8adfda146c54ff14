"""Recipes that join what the papers have apart: weighed specialists, US-SEG and LA-Net as teachers, boxes, sizes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill.config.load import load_recipe
from segdistill.data.case import reference_mask
from segdistill.data.phantom import write_phantom
from segdistill.data.table import read_cases, write_cases
from segdistill.distillation import create_weighting
from segdistill.errors import InputError
from segdistill.experiment.build import labelled_model
from segdistill.experiment.check import check_parts
from segdistill.experiment.stage import load_stage
from segdistill.imaging.read import read_picture
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from segdistill.training.inference import mask_predictor
from tests.experiment.tiny import RECIPE, segdistill, write_recipe

ADDED = {
    "lightbtseg/adaptive": ["student_adaptive", "student_combined", "student_uniform"],
    "usseg/distill": ["student", "student_of_plain", "baseline"],
}


@pytest.mark.parametrize("name", ADDED)
def test_the_small_recipe_has_the_same_students(name: str) -> None:
    paper, small = load_recipe(name), load_recipe(f"{name}_cpu")
    assert (paper.run, paper.export) == (small.run, small.export)
    assert max(small.data.height_width) <= 128 < max(paper.data.height_width)
    assert small.folds is None
    for stage in ADDED[name]:
        assert paper.stages[stage] == small.stages[stage]
    for recipe in (paper, small):
        chosen = [stage for stage in recipe.run if recipe.stages[stage].role != "teacher"]
        students = [stage for stage in chosen if recipe.stages[stage].model.name == "simplified_unet"]
        assert len({recipe.fit_settings(stage).model_dump_json() for stage in students}) == 1  # equal steps
        assert recipe.with_teachers(recipe.run) == [stage for stage in recipe.stages if stage in recipe.run]


def test_the_sizes_are_those_of_the_recipes_below() -> None:
    for name, base in (
        ("lightbtseg/adaptive", "lightbtseg/busi"),
        ("lightbtseg/adaptive_cpu", "lightbtseg/cpu"),
        ("usseg/distill", "usseg/busi"),
        ("usseg/distill_cpu", "usseg/cpu"),
        ("lanet/distill", "lanet/busi"),
    ):
        recipe, below = load_recipe(name), load_recipe(base)
        assert (recipe.data, recipe.fit, recipe.folds) == (below.data, below.fit, below.folds)
        for (
            stage,
            part,
        ) in below.stages.items():  # a network may become a teacher; specialists that are weighed rest
            if not part.tuned_by:
                same = {"role": part.role, "finetune_teachers": part.finetune_teachers}
                assert recipe.stages[stage].model_copy(update=same) == part


def test_specialists_weigh_as_much_together_however_they_are_weighed() -> None:
    """0.7 beside a hard weight of 0.3 in the paper, and so in every way of weighting; the weights differ per image."""
    recipe = load_recipe("lightbtseg/adaptive_cpu")
    target = torch.zeros(3, 8, 8, dtype=torch.long)
    target[:2, 2:6, 2:6] = 1  # the third image has nothing to find
    sure = torch.stack([target == 0, target == 1], dim=1).float() * 8
    wrong = torch.where(torch.arange(3)[:, None, None, None] == 0, sure, sure.flip(1))
    rows = {}
    for stage in ("student", "student_adaptive", "student_combined", "student_uniform"):
        part = recipe.stages[stage]
        given = torch.tensor([[teacher.weight for teacher in part.teachers.values()]] * 3)
        weights = create_weighting(part.weighting.name, **part.weighting.options)(
            given, [sure, wrong], target
        )
        rows[stage] = part.methods["soft_prediction"].weight * weights
        torch.testing.assert_close(rows[stage].sum(1), torch.full((3,), 0.7))
        assert (part.hard_weight, part.taught_by) == (
            0.3,
            ["benign_teacher", "malignant_teacher"],
        )
        assert [(name, k.options) for name, k in part.methods.items()] == [("soft_prediction", {})]
    torch.testing.assert_close(rows["student"], torch.tensor([[0.5, 0.2]] * 3))
    torch.testing.assert_close(rows["student_uniform"], torch.full((3, 2), 0.35))
    adaptive = rows["student_adaptive"]
    torch.testing.assert_close(adaptive[[0, 2]], torch.full((2, 2), 0.35))  # as good, and nothing to judge by
    assert adaptive[1, 0] > 0.69  # the one that is right in the second image
    torch.testing.assert_close(adaptive, rows["student_combined"])


def test_us_seg_is_compared_with_the_same_network_without_discriminators() -> None:
    for name in ("usseg/distill", "usseg/distill_cpu"):
        recipe = load_recipe(name)
        strong, plain = recipe.stages["us_seg"], recipe.stages["plain"]
        assert (strong.task, plain.task) == ("adversarial", "supervised")
        assert plain.model.options == strong.model.options | {"stages": 1}
        student, other = recipe.stages["student"], recipe.stages["student_of_plain"]
        assert student.taught_by + other.taught_by == ["us_seg", "plain"]
        changed = {"about": other.about, "teachers": other.teachers}
        assert student.model_copy(update=changed) == other
        assert student.model == recipe.stages["baseline"].model


def test_the_light_joint_student_is_the_same_at_both_sizes() -> None:
    paper, small = load_recipe("lanet/distill"), load_recipe("lanet/cpu")
    assert paper.with_teachers(["student"]) == ["locate_r50", "lanet_r50", "student"]
    change = {"teachers": {}, "about": ""}
    for stage in ("student", "baseline"):
        assert paper.stages[stage].model_copy(update=change) == small.stages[stage].model_copy(update=change)


@pytest.mark.parametrize(("size", "side"), [(256, 8), (512, 16)])
def test_la_net_and_its_comparators_take_both_sizes(size: int, side: int) -> None:
    """Without memory, at full width: the map is a thirty-second of the image, and the ViT stretches its positions."""
    recipe = load_recipe("lanet/busi", [f"size={size}"])
    check_parts(recipe, list(recipe.stages))
    assert recipe.stages["vit"].model.options["image_size"] == 256
    for name in ("lanet_r18", "lanet_r50", "vit", "efficientnet", "agn", "rmtl_r18", "unet", "deeplabv3"):
        model = labelled_model(recipe.stages[name])
        with shapes_only(), torch.no_grad():
            network = create_network(model.name, in_channels=3, **model.options).eval()
            output = network(torch.zeros(1, 3, size, size))
        if name not in ("unet", "deeplabv3"):
            assert output.label is not None
            assert output.label.shape == (1, 2)
        if name.startswith("lanet"):
            assert output.deep[0].shape[2:] == (side, side)


def test_a_size_that_no_network_takes_is_refused_with_one_that_it_does() -> None:
    recipe = load_recipe("lanet/busi", ["size=500"])
    with pytest.raises(
        InputError, match="stage vit: image size 500x500 is not a multiple of 16; use size=512"
    ):
        check_parts(recipe, ["vit"])


def test_a_vit_is_trained_at_twice_its_size(tmp_path: Path) -> None:
    vit = {"name": "vit_b16", "image_size": 32, "width": 16, "layers": 1, "heads": 2}
    recipe = write_recipe(tmp_path, stages={"vit": {"task": "joint", "model": vit}}, export=None)
    folder = tmp_path / "runs" / "vit"
    answer = segdistill("run", recipe, "--device", "cpu", "--set", "size=64", "--out", folder)
    assert answer.code == 0, answer.err
    stage = load_stage(folder / "stages" / "vit")
    assert stage.preprocess.size == (64, 64)
    assert stage.network.positions.shape == (1, 16, 2, 2)
    with open(folder / "stages" / "vit" / "classification.csv", newline="") as file:
        assert all(
            float(row["p_malignant"]) + float(row["p_benign"]) == pytest.approx(1)
            for row in csv.DictReader(file)
        )


def test_a_recipe_asks_for_boxes(tmp_path: Path) -> None:
    """Of a table whose test cases have boxes alone; the numbers are worked out again from masks with NumPy."""
    cases = write_phantom(tmp_path / "drawn", 30, size=32)
    boxed = []
    for i, case in enumerate(case for case in cases if case.label != "normal"):
        rows, columns = np.nonzero(reference_mask(case, read_picture(case.image).size))
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        changed = {"masks": (), "box": box, "split": "test"} if i % 3 == 0 else {"split": "train"}
        boxed.append(type(case)(**{**case.__dict__, **changed}))
    write_cases(boxed, tmp_path / "cases.csv")
    data = {key: value for key, value in RECIPE["data"].items() if key not in ("dataset", "phantoms")}
    stages = {"net": RECIPE["stages"]["teacher"]}
    fit = RECIPE["fit"] | {"epochs": 8, "optimizer": {"lr": 0.02}}
    path = write_recipe(
        tmp_path,
        data=data,
        stages=stages,
        fit=fit,
        export=None,
        evaluation={"metrics": ["box_iou", "box_dice"]},
    )
    folder = tmp_path / "runs" / "boxes"
    answer = segdistill("run", path, "--device", "cpu", "--data", tmp_path / "cases.csv", "--out", folder)
    assert answer.code == 0, answer.err
    stage = load_stage(folder / "stages" / "net")
    predict = mask_predictor(stage.network, stage.preprocess, stage.postprocess, torch.device("cpu"))
    with open(folder / "stages" / "net" / "metrics.csv", newline="") as file:
        measured = {row["case"]: row for row in csv.DictReader(file)}
    tested = [case for case in read_cases(folder / "cases.csv") if case.split == "test"]
    assert set(measured) == {case.id for case in tested}
    for case in tested:
        mask = np.asarray(predict(read_picture(case.image)))
        iou = float(measured[case.id]["box_iou"])
        if not mask.any():
            assert iou == 0
            continue
        assert case.box is not None
        filled = np.zeros(mask.shape, bool)
        filled[case.box[1] : case.box[3], case.box[0] : case.box[2]] = True
        best = max(_iou_of_box(part, filled) for part in _components(mask))
        assert 0 <= iou <= best + 1e-9
        assert float(measured[case.id]["box_dice"]) == pytest.approx(2 * iou / (1 + iou))
        if len(_components(mask)) == 1:
            assert iou == pytest.approx(best)
    page = (folder / "report.html").read_text()
    assert "IoU of the boxes" in page
    assert "smaller is better" not in page
    asked = segdistill(
        "evaluate", folder / "stages" / "net", folder / "cases.csv", "--metrics", "box_iou", "--json"
    )
    assert asked.code == 0, asked.err
    assert '"box_iou"' in asked.out
    refused = segdistill("run", path, "--set", "evaluation.metrics=[boxiou]", "--out", tmp_path / "x")
    assert refused.code == 2
    assert "unknown metric 'boxiou': did you mean 'box_iou'" in refused.line


def _components(mask: np.ndarray) -> list[np.ndarray]:
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [labels == k for k in range(1, count + 1)]


def _iou_of_box(part: np.ndarray, filled: np.ndarray) -> float:
    rows, columns = np.nonzero(part)
    box = np.zeros(part.shape, bool)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return float((box & filled).sum() / (box | filled).sum())
