"""The small U-Net for a CPU: under contract, its sizes, and the operators of its model file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from segdistill.errors import InputError
from segdistill.models.complexity import complexity
from segdistill.models.lite_unet import SeparableBlock
from segdistill.models.registry import create_network, network_facts
from tests.models.contract import LogitsOnly, ModelContract, StudentContract

PRESETS = {"tiny": 20_658, "small": 64_786, "medium": 235_122, "large": 719_474, "huge": 905_954}
VOLUME_PRESETS = {"volume_large": 929_970, "volume_medium": 232_986, "volume_wide": 895_202}
VOLUME_PRESETS |= {"volume_small": 86_982, "volume_half": 287_154, "volume_tiny": 72_090}
ALLOWED = {"Conv", "Relu", "Clip", "Add", "Concat", "MaxPool", "Resize"}
"""What int8 keeps: batch normalisation is part of the convolutions."""


class TestLiteUNet(StudentContract):
    name = "lite_unet"
    options: ClassVar = {"widths": (8, 16)}

    def test_onnx_gives_the_same(self, tmp_path: Path) -> None:
        super().test_onnx_gives_the_same(tmp_path)
        kinds = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
        assert kinds.keys() <= ALLOWED
        assert kinds["Conv"] == sum(isinstance(module, nn.Conv2d) for module in self.build().modules())


class TestExpandedLiteUNetOfStride4(ModelContract):
    name = "lite_unet"
    options: ClassVar = {"stem": 4, "widths": (8, 16, 16), "expansion": 2}


class TestTinyLiteUNet(ModelContract):
    name = "lite_unet"
    options: ClassVar = {"preset": "tiny"}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_their_parameters_and_grow_in_cost(preset: str) -> None:
    presets = network_facts("lite_unet").presets
    assert [name for name, options in presets.items() if "dimensions" not in options] == list(PRESETS)
    found = complexity("lite_unet", (3, 128, 128), preset=preset)
    assert (found.parameters, found.unused) == (PRESETS[preset], 0)
    smaller = list(PRESETS)[: list(PRESETS).index(preset)]
    assert all(complexity("lite_unet", (3, 128, 128), preset=name).macs < found.macs for name in smaller)


@pytest.mark.parametrize(("preset", "parameters"), VOLUME_PRESETS.items())
def test_presets_of_volumes_have_their_parameters(preset: str, parameters: int) -> None:
    found = complexity("lite_unet", (1, 8, 16, 8), preset=preset)
    assert (found.parameters, found.unused) == (parameters, 0)


def test_the_default_is_the_medium_preset() -> None:
    assert complexity("lite_unet") == complexity("lite_unet", preset="medium")


def test_a_block_is_the_sum_of_its_input_and_a_separable_convolution() -> None:
    torch.manual_seed(0)
    block = SeparableBlock(3, 3).eval()
    image = torch.rand(1, 3, 5, 5)
    depthwise, pointwise = block.depthwise.weight.detach().numpy(), block.pointwise[0].weight.detach().numpy()
    padded = np.pad(image[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    expected = image[0].numpy().copy()
    scale = 1 / np.sqrt(1 + block.norm.eps)  # of a batch normalisation that has seen nothing
    for y in range(5):
        for x in range(5):
            seen = (padded[:, y : y + 3, x : x + 3] * depthwise[:, 0]).sum((1, 2)) * scale
            expected[:, y, x] += np.maximum(pointwise[:, :, 0, 0] @ seen * scale, 0)
    with torch.no_grad():
        np.testing.assert_allclose(block(image)[0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_int8_changes_few_pixels(tmp_path: Path) -> None:
    """A network that has learned a disc, quantised after training as `export` may do it later: the mask stays."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    torch.manual_seed(0)
    model = create_network("lite_unet", 1, 2, widths=(8, 16))
    images, masks = discs(48)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for start in (0, 16, 32) * 10:
        loss = nn.functional.cross_entropy(
            model(images[start : start + 16]).logits, masks[start : start + 16]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    plain, small = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    torch.onnx.export(
        LogitsOnly(model).eval(), (images[:1],), plain, dynamo=True, verbose=False, input_names=["image"]
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images[:16].numpy())

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image[None]}

    quantize_static(plain, small, Reader(), per_channel=True, weight_type=QuantType.QInt8)
    outputs = []
    for file in (plain, small):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        outputs.append(
            np.stack([session.run(None, {"image": image[None]})[0][0] for image in images.numpy()])
        )
    expected, given = (logits.argmax(1) for logits in outputs)
    assert (expected == masks.numpy()).mean() > 0.97
    assert (expected != given).mean() < 0.01


def discs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy pictures (count, 1, 32, 32) of one bright disc each, and its mask."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    centres, radii = generator.uniform(10, 22, (count, 2)), generator.uniform(4, 9, count)
    masks = np.stack([np.hypot(y - c[0], x - c[1]) < r for c, r in zip(centres, radii, strict=True)])
    images = 0.5 * masks + generator.normal(0.2, 0.1, masks.shape)
    return torch.from_numpy(images.astype("f4"))[:, None], torch.from_numpy(masks.astype("i8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": 3}, "stem is 3: choose from 1, 2, 4"),
        ({"expansion": 0}, "expansion is 0: it must be at least 1"),
        ({"widths": (16,)}, "widths has 1 levels: give at least 2"),
        ({"preset": "smal"}, "unknown preset 'smal' of lite_unet: did you mean 'small'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_network("lite_unet", **options)  # type: ignore[arg-type]
