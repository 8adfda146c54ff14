"""LA-Net's location loss against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, log_expit, softmax

from segdistill.losses.pseudo_labels import (
    Location,
    class_confidence,
    foreground_logit,
    locate,
    location_loss,
    shrink_mask,
)

Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def corner_aligned(mask: Array, size: tuple[int, int]) -> Array:
    """Bilinear interpolation whose first and last samples lie on the first and last pixels, written out."""
    out = np.zeros((len(mask), *size))
    height, width = mask.shape[1:]
    for i in range(size[0]):
        for j in range(size[1]):
            y = i * (height - 1) / (size[0] - 1)
            x = j * (width - 1) / (size[1] - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            fy, fx = y - top, x - left
            corner = mask[:, top : top + 2, left : left + 2]
            out[:, i, j] = (
                corner[:, 0, 0] * (1 - fy) * (1 - fx)
                + corner[:, 0, 1] * (1 - fy) * fx
                + corner[:, 1, 0] * fy * (1 - fx)
                + corner[:, 1, 1] * fy * fx
            )
    return out


def test_the_target_is_soft_with_aligned_corners() -> None:
    mask = (draw(3, 11, 13) > 0).astype(np.int64)
    got = shrink_mask(torch.from_numpy(mask), (4, 5)).numpy()
    np.testing.assert_allclose(got, corner_aligned(mask.astype(float), (4, 5)), atol=1e-5)
    assert ((got > 0.01) & (got < 0.99)).any()


def test_nearest_and_area_targets() -> None:
    mask = torch.from_numpy((draw(2, 8, 8, seed=1) > 0).astype(np.int64))
    area = shrink_mask(mask, (2, 2), "area").numpy()
    np.testing.assert_allclose(area, mask.numpy().reshape(2, 2, 4, 2, 4).mean(axis=(2, 4)), atol=1e-6)
    nearest = shrink_mask(mask, (4, 4), "nearest").numpy()
    np.testing.assert_array_equal(nearest, mask.numpy()[:, ::2, ::2])


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_the_logit_is_that_of_no_background(classes: int) -> None:
    logits = draw(2, classes, 3, 3, seed=2)
    chance = expit(logits[:, 0]) if classes == 1 else 1 - softmax(logits, axis=1)[:, 0]
    got = foreground_logit(torch.from_numpy(logits)).sigmoid().numpy()
    np.testing.assert_allclose(got, chance, rtol=1e-5)


def test_confidence() -> None:
    logits = draw(5, 3, seed=3)
    labels = np.array([0, 2, 1, -1, 1])
    chance = softmax(logits, axis=1)
    got = class_confidence(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(got, chance.max(axis=1), rtol=1e-5)
    given = class_confidence(torch.from_numpy(logits), torch.from_numpy(labels), "given").numpy()
    expected = [chance[0, 0], chance[1, 2], chance[2, 1], 0.0, chance[4, 1]]
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def plain_loss(logit: Array, target: Array, weight: Array) -> float:
    """-Y log P - (1 - Y) log(1 - P), times the image's weight, divided by all pixels of the batch."""
    each = -(target * log_expit(logit) + (1 - target) * log_expit(-logit))
    return float((each * weight[:, None, None]).sum() / logit.size)


@pytest.mark.parametrize("rule", ["paper", "release", "none"])
def test_rules_and_reduction(rule: str) -> None:
    logit, known = draw(6, 4, 4, seed=4) * 2, np.random.default_rng(5).uniform(size=(6, 4, 4))
    located = np.array([True, False, False, True, False, False])
    confident = np.array([0.5, 0.95, 0.79, 0.99, 0.81, 0.8])
    chance = expit(logit)
    if rule == "release":  # whatever the class, and at 0.8
        target, weight = chance >= 0.8, np.where(located, 1, 0.1)
    else:
        target, weight = chance > 0.5, np.where(located, 1, 0.1 * (confident > 0.8))
    if rule == "none":
        weight = located.astype(float)
    target = np.where(located[:, None, None], known, target)
    z = torch.from_numpy(logit).requires_grad_()
    location = locate(
        z,
        torch.from_numpy(known),
        torch.from_numpy(located),
        torch.from_numpy(confident),
        rule=rule,  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(location.weight.numpy(), weight)
    loss = location_loss(z, location)
    assert loss.item() == pytest.approx(plain_loss(logit, target, weight), rel=1e-9)
    loss.backward()
    # the target is no function of the map: the slope is that of plain cross-entropy
    slope = (chance - target) * weight[:, None, None] / logit.size
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), slope, atol=1e-12)


def test_weights_are_not_normalised() -> None:
    logit = torch.zeros(4, 2, 2)
    for weight in (1.0, 0.1):
        weights = torch.tensor([weight, 0.0, 0.0, 0.0])
        got = location_loss(logit, Location(torch.ones(4, 2, 2), weights))
        assert got.item() == pytest.approx(weight * np.log(2) / 4)
