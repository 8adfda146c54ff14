from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from segdistill.errors import InputError
from segdistill.models.blocks import MaxUnpool
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestSegNet(ModelContract):
    name = "segnet"
    options: ClassVar = {"widths": (4, 4, 8, 8, 8)}


def test_five_stages_are_required() -> None:
    with pytest.raises(InputError, match="widths has 2 levels: this network needs 5"):
        create_network("segnet", widths=(4, 8))


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_smaller_images_are_refused(size: tuple[int, int]) -> None:
    """Five poolings leave nothing of 31 pixels, and one pixel of 32."""
    network = create_network("segnet", in_channels=1, widths=(4, 4, 8, 8, 8)).eval()
    with pytest.raises(InputError, match=r"\d is too small: this network needs at least 32 pixels"):
        network(torch.zeros(1, 1, *size))
    assert network(torch.zeros(1, 1, 32, 33)).logits.shape[2:] == (32, 33)


def test_unpooling_equals_torch_s() -> None:
    image = torch.rand(2, 3, 7, 10)
    pooled, where = nn.MaxPool2d(2, return_indices=True)(image)
    assert torch.equal(MaxUnpool()(pooled, where, (7, 10)), nn.MaxUnpool2d(2)(pooled, where, (7, 10)))
