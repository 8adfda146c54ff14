from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from segdistill.errors import InputError
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestSKUNet(ModelContract):
    name = "sk_unet"
    options: ClassVar = {"widths": (4, 8, 16)}
    size = 16


class TestSKUNetPlain(ModelContract):
    name = "sk_unet"
    options: ClassVar = {"preset": "A", "widths": (4, 8)}
    size = 8


class TestSKUNetLight(ModelContract):
    name = "sk_unet"
    options: ClassVar = {"preset": "B", "widths": (4, 8)}
    size = 8


@pytest.mark.parametrize(("preset", "channels"), [("counted", 256), ("A", 256), ("B", 512)])
def test_the_symmetric_pair_is_at_a_quarter(preset: str, channels: int) -> None:
    with shapes_only():
        features = create_network("sk_unet", 1, preset=preset).eval()(torch.zeros(1, 1, 256, 256)).features
    assert features["pair_encoder"].shape == (1, 256, 64, 64)
    assert features["pair_decoder"].shape == (1, channels, 64, 64)


def test_one_image_cannot_train_the_pooled_normalisation() -> None:
    model = create_network("sk_unet", 1, widths=(4, 8)).train()
    with pytest.raises(InputError, match="train with at least two per batch"):
        model(torch.zeros(1, 1, 32, 32))
    model.eval()(torch.zeros(1, 1, 32, 32))


def test_a_reduction_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="reduction is 0: it must be at least 1"):
        create_network("sk_unet", reduction=0)
