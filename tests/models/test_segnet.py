from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from segdistill.errors import InputError
from segdistill.models import create_model
from segdistill.models.blocks import MaxUnpool

from .contract import ModelContract


class TestSegNet(ModelContract):
    name = "segnet"
    options: ClassVar = {"widths": (4, 4, 8, 8, 8)}


def test_five_stages_are_required() -> None:
    with pytest.raises(InputError, match="widths has 2 levels: this network needs 5"):
        create_model("segnet", widths=(4, 8))


def test_unpooling_equals_torch_s() -> None:
    image = torch.rand(2, 3, 7, 10)
    pooled, where = nn.MaxPool2d(2, return_indices=True)(image)
    assert torch.equal(MaxUnpool()(pooled, where, (7, 10)), nn.MaxUnpool2d(2)(pooled, where, (7, 10)))
