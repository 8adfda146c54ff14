"""US-SEG's losses against their formulas worked in NumPy, and the switches between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.errors import InputError
from segdistill.losses.adversarial import (
    ALPHA,
    BETA,
    MultiStageLoss,
    adversarial_loss,
    discriminator_loss,
    map_dice_loss,
)

STAGES = 4


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def logits(seed: int = 0, channels: int = 1, size: int = 32) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, channels, size >> n, size >> n)) * 2 for n in range(STAGES)]


def blobs(size: int = 32) -> np.ndarray:
    """References (3, H, W); the last one is empty."""
    rows, columns = np.mgrid[:size, :size] / size
    first = (rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.06
    return np.stack([first, rows > 0.7, np.zeros_like(first)]).astype(np.int64)


def numpy_dice(p: np.ndarray, g: np.ndarray) -> float:
    scores = [(2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5) for a, b in zip(p, g, strict=True)]
    return 1 - float(np.mean(scores))


def bilinear(p: np.ndarray, size: int) -> np.ndarray:
    """Pillow's, which samples at pixel centres as well and only differs when it makes things smaller."""
    images = [
        Image.fromarray(one[0].astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
        for one in p
    ]
    return np.stack([np.asarray(image) for image in images])[:, None]


def as_torch(arrays: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.tensor(one, dtype=torch.float32) for one in arrays]


@pytest.mark.parametrize("gan", ["minimax", "non_saturating"])
def test_generator_is_equation_1(gan: str) -> None:
    """sum_n alpha_n (1 - 2 |P G| / (|P| + |G|)) + beta_n E log(1 - D_n(P_n)), P up-sampled as a probability."""
    z, y = logits(), blobs()
    rng = np.random.default_rng(9)
    judged = [rng.normal(size=3) * 3 for _ in range(STAGES)]
    loss = MultiStageLoss(gan=gan)  # type: ignore[arg-type]
    maps = loss.maps(as_torch(z), (32, 32))
    references = loss.references(torch.tensor(y), maps)
    parts = loss.generator(maps, references, as_torch(judged))
    expected = 0.0
    for n in range(STAGES):
        dice = numpy_dice(bilinear(sigmoid(z[n]), 32)[:, 0], y)
        d = sigmoid(judged[n])
        term = np.log(1 - d).mean() if gan == "minimax" else -np.log(d).mean()
        assert parts[f"dice_{n + 1}"].item() == pytest.approx(dice, rel=1e-5)
        assert parts[f"adversarial_{n + 1}"].item() == pytest.approx(term, rel=1e-5)
        expected += (1, 0.1, 0.1, 0.1)[n] * dice + 0.05 * term
    assert parts["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_discriminators_is_equation_2() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=7) * 2, rng.normal(size=7) * 2
    expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    assert discriminator_loss(*as_torch([real, fake])).item() == pytest.approx(expected, rel=1e-5)


def test_logits_far_out_stay_finite_with_gradients_of_the_right_size() -> None:
    """Minimax is flat where the discriminator is sure that a map is predicted; non-saturating is not."""
    for gan, slope in (("minimax", 0.0), ("non_saturating", 1.0)):
        judged = torch.tensor([-80.0], requires_grad=True)
        value = adversarial_loss(judged, gan)  # type: ignore[arg-type]
        value.backward()
        assert torch.isfinite(value)
        assert judged.grad is not None
        assert abs(judged.grad.item()) == pytest.approx(slope, abs=1e-6)
    with pytest.raises(InputError, match="choose from minimax, non_saturating"):
        adversarial_loss(torch.zeros(1), "wasserstein")  # type: ignore[arg-type]


def test_both_forms_want_the_same() -> None:
    judged = torch.zeros(1, requires_grad=True)
    grads = [
        torch.autograd.grad(adversarial_loss(judged, g), judged)[0].item()
        for g in ("minimax", "non_saturating")
    ]  # type: ignore[arg-type]
    assert grads[0] < 0
    assert grads[1] < 0


def test_native_compares_at_each_stage_s_own_size() -> None:
    z, y = logits(), blobs()
    loss = MultiStageLoss(beta=(), native=True)
    maps = loss.maps(as_torch(z), (32, 32))
    references = loss.references(torch.tensor(y), maps)
    parts = loss.generator(maps, references, [])
    for n in range(STAGES):
        step = 2**n
        small = y[:, step // 2 :: step, step // 2 :: step]  # the pixel at the middle of each cell
        assert np.array_equal(references[n][:, 0].numpy(), small)
        assert parts[f"dice_{n + 1}"].item() == pytest.approx(
            numpy_dice(sigmoid(z[n])[:, 0], small), rel=1e-5
        )


@pytest.mark.parametrize("native", [False, True])
def test_values_do_not_change_with_the_size(native: bool) -> None:
    # a reference of 8x8 blocks: the same whichever pixel of a block stands for it
    z, y = as_torch(logits()), torch.tensor(blobs(4)).repeat_interleave(8, 1).repeat_interleave(8, 2)

    def big(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(3, -2).repeat_interleave(3, -1)

    judged = as_torch([np.array([0.5, -1.0, 2.0])] * STAGES)
    loss = MultiStageLoss(native=native)
    values = []
    for same, target in ((z, y), ([big(one) for one in z], big(y))):
        # maps of probability that are enlarged as a whole, so that up-sampling adds no difference
        maps = [one.sigmoid() for one in same] if native else [one.sigmoid() for one in [same[0]] * STAGES]
        values.append(loss.generator(maps, loss.references(target, maps), judged)["loss"].item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_stages_are_switched_apart() -> None:
    z, y = as_torch(logits()), torch.tensor(blobs())
    judged = [torch.tensor([0.3, -0.2, 1.0])] * STAGES
    for dice, adversarial in ((1, 1), (4, 0), (1, 4), (4, 1), (2, 3)):
        loss = MultiStageLoss(ALPHA[:dice], BETA[:adversarial])
        maps = loss.maps(z, (32, 32))
        assert len(maps) == max(dice, adversarial) == loss.stages
        assert len(loss.inputs(maps, torch.zeros(3, 1, 32, 32))) == adversarial
        parts = loss.generator(maps, loss.references(y, maps), judged[:adversarial])
        assert sum(name.startswith("dice") for name in parts) == dice
        assert sum(name.startswith("adversarial") for name in parts) == adversarial
        total = sum(ALPHA[n] * parts[f"dice_{n + 1}"].item() for n in range(dice))
        total += sum(BETA[n] * parts[f"adversarial_{n + 1}"].item() for n in range(adversarial))
        assert parts["loss"].item() == pytest.approx(total, rel=1e-6)
    with pytest.raises(InputError, match="alpha is empty"):
        MultiStageLoss(())


def test_inputs_of_a_discriminator() -> None:
    rng = np.random.default_rng(3)
    image, p = rng.random((2, 3, 8, 8)), rng.random((2, 1, 8, 8))
    z = np.log(p / (1 - p))
    expected = {"map": p, "masked_image": image * p, "concat": np.concatenate([image, p], 1)}
    for condition, want in expected.items():
        loss = MultiStageLoss((1.0,), (0.1,), condition=condition)  # type: ignore[arg-type]
        maps = loss.maps(as_torch([z]), (8, 8))
        (got,) = loss.inputs(maps, torch.tensor(image, dtype=torch.float32))
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_a_smaller_map_is_seen_with_the_mean_of_the_image_below_it() -> None:
    image = np.random.default_rng(4).random((1, 1, 8, 8))
    loss = MultiStageLoss((1.0,), (0.1,), condition="concat", native=True)
    (got,) = loss.inputs([torch.zeros(1, 1, 4, 4)], torch.tensor(image, dtype=torch.float32))
    means = image.reshape(1, 1, 4, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(got[:, :1].numpy(), means, rtol=1e-5)


def test_one_logit_two_and_four_classes() -> None:
    z, y = logits(channels=4)[0], np.random.default_rng(5).integers(0, 4, (3, 32, 32))
    exp = np.exp(z - z.max(1, keepdims=True))
    p = (exp / exp.sum(1, keepdims=True))[:, 1:]
    g = np.stack([y == k for k in (1, 2, 3)], 1).astype(float)
    loss = MultiStageLoss((1.0,), (0.1,), condition="masked_image")
    maps = loss.maps(as_torch([z]), (32, 32))
    references = loss.references(torch.tensor(y), maps)
    expected = np.mean([numpy_dice(p[:, k], g[:, k]) for k in range(3)])
    got = loss.generator(maps, references, [torch.zeros(3)])
    assert got["dice_1"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.inputs(maps, torch.zeros(3, 2, 32, 32))[0].shape == (3, 6, 32, 32)
    two = as_torch([np.stack([np.zeros_like(z[:, 0]), z[:, 0]], 1)])
    one = as_torch([z[:, :1]])
    torch.testing.assert_close(loss.maps(two, (32, 32))[0], loss.maps(one, (32, 32))[0])


def test_empty_and_certain_maps_are_finite() -> None:
    for value in (0.0, 1.0):
        p = torch.full((2, 1, 4, 4), value, requires_grad=True)
        loss = map_dice_loss(p, torch.zeros(2, 1, 4, 4))
        loss.backward()
        assert torch.isfinite(loss)
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()
