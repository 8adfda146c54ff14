"""The light students of AMTD and LightVessel: ENet, ERFNet, ESPNet, MobileNetV2 and its U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from segdistill.errors import InputError
from segdistill.models.complexity import complexity
from segdistill.models.mobilenet import MobileNetV2
from segdistill.models.network import Network, shapes_only
from segdistill.models.pretrained import load_encoder_weights
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract


class TestENet(ModelContract):
    name = "enet"


class TestENetOfAMTD(ModelContract):
    name = "enet"
    options: ClassVar = {"preset": "amtd"}


class TestERFNet(ModelContract):
    name = "erfnet"


class TestESPNet(ModelContract):
    name = "espnet"
    options: ClassVar = {"preset": "amtd"}


class TestMobileNetV2(ModelContract):
    name = "mobilenet_v2"
    options: ClassVar = {"preset": "amtd"}


class TestMobileNetV2UNet(ModelContract):
    name = "mobilenet_v2_unet"


def shapes(name: str, size: int, **options: Any) -> dict[str, tuple[int, ...]]:
    """Feature name -> (channels, height, width) for a one-channel image, which must be as declared."""
    with shapes_only():
        model = create_network(name, 1, 2, **options).eval()
        features = model(torch.zeros(1, 1, size, size)).features
    assert isinstance(model, Network)
    assert {name: map_.shape[1:] for name, map_ in features.items()} == {
        name: (channels, size // stride, size // stride) for name, channels, stride in model.feature_info
    }
    return {name: tuple(map_.shape[1:]) for name, map_ in features.items()}


@pytest.mark.parametrize(
    ("name", "preset", "layers"),
    [
        ("enet", "amtd", {"encoder": (128, 48), "decoder": (16, 192), "low": (16, 192), "high": (128, 48)}),
        ("espnet", "amtd", {"encoder": (256, 48), "decoder": (21, 192), "low": (16, 192), "high": (256, 48)}),
        (
            "mobilenet_v2",
            "amtd",
            {"encoder": (320, 48), "decoder": (1280, 48), "low": (32, 192), "high": (1280, 48)},
        ),
    ],
)
def test_amtd_s_taps(name: str, preset: str, layers: dict[str, tuple[int, int]]) -> None:
    found = shapes(name, 384, preset=preset)
    assert {layer: found[layer] for layer in layers} == {
        layer: (c, side, side) for layer, (c, side) in layers.items()
    }


@pytest.mark.parametrize(
    ("name", "channels"), [("enet", (64, 64)), ("erfnet", (64, 64)), ("mobilenet_v2_unet", (24, 24))]
)
def test_lightvessel_s_symmetric_pair(name: str, channels: tuple[int, int]) -> None:
    found = shapes(name, 256)
    assert found["pair_encoder"] == (channels[0], 64, 64)
    assert found["pair_decoder"] == (channels[1], 64, 64)


@pytest.mark.parametrize(
    ("name", "preset", "size", "mode", "reached"),
    [
        ("espnet", "amtd", 384, "ptflops2", 1.274),
        ("enet", "amtd_published", 384, "ptflops2", 2.204),
        ("mobilenet_v2", "published", 384, "ptflops2", 19.839),
        ("mobilenet_v2_unet", None, 256, "torchstat_sync", 0.8044),
        ("enet", "lightvessel", 256, "thop", 0.5161),
        ("erfnet", "published", 256, "torchstat", 3.2196),
        ("sk_unet", "counted", 256, "torchstat_sync", 78.801),
        ("sk_unet", "A", 256, "torchstat_sync", 98.95),
    ],
)
def test_costs_in_the_papers_conventions(
    name: str, preset: str | None, size: int, mode: str, reached: float
) -> None:
    found = complexity(name, (1, size, size), mode, preset=preset)
    assert found.macs / 1e9 == pytest.approx(reached, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "preset", "unused"),
    [("enet", "amtd_published", 17_795), ("erfnet", "published", 258), ("mobilenet_v2", "published", 2_562)],
)
def test_published_presets_declare_what_never_runs(name: str, preset: str, unused: int) -> None:
    assert complexity(name, (1, 64, 64), preset=preset).unused == unused
    assert complexity(name, (1, 64, 64)).unused == 0


def test_a_grey_image_is_repeated_for_amtd() -> None:
    assert complexity("mobilenet_v2_unet", (3, 256, 256)).parameters == 4_682_899
    torch.manual_seed(0)
    model = create_network("espnet", 1, preset="amtd").eval()
    torch.manual_seed(0)
    colour = create_network("espnet", 3).eval()
    image = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(image).logits, colour(image.repeat(1, 3, 1, 1)).logits)


def test_mobilenet_takes_torchvision_s_names(tmp_path: Path) -> None:
    weights = MobileNetV2(3).state_dict()
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.18.1.bias"} <= weights.keys()
    assert weights["features.2.conv.1.0.weight"].shape == (96, 1, 3, 3)
    file = tmp_path / "weights.pth"
    torch.save({**weights, "classifier.1.weight": torch.zeros(1000, 1280)}, file)
    model = create_network("mobilenet_v2")
    load_encoder_weights(model.get_submodule("encoder"), file)
    assert torch.equal(model.state_dict()["encoder.features.18.0.weight"], weights["features.18.0.weight"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("enet", {"in_channels": 16}, "enet takes at most 15 input channels, not 16"),
        ("erfnet", {"in_channels": 16}, "erfnet takes at most 15 input channels, not 16"),
        ("enet", {"dropout": 1.0}, "dropout is 1.0: it must be at least 0 and below 1"),
        ("enet", {"unused_layers": True}, "only the dialect amtd of enet has a layer that never runs"),
        ("enet", {"dialect": "b"}, "dialect is 'b': choose from lightvessel, amtd"),
    ],
)
def test_options_that_make_no_network_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network(name, **options)


def test_strides_that_make_no_mobilenet_are_refused() -> None:
    with pytest.raises(InputError, match="MobileNetV2 has seven stages of stride 1 or 2"):
        MobileNetV2(strides=(1, 2))
