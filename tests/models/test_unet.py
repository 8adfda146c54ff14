from __future__ import annotations

from typing import ClassVar

import pytest

from segdistill.errors import InputError
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract, StudentContract


class TestUNet(ModelContract):
    name = "unet"
    options: ClassVar = {"widths": (8, 16, 32)}
    size = 16


class TestSimplifiedUNet(StudentContract):
    name = "simplified_unet"
    options: ClassVar = {"widths": (4, 8, 16, 32, 64)}
    size = 16


class TestAttentionUNet(ModelContract):
    name = "attention_unet"
    options: ClassVar = {"widths": (8, 16, 32)}
    size = 16


@pytest.mark.parametrize(
    ("widths", "message"), [((8,), "give at least 2"), ((8, 0), "every level needs at least 1 channel")]
)
def test_widths_that_make_no_network_are_refused(widths: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network("unet", widths=widths)


def test_the_issue_s_example_of_a_size() -> None:
    import torch

    with pytest.raises(InputError, match=r"^height 500 is not a multiple of 16: pad to 512$"):
        create_network("simplified_unet")(torch.zeros(1, 3, 500, 512))
