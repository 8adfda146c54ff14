"""The 1x1 convolution with a stride against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segdistill.models.blocks import PointwiseConv
from segdistill.models.registry import create_network


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_equals_the_strided_convolution(stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = PointwiseConv(5, 7, stride=stride)
    reference = nn.Conv2d(5, 7, 1, stride)
    reference.load_state_dict(ours.state_dict())
    image = torch.randn(2, 5, *size)
    mine, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    ours(mine).square().sum().backward()
    reference(theirs).square().sum().backward()
    torch.testing.assert_close(ours(image), reference(image))
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(ours.weight.grad, reference.weight.grad)


def test_keeps_channels_last() -> None:
    image = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    out = PointwiseConv(8, 24, stride=2)(image)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deep_resunet", {"widths": [8, 12, 16]}),
        ("resnet_attention_unet", {"depth": 18, "base": 4}),
        ("deeplabv3plus_xception65", {"base": 4, "middle": 1}),
    ],
)
def test_no_strided_pointwise_convolution_is_left_to_torch(name: str, arguments: dict[str, object]) -> None:
    network = create_network(name, in_channels=1, classes=1, **arguments)
    left = [
        part
        for part, module in network.named_modules()
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1)
    ]
    assert left == []
