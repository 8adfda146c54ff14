from __future__ import annotations

from typing import ClassVar

import torch

from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from tests.models.contract import StudentContract


class TestSimplifiedUNetJoint(StudentContract):
    name = "simplified_unet_joint"
    options: ClassVar = {"widths": (4, 8, 16), "labels": 3}


def test_it_is_light_and_adds_one_linear_layer() -> None:
    with shapes_only():
        plain, joint = (create_network(name) for name in ("simplified_unet", "simplified_unet_joint"))
    counts = [sum(value.numel() for value in model.parameters()) for model in (plain, joint)]
    assert counts[1] - counts[0] == 2 * (256 + 1)
    assert counts[1] < 3_000_000


def test_the_mask_guides_the_class_unless_switched_off() -> None:
    image = torch.rand(2, 3, 32, 32)
    for mam in (True, False):
        torch.manual_seed(0)
        model = create_network("simplified_unet_joint", widths=[4, 8, 16], mam=mam).eval()
        with torch.no_grad():
            before = model(image).label
            model.head.bias[1] += 3.0  # type: ignore[union-attr, index, operator]
            assert torch.equal(model(image).label, before) != mam
