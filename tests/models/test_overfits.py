"""Every network learns: four real images by heart, in at most 200 steps, at reduced width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.imaging.masks import read_mask
from segdistill.imaging.preprocess import Preprocess, prepare_mask
from segdistill.imaging.read import read_picture
from segdistill.models.network import Output
from segdistill.models.registry import create_network

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"widths": (16, 32, 64, 128, 256)}),
    ("simplified_unet", {}),
    ("attention_unet", {"widths": (16, 32, 64, 128, 256)}),
    ("resnet_attention_unet", {"depth": 18, "base": 32}),
    ("unet_plus_plus", {"widths": (8, 16, 32, 64, 128)}),
    ("unet_3plus", {"widths": (8, 16, 32, 64, 128)}),
    ("deep_resunet", {"widths": (16, 32, 64, 128)}),
    ("msu_net", {"widths": (8, 16, 32, 64, 128)}),
    ("segnet", {"widths": (32, 64, 128, 256, 256)}),
    ("u2net", {"scale": "small"}),
    ("us_unet", {"widths": (16, 32, 64, 128, 256)}),
    ("enet", {"preset": "lightvessel"}),
    ("enet", {"preset": "amtd"}),
    ("erfnet", {}),
    ("espnet", {}),
    ("mobilenet_v2", {}),
    ("mobilenet_v2_unet", {}),
    ("sk_unet", {"widths": (8, 16, 32, 64)}),
    ("pspnet_resnet50", {"base": 16, "dropout": 0.0}),
    ("deeplabv3plus_resnet50", {"base": 16}),
    ("deeplabv3plus_xception65", {"base": 16, "middle": 4}),
    ("deeplabv3_resnet50", {"base": 16}),
    ("fcn_resnet101", {"base": 16}),
    ("resnext101_32x8d", {"base": 8}),
    ("lanet_resnet18", {"base": 16}),
    ("lanet_resnet50", {"base": 16}),
    ("lanet_efficientnet_lite", {}),
    ("rmtl_resnet18", {"base": 16}),
    ("rmtl_resnet50", {"base": 16}),
    (
        "monai.networks.nets:BasicUNet",
        {
            "arguments": {"spatial_dims": 2, "features": [16, 16, 32, 64, 128, 16]},
            "features": {"decoder": "upcat_1"},
            "size_divisor": 16,
        },
    ),
]
CLASSIFIERS: list[tuple[str, dict[str, Any]]] = [
    ("lanet_resnet18", {"base": 16}),
    ("lanet_resnet50", {"base": 16}),
    ("lanet_efficientnet_lite", {}),
    ("rmtl_resnet18", {"base": 16}),
    ("rmtl_resnet50", {"base": 16}),
    ("agn", {}),
    ("resnet18", {"base": 16}),
    ("resnet50", {"base": 16}),
    ("efficientnet_b0", {}),
    ("vit_b16", {"image_size": 128, "width": 96, "layers": 4, "heads": 3}),
]
SIZE, STEPS, GOAL = 128, 200, 0.95
RATE = 2e-3
RATES = {"espnet": 5e-3, "rmtl_resnet18": 5e-3, "rmtl_resnet50": 5e-3}
"""Larger steps for what decodes in two channels, or ends in a batch normalisation whose scale must grow."""


FINE = [("benign", 1), ("benign", 10), ("malignant", 2), ("malignant", 7)]
COARSE = [("benign", 9), ("benign", 10), ("malignant", 1), ("malignant", 2)]
"""For output strides from 8: each lesion is large enough for a foreground pixel even at stride 32.

