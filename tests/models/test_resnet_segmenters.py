"""PSPNet, DeepLab, FCN and ResNeXt: the big teachers of AMTD and LA-Net's localisation baseline."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from segdistill.errors import InputError
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestPSPNet(ModelContract):
    name = "pspnet_resnet50"
    options: ClassVar = {"base": 4, "dropout": 0.0}


class TestPSPNetGrey(ModelContract):
    name = "pspnet_resnet50"
    options: ClassVar = {"base": 2, "preset": "amtd"}


class TestDeepLabV3PlusResNet(ModelContract):
    name = "deeplabv3plus_resnet50"
    options: ClassVar = {"base": 4}


class TestDeepLabV3PlusStride16(ModelContract):
    name = "deeplabv3plus_resnet50"
    options: ClassVar = {"base": 2, "output_stride": 16}


class TestDeepLabV3PlusXception(ModelContract):
    name = "deeplabv3plus_xception65"
    options: ClassVar = {"base": 8, "middle": 1}


class TestDeepLabV3(ModelContract):
    name = "deeplabv3_resnet50"
    options: ClassVar = {"base": 4}


class TestFCN(ModelContract):
    name = "fcn_resnet101"
    options: ClassVar = {"base": 2}


class TestFCNCounted(ModelContract):
    name = "fcn_resnet101"
    options: ClassVar = {"base": 2, "preset": "counted"}


class TestResNeXt(ModelContract):
    name = "resnext101_32x8d"
    options: ClassVar = {"base": 8}


TAPS = [
    ("pspnet_resnet50", {"preset": "amtd"}, (2048, 48), (512, 48), (64, 192), (2048, 48)),
    ("deeplabv3plus_xception65", {}, (2048, 48), (256, 96), (32, 192), (2048, 48)),
    ("fcn_resnet101", {}, (2048, 48), (512, 48), (64, 192), (2048, 48)),
    ("resnext101_32x8d", {}, (1024, 24), (2048, 12), (64, 192), (2048, 12)),
]


@pytest.mark.parametrize(("name", "options", "encoder", "decoder", "low", "high"), TAPS)
def test_taps_are_those_of_amtd_at_384(
    name: str, options: dict[str, Any], encoder: object, decoder: object, low: object, high: object
) -> None:
    with shapes_only():
        model = create_network(name, 1, **options).eval()
        features = model(torch.zeros(1, 1, 384, 384)).features
    shapes = [tuple(features[layer].shape[1:]) for layer in ("encoder", "decoder", "low", "high")]
    assert [(channels, height) for channels, height, _ in shapes] == [encoder, decoder, low, high]


@pytest.mark.parametrize(
    ("name", "unused"), [("fcn_resnet101", 9_448_981), ("deeplabv3plus_xception65", 2_049_000)]
)
def test_only_the_published_preset_declares_what_never_runs(name: str, unused: int) -> None:
    from segdistill.models.complexity import complexity

    assert complexity(name, (1, 384, 384)).unused == 0
    assert complexity(name, (1, 384, 384), preset="published").unused == unused


def test_a_grey_image_is_repeated_in_the_network() -> None:
    model = create_network("pspnet_resnet50", 1, base=2, repeat_grey=True).eval()
    grey = torch.rand(1, 1, 32, 32)
    plain = create_network("pspnet_resnet50", 3, base=2).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(grey).logits, plain(grey.repeat(1, 3, 1, 1)).logits)


@pytest.mark.parametrize("name", ["pspnet_resnet50", "deeplabv3plus_resnet50", "deeplabv3_resnet50"])
def test_one_image_cannot_train_the_branch_that_pools_it(name: str) -> None:
    with pytest.raises(InputError, match="train with at least two per batch"):
        create_network(name, base=2)(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplabv3plus_xception65", {"output_stride": 16}, "output_stride is 16: Xception-65 has only 8"),
        ("deeplabv3plus_xception65", {"backbone": "resnet50"}, "'backbone' .* is fixed by its name"),
        ("pspnet_resnet50", {"dropout": 1.0}, "dropout is 1.0: it must be at least 0 and below 1"),
    ],
)
def test_wrong_options_say_what_is_wrong(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network(name, **options)
