from __future__ import annotations

from typing import ClassVar

import pytest

from segdistill.errors import InputError
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestDepth18(ModelContract):
    name = "resnet_attention_unet"
    options: ClassVar = {"depth": 18, "base": 8}


class TestDepth50Deconv(ModelContract):
    name = "resnet_attention_unet"
    options: ClassVar = {"depth": 50, "base": 4, "decoder_up": "deconv3"}


def test_gates_follow_the_paper_at_depth_101_and_are_halves_elsewhere() -> None:
    import torch

    with shapes_only():
        published = create_network("resnet101_attention_unet")
        halves = create_network("resnet_attention_unet", depth=50)

    def widths(model: torch.nn.Module) -> list[int]:
        levels = model.get_submodule("decoder.levels").children()
        return [level.get_submodule("gate.psi.0").in_channels for level in levels]  # type: ignore[misc]

    assert widths(published) == [32, 64, 256, 512]
    assert widths(halves) == [32, 128, 256, 512]


def test_a_depth_in_the_name_is_fixed() -> None:
    with pytest.raises(InputError, match="'depth' of resnet101_attention_unet is fixed by its name"):
        create_network("resnet101_attention_unet", depth=18)
