"""The integer counts and costs of every published network, and the four counting rules by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segdistill.errors import InputError
from segdistill.models.complexity import MODES, complexity
from segdistill.models.network import shapes_only
from segdistill.models.registry import NETWORKS, create_network, network_facts
from segdistill.papers.costs import PUBLISHED, PublishedCost, rows

ROWS = [pytest.param(row, id=f"{row.paper}-{row.name}-{row.preset}-{i}") for i, row in enumerate(PUBLISHED)]


def cost_of(row: PublishedCost, mode: str) -> tuple[int, int]:
    image = (row.channels, row.size, row.size)
    found = complexity(row.name, image, mode, classes=row.classes, preset=row.preset, **row.options)
    return found.parameters, found.macs


@pytest.mark.parametrize("row", ROWS)
def test_published_networks_have_the_exact_counts(row: PublishedCost) -> None:
    parameters, macs = cost_of(row, "mac")
    assert parameters == row.parameters
    assert macs / 1e9 == pytest.approx(row.gmac, rel=1e-4)
    if row.printed_cost is not None:
        assert_printed(cost_of(row, row.mode)[1] / 1e9, row.printed_cost)
    if row.printed_parameters is not None and "misprint" not in row.note:
        assert_printed(parameters / 1e6, row.printed_parameters)


def assert_printed(value: float, printed: float) -> None:
    """Within 0.1 % of what is printed, or the same in its digits, whether rounded or cut off."""
    last_digit = 10.0 ** -len(str(printed).partition(".")[2])
    assert abs(value - printed) < max(1e-3 * printed, last_digit)


def test_rows_are_unique() -> None:
    keys = [(r.name, r.preset, tuple(r.options), r.channels, r.classes, r.size) for r in PUBLISHED]
    assert len(set(keys)) == len(keys)


DEEP = ("101", "resnet50", "xception", "u2net")
"""Networks that take longer to count, of the same modules as others."""
COUNTED = [
    pytest.param(name, marks=pytest.mark.slow if any(part in name for part in DEEP) else ())
    for name in NETWORKS
    if network_facts(name).kind not in ("discriminator", "external")
]


@pytest.mark.parametrize("name", COUNTED)
def test_macs_are_half_of_torch_s_flops(name: str) -> None:
    with shapes_only():
        model, image = create_network(name).eval(), torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    counted, flops = 2 * complexity(name, (3, 64, 64)).macs, counter.get_total_flops()
    if name == "vit_b16":
        # torch counts the two products of attention, which have no weights; no rule of the papers does
        layers, heads, products, tokens, width = 12, 12, 2, 17, 64
        counted += layers * heads * products * 2 * tokens**2 * width
    assert counted == flops


def test_the_stored_size_is_the_printed_one() -> None:
    sizes = {row.name: row.printed_mb for row in PUBLISHED if row.printed_mb and row.name != "unet_3plus"}
    for name, printed in sizes.items():
        if "resnet" in name:
            continue  # the printed one holds an unused classifier
        found = complexity(name).size_mb
        assert printed - 1 <= found <= printed, name  # printed values are rounded up
    assert math.ceil(complexity("unet_3plus").size_mb) == pytest.approx(104, abs=1)


def test_published_resnets_count_as_in_the_tables() -> None:
    """ResNeXt101 32x8d and the body of FCN-ResNet101 with a 1x1 head, at 1 x 384 x 384, two classes."""
    from segdistill.models.resnet import ResNet

    class Bare(nn.Module):
        def __init__(self, stride: int, **options: int) -> None:
            super().__init__()
            self.encoder = ResNet(101, 1, output_stride=stride, **options)  # type: ignore[arg-type]
            self.head = nn.Conv2d(2048, 2, 1)
            self.enlarge = nn.Upsample(scale_factor=stride, mode="bilinear")

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.enlarge(self.head(self.encoder(image)[-1]))
            return out

    with shapes_only():
        resnext, body = Bare(32, groups=32, base_width=8), Bare(8)
    found = complexity(resnext, (1, 384, 384), "ptflops2")
    assert found.parameters == 86_740_162
    assert found.macs / 1e9 == pytest.approx(96.547, rel=1e-5)
    assert complexity(body, (1, 384, 384), "ptflops2").macs / 1e9 == pytest.approx(199.748, rel=1e-5)


class Small(nn.Module):
    """Every kind of layer once, the activation twice, and one layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.PReLU()
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2, bias=False)
        self.bilinear = nn.Upsample(scale_factor=2, mode="bilinear")
        self.never = nn.Linear(7, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.act(self.norm(self.conv(x))))  # 4 x 8 x 8 -> 4 x 4 x 4
        out: torch.Tensor = self.bilinear(self.act(self.up(x)))  # 4 x 8 x 8 -> 4 x 16 x 16
        return out


CONV, UP_INPUT, UP_OUTPUT = 9 * 1 * 4 * 64, 4 * 4 * 4 * 16, 4 * 4 * 4 * 64


@pytest.mark.parametrize(
    ("mode", "count"),
    [
        ("mac", CONV + UP_INPUT),
        ("torchstat", (CONV + 256) + 2 * 256 + 256 + 256 + 256),  # activation once; 16 x 16 pixels
        ("ptflops2", 2 * ((CONV + 256) + 2 * 256 + 2 * 256 + 256 + UP_OUTPUT + 1024)),
        ("torchstat_sync", (CONV + 256) + 256 + 256 + 256),
        ("thop", (CONV + 256) + 2 * 256 + UP_OUTPUT + 11 * 1024),
    ],
)
def test_each_rule_by_hand(mode: str, count: int) -> None:
    model = Small()
    found = complexity(model, (2, 8, 8), mode)
    assert (found.macs, found.unused, found.mode) == (count, 7, mode)
    assert found.parameters == sum(value.numel() for value in model.parameters())


def test_the_counted_network_is_left_as_it_was() -> None:
    model = Small().train()
    model.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    complexity(model, (2, 8, 8))
    assert model.training
    assert not model.norm.training
    assert all(
        value.device.type == "cpu" and torch.equal(value, before[k])
        for k, value in model.state_dict().items()
    )
    assert not any(module._forward_hooks for module in model.modules())


def test_the_deconvolution_reading_of_the_teacher_costs_a_quarter_less() -> None:
    found = complexity("resnet101_attention_unet", decoder_up="deconv3")
    assert found.parameters == 106_056_494
    assert found.macs / 1e9 == pytest.approx(154.85, rel=1e-4)
    assert complexity(
        "resnet101_attention_unet", mode="torchstat", decoder_up="deconv3"
    ).macs / 1e9 == pytest.approx(138.28, rel=1e-3)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="unknown way of counting 'flops': choose from mac"):
        complexity("unet", mode="flops")
    with pytest.raises(InputError, match="height 500 is not a multiple of 16: pad to 512"):
        complexity("unet", (3, 500, 512))
    with pytest.raises(InputError, match="is not"):
        complexity("unet", (0, 512, 512))
    assert rows("nothing") == []
    assert set(MODES) == {"mac", "torchstat", "torchstat_sync", "ptflops2", "thop"}
