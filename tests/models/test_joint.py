"""Networks that localise and classify: LA-Net, RMTL, AG-Sononet."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segdistill.errors import InputError
from segdistill.models.network import shapes_only
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestLANet18(ModelContract):
    name = "lanet_resnet18"
    options: ClassVar = {"base": 8}


class TestLANet50Original(ModelContract):
    name = "lanet_resnet50"
    options: ClassVar = {"base": 4, "preset": "original"}


class TestLANetEfficientNetLite(ModelContract):
    name = "lanet_efficientnet_lite"


class TestRMTL18(ModelContract):
    name = "rmtl_resnet18"
    options: ClassVar = {"base": 4}


class TestRMTL50FixedSizes(ModelContract):
    name = "rmtl_resnet50"
    options: ClassVar = {"base": 2, "sizes": (4, 16), "labels": 3}


class TestAGN(ModelContract):
    name = "agn"

    @pytest.mark.parametrize("classes", [1])
    def test_one_and_several_classes(self, classes: int) -> None:
        super().test_one_and_several_classes(classes)
        with pytest.raises(InputError, match="classes is 4: attention separates only lesion from background"):
            create_network("agn", 1, 4)


class TestAGNConcat(TestAGN):
    options: ClassVar = {"aggregation": "concat", "widths": (4, 4, 8, 8, 16)}


def parameters(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize(("depth", "added", "total"), [(18, 56_527, 11_223_481), (50, 738_307, 24_216_813)])
def test_la_net_adds_what_the_specification_counts(depth: int, added: int, total: int) -> None:
    with shapes_only():
        plain = create_network(f"resnet{depth}")
        joint = create_network(f"lanet_resnet{depth}")
        original = create_network(f"lanet_resnet{depth}", preset="original")
        wide = create_network(f"lanet_resnet{depth}", sam="original")
    assert parameters(joint) - parameters(plain) == added
    assert parameters(original) == total
    assert parameters(wide) - parameters(plain) == added - 2_904  # 53,623 and 735,403


@pytest.mark.parametrize(("depth", "head"), [(18, 1_328_643), (50, 4_867_587)])
def test_rmtl_adds_its_mask_head(depth: int, head: int) -> None:
    with shapes_only():
        plain, joint = create_network(f"resnet{depth}"), create_network(f"rmtl_resnet{depth}")
    assert parameters(joint) - parameters(plain) == head


def test_modules_of_la_net_can_be_left_out() -> None:
    image = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    model = create_network("lanet_resnet18", base=8, cam=False, sam="off", mam=False).eval()
    names = {type(module).__name__ for module in model.modules()}
    assert not names & {"ChannelAttention", "SpatialAttention"}
    with torch.no_grad():
        before = model(image)
        model.fuse[1].bias.add_(3.0)  # type: ignore[index, union-attr, operator]
        after = model(image)
    assert torch.equal(before.label, after.label)  # without mask attention the map does not reach the label
    assert not torch.equal(before.logits, after.logits)


def test_the_lesion_map_guides_the_classifier_of_la_net() -> None:
    image = torch.rand(2, 3, 64, 64)
    model = create_network("lanet_resnet18", base=8).eval()
    with torch.no_grad():
        before = model(image).label
        model.fuse[1].bias.add_(3.0)  # type: ignore[index, union-attr, operator]
        assert not torch.equal(model(image).label, before)


def test_la_net_s_logits_are_the_enlarged_probability() -> None:
    image = torch.rand(2, 3, 96, 96)
    for classes in (1, 2):
        model = create_network("lanet_resnet18", 3, classes, base=8).eval()
        with torch.no_grad():
            output = model(image)
        small = output.deep[0][:, -1:].sigmoid()
        assert small.shape == (2, 1, 3, 3)
        wanted = F.interpolate(small, size=(96, 96), mode="bilinear", align_corners=True)
        given = output.logits.sigmoid() if classes == 1 else output.logits.softmax(1)[:, 1:]
        torch.testing.assert_close(given, wanted, rtol=0, atol=1e-5)


def test_agn_s_attention_is_a_share_of_the_image() -> None:
    with torch.no_grad():
        output = create_network("agn").eval()(torch.rand(2, 3, 64, 64))
    for name, size in (("attention3", 16), ("attention4", 8)):
        weight = output.features[name]
        assert weight.shape == (2, 1, size, size)
        torch.testing.assert_close(weight.sum(dim=(1, 2, 3)), torch.ones(2))
        assert (weight >= 0).all()
    probability = output.logits.softmax(1)[:, 1]
    assert ((probability >= 0) & (probability <= 1)).all()
    assert probability.amax() > 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "lanet_resnet18",
            {"sam": "7x7"},
            "sam is '7x7': choose from three_3x3, original, off",
        ),
        ("lanet_resnet18", {"labels": 0}, "labels is 0: it must be at least 1"),
        ("rmtl_resnet18", {"sizes": (0, 16)}, "sizes has a 0: every map needs at least 1 pixel"),
        ("agn", {"widths": (8, 16)}, "widths has 2 levels: this network needs 5"),
    ],
)
def test_wrong_options_say_what_is_wrong(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network(name, **options)


def test_la_net_takes_another_extractor() -> None:
    """Its encoder is that of the U-Net, so that the same ImageNet weights fit; its map is at stride 32."""
    joint = create_network("lanet_efficientnet_lite", 3).eval()
    unet = create_network("unet_efficientnet_lite", 3)
    assert {k: v.shape for k, v in joint.encoder.state_dict().items()} == {
        k: v.shape for k, v in unet.encoder.state_dict().items()
    }
    output = joint(torch.rand(1, 3, 96, 64))
    assert output.deep[0].shape == (1, 2, 3, 2)
    assert output.label.shape == (1, 2)
    channels = (24, 40, 112, 320)
    inner = [c // 16 for c in channels]
    attention = sum(2 * c * i + c + i for c, i in zip(channels, inner, strict=True))  # shared perceptrons
    attention += 4 * (
        2 * 8 * 9 + 8 * 8 * 9 + 8 * 9 + 2 * (8 + 8 + 1)
    )  # three 3x3 convolutions with batch norm
    maps = sum(9 * c + 1 for c in channels) + (4 * 9 + 1) + 2
    assert parameters(joint) - parameters(joint.encoder) == attention + maps + (320 + 1) * 2
