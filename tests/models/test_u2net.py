from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestU2Net(ModelContract):
    name = "u2net"
    options: ClassVar = {"scale": "tiny"}


@pytest.mark.parametrize("scale", ["full", "small"])
def test_published_scales_have_the_declared_features(scale: str) -> None:
    with shapes_only():
        model = create_network("u2net", preset=scale).eval()
        output = model(torch.zeros(1, 3, 64, 64))
    for info in model.feature_info:  # type: ignore[union-attr]
        name, channels, stride = info  # type: ignore[misc]
        assert output.features[name].shape == (1, channels, 64 // stride, 64 // stride)
    assert [tuple(level.shape) for level in output.deep] == [(1, 2, 64, 64)] * 6
