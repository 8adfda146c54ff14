"""U-Nets of the comparison rows: nested, full-scale, residual, multi-scale, and US-SEG's generator."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from segdistill.errors import InputError
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestUNetPlusPlus(ModelContract):
    name = "unet_plus_plus"
    options: ClassVar = {"widths": (4, 8, 16)}
    size = 16


class TestUNetPlusPlusDeep(ModelContract):
    name = "unet_plus_plus"
    options: ClassVar = {"widths": (4, 8, 16), "deep_supervision": True}
    size = 8


class TestUNet3Plus(ModelContract):
    name = "unet_3plus"
    options: ClassVar = {"widths": (4, 8, 16)}
    size = 16


class TestUNet3PlusDeep(ModelContract):
    name = "unet_3plus"
    options: ClassVar = {"widths": (4, 8), "deep_supervision": True}
    size = 8


class TestDeepResUNet(ModelContract):
    name = "deep_resunet"
    options: ClassVar = {"widths": (4, 8, 16)}
    size = 16


class TestDeepResUNetPort(ModelContract):
    name = "deep_resunet"
    options: ClassVar = {"preset": "port", "widths": (4, 8)}
    size = 8


class TestMSUNet(ModelContract):
    name = "msu_net"
    options: ClassVar = {"widths": (4, 8, 16)}
    size = 16


class TestUSUNet(ModelContract):
    name = "us_unet"
    options: ClassVar = {"widths": (4, 8, 16)}
    size = 16


@pytest.mark.parametrize(
    ("name", "options", "deep"),
    [
        ("unet_plus_plus", {"deep_supervision": True}, [(8, 8), (8, 8)]),
        ("unet_3plus", {"deep_supervision": True}, [(8, 8), (8, 8), (8, 8)]),
        ("us_unet", {}, [(4, 4), (2, 2)]),
        ("us_unet", {"stages": 2}, [(4, 4)]),
        ("us_unet", {"preset": "published"}, []),
    ],
)
def test_deep_supervision_is_finest_first(
    name: str, options: dict[str, object], deep: list[tuple[int, int]]
) -> None:
    model = create_network(name, widths=(4, 8, 16, 32), **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        given = [tuple(level.shape[2:]) for level in model(torch.zeros(1, 3, 8, 8)).deep]
    assert given == deep


def test_stages_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="stages is 5: this network has 1 to 4 decoder stages"):
        create_network("us_unet", stages=5)
