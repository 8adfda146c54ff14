from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from segdistill.errors import InputError
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestResNet18(ModelContract):
    name = "resnet18"
    options: ClassVar = {"base": 8}


class TestResNet50(ModelContract):
    name = "resnet50"
    options: ClassVar = {"base": 4}


class TestEfficientNet(ModelContract):
    name = "efficientnet_b0"
    size = 64
    tolerance = 1e-3


class TestViT(ModelContract):
    name = "vit_b16"
    options: ClassVar = {"image_size": 32, "width": 24, "layers": 2, "heads": 3}


def test_vit_takes_another_size_than_it_was_made_for() -> None:
    model = create_network("vit_b16", image_size=32, width=16, layers=1, heads=2).eval()
    with torch.no_grad():
        output = model(torch.rand(2, 3, 64, 48))
    assert output.logits is None
    assert output.features["encoder"].shape == (2, 16, 4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 250}, "image_size 250 is not divisible by 16"),
        ({"width": 30, "heads": 4}, "width 30 is not divisible by 4 heads"),
    ],
)
def test_a_vit_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network("vit_b16", **options)