And for RMTL, which draws its mask from the encoder's 4 x 4 map alone: Dice 0.92 is as far as it comes with the
lesions of `FINE`, one of which is 63 pixels large.
"""


@pytest.fixture(scope="module")
def four(data_root: Path) -> tuple[Tensor, Tensor]:
    """Images (4, 3, 128, 128) and masks (4, 128, 128) of BUSI, one lesion each."""
    return pictures(data_root, FINE)


@pytest.fixture(scope="module")
def four_large(data_root: Path) -> tuple[Tensor, Tensor]:
    """As `four`, with large lesions."""
    return pictures(data_root, COARSE)


def pictures(data_root: Path, names: list[tuple[str, int]]) -> tuple[Tensor, Tensor]:
    folder = data_root / "busi" / "Dataset_BUSI_with_GT"
    paths = [folder / label / f"{label} ({n}).png" for label, n in names]
    if not all(path.exists() for path in paths):
        pytest.skip("BUSI is not there")
    prepare = Preprocess(size=(SIZE, SIZE))
    images = [torch.from_numpy(prepare(read_picture(path).pixels)) for path in paths]
    masks = [read_mask([path.with_name(f"{path.stem}_mask.png")]) for path in paths]
    small = [torch.from_numpy(prepare_mask(mask, (SIZE, SIZE))) for mask in masks]
    return torch.stack(images).float(), torch.stack(small).long()


def at_stride(masks: Tensor, stride: int) -> Tensor:
    """Masks (B, H, W) at the network's own output stride: what at least half of a cell shows."""
    return (F.avg_pool2d(masks[:, None].float(), stride)[:, 0] >= 0.5).long()


def own_level(output: Output, size: int) -> Tensor:
    """Logits of the size that the network itself predicts, before any enlargement, where it gives them."""
    assert output.logits is not None
    return next((level for level in output.deep if level.shape[2] == size), output.logits)


def dice(logits: Tensor, masks: Tensor, stride: int) -> float:
    """Mean Dice of the foreground against the mask at the network's own output stride."""
    reference = at_stride(masks, stride)
    assert reference.flatten(1).any(1).all(), "a lesion is too small for this stride"
    probability = F.adaptive_avg_pool2d(logits.softmax(1)[:, 1], reference.shape[1:]) > 0.5
    overlap = (probability & (reference > 0)).sum((1, 2))
    return float((2 * overlap / (probability.sum((1, 2)) + reference.sum((1, 2)))).mean())


def loss_of(logits: Tensor, masks: Tensor) -> Tensor:
    foreground = logits.softmax(1)[:, 1]
    overlap = (foreground * masks).sum((1, 2))
    soft = 1 - 2 * overlap / (foreground.sum((1, 2)) + masks.sum((1, 2)))
    return F.cross_entropy(logits, masks) + soft.mean()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), NETWORKS, ids=[name for name, _ in NETWORKS])
def test_overfits_four_real_images(
    name: str, options: dict[str, Any], four: tuple[Tensor, Tensor], four_large: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    model = create_network(name, **options)
    (stride,) = [info.stride for info in model.feature_info if info.name == "decoder"]  # type: ignore[union-attr]
    images, masks = four_large if stride >= 8 or name.startswith("rmtl") else four
    optimiser = torch.optim.Adam(model.parameters(), RATES.get(name, RATE))
    reached = 0.0
    for step in range(1, STEPS + 1):
        model.train()
        optimiser.zero_grad()
        output = model(images)
        own = own_level(output, SIZE // stride)
        if stride > 1 and own is not output.logits:  # LA-Net: its map is what it is trained on
            loss = loss_of(own, at_stride(masks, stride))
        else:
            deep = [F.interpolate(level, size=masks.shape[1:], mode="bilinear") for level in output.deep]
            loss = sum((loss_of(level, masks) for level in deep), loss_of(output.logits, masks))
        loss.backward()
        optimiser.step()
        if step % 20 == 0:
            with torch.no_grad():
                output = model.eval()(images)
                reached = dice(
                    own_level(output, SIZE // stride) if stride > 1 else output.logits, masks, stride
                )
            if reached >= GOAL:
                print(f"{name}: Dice {reached:.3f} after {step} steps")
                return
    pytest.fail(f"{name}: Dice {reached:.3f} after {STEPS} steps")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CLASSIFIERS, ids=[name for name, _ in CLASSIFIERS])
def test_classifies_four_real_images(name: str, options: dict[str, Any], four: tuple[Tensor, Tensor]) -> None:
    images, _ = four
    truth = torch.tensor([label == "malignant" for label, _ in FINE]).long()
    torch.manual_seed(0)
    model = create_network(name, **options)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(1, STEPS + 1):
        model.train()
        optimiser.zero_grad()
        loss = F.cross_entropy(model(images).label, truth)
        loss.backward()
        optimiser.step()
        if step % 10 == 0:
            with torch.no_grad():
                right = model.eval()(images).label.argmax(1) == truth
            if right.all():
                print(f"{name}: accuracy 1.0 after {step} steps")
                return
    pytest.fail(f"{name}: {int(right.sum())} of 4 right after {STEPS} steps")
