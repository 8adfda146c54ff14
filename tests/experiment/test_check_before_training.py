"""What would only fail when its stage is built or trained is refused before anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segdistill.config.schema import parse_recipe
from segdistill.data.case import Case
from segdistill.errors import InputError
from segdistill.experiment.check import check_parts, require_cases
from segdistill.models.resnet import ResNet
from tests.experiment.tiny import RECIPE


def check(student: dict[str, Any], size: int | list[int] = 32) -> None:
    """Checks a distillation whose student is another one."""
    stages = RECIPE["stages"]
    changes = {
        "data": RECIPE["data"] | {"size": size},
        "stages": stages | {"student": stages["student"] | {"model": student}},
    }
    recipe = parse_recipe(RECIPE | changes, "tiny.yaml")
    check_parts(recipe, list(recipe.stages))


SEGNET = {"name": "segnet", "widths": [4, 4, 4, 4, 4]}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (16, "16x16 is below 32 pixels; use size=32"),
        ([64, 28], r"64x28 is below 32 pixels; use size=\[64, 32\]"),
    ],
)
def test_images_that_are_too_small_for_a_network(size: int | list[int], message: str) -> None:
    with pytest.raises(InputError, match="stage student: image size " + message):
        check(SEGNET, size)


def test_images_that_are_large_enough() -> None:
    check(SEGNET, [32, 36])


def resnet(weights: Path | str, **options: object) -> dict[str, Any]:
    return {"name": "resnet_attention_unet", "depth": 18, "base": 8, "pretrained": str(weights), **options}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(ResNet(18, base=8).state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def test_weights_that_fit(file: Path, tmp_path: Path) -> None:
    check(resnet(file))  # of three channels, for images of one: summed
    tensors = {name: value.clone() for name, value in ResNet(18, base=8).state_dict().items()}
    save_file(tensors, tmp_path / "resnet18.safetensors")
    check(resnet(tmp_path / "resnet18.safetensors"))
    check(resnet("https://example.org/resnet18-f37072fd.pth"))  # a hash, and nothing is downloaded


def test_weights_that_do_not(file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    unet = {"name": "simplified_unet", "widths": [2, 4, 4]}
    for student, message in (
        (
            resnet(file, base=16),
            "resnet18.pth does not fit this encoder: conv1.weight is 8x1x7x7, not 16x1x7x7",
        ),
        (resnet(file, depth=34), "resnet18.pth does not fit this encoder: layer1.2.conv1.weight is missing"),
        (resnet(tmp_path / "text.pth"), "text.pth is damaged or no file of plain weights"),
        (resnet(tmp_path / "none.pth"), "no weights file"),
        (resnet(file, sha256="0" * 64), "does not have the SHA-256"),
        (resnet("https://example.org/resnet18.pth"), "has no hash in its name: give its sha256"),
        (unet | {"pretrained": str(file)}, "does not fit this encoder"),
        (
            {"name": "enet", "pretrained": str(file)},
            "model 'enet' has no encoder to load pretrained weights into",
        ),
    ):
        with pytest.raises(InputError, match="stage student: ") as refused:
            check(student)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("taught", "methods", "refused"),
    [
        ("without_mask", {"region_contrast": {}}, True),
        ("all", {"region_contrast": {}}, False),
        ("without_mask", {"region_contrast": {}, "soft_prediction": {}}, False),
    ],
)
def test_methods_that_need_masks_on_images_without(
    taught: str, methods: dict[str, Any], refused: bool
) -> None:
    student = RECIPE["stages"]["student"] | {"methods": methods, "taught_cases": taught}
    recipe = parse_recipe(RECIPE | {"stages": RECIPE["stages"] | {"student": student}}, "tiny.yaml")
    images = [
        Case(
            str(k),
            Path(f"{k}.png"),
            (Path("m.png"),) if k < 2 else (),
            label=("benign", "malignant")[k % 2],
            split="train",
        )
        for k in range(4)
    ]
    if refused:
        with pytest.raises(
            InputError, match="region_contrast needs masks, and none of the images that its teachers"
        ):
            require_cases(recipe, "student", images)
    else:
        require_cases(recipe, "student", images)
