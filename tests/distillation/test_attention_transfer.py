"""Attention transfer against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation import create_method
from segdistill.distillation.methods.attention_transfer import AttentionTransfer
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract, slope_of


def bilinear(image: Array, height: int, width: int) -> Array:
    """(h, w) to (height, width), pixels as areas, the border repeated."""

    def places(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, None)
        low = np.minimum(at.astype(int), old - 1)
        return low, np.minimum(low + 1, old - 1), at - low

    r0, r1, fr = places(image.shape[0], height)
    c0, c1, fc = places(image.shape[1], width)
    rows = image[r0] * (1 - fr)[:, None] + image[r1] * fr[:, None]
    return rows[:, c0] * (1 - fc) + rows[:, c1] * fc


def reference(student: Array, teacher: Array, exponent: int, norm: str) -> Array:
    """One layer: (B, C, h, w) and (B, D, H, W) to (B,)."""
    losses = []
    for s, t in zip(student, teacher, strict=True):
        a, b = (np.abs(s) ** exponent).sum(0), (np.abs(t) ** exponent).sum(0)
        a = bilinear(a, *b.shape)
        d = a / np.sqrt((a**2).sum()) - b / np.sqrt((b**2).sum())
        losses.append((d**2).sum() if norm == "l2" else np.abs(d).sum() / np.sqrt(d.size))
    return np.array(losses)


@pytest.fixture
def pair() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4, 4, 6)), rng.normal(size=(3, 7, 8, 8))


def as_output(feature: torch.Tensor) -> Output:
    return Output(logits=None, features={"encoder": feature})


@pytest.mark.parametrize("exponent", [1, 2, 4])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_equals_numpy_with_other_channels_and_sizes(
    pair: tuple[Array, Array], exponent: int, norm: str
) -> None:
    student, teacher = pair
    method = create_method("attention_transfer", exponent=exponent, norm=norm, layers=["encoder"])
    leaf = torch.tensor(student, requires_grad=True)
    loss = method(method.targets(as_output(leaf)), method.targets(as_output(torch.tensor(teacher))))
    np.testing.assert_allclose(loss.detach().numpy(), reference(student, teacher, exponent, norm), rtol=1e-4)
    loss.sum().backward()
    for place in [(0, 0, 0, 0), (1, 2, 3, 5), (2, 3, 1, 2)]:
        slope = slope_of(lambda x: reference(x, teacher, exponent, norm), student, place)
        assert leaf.grad is not None
        assert leaf.grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


class TestAttentionTransfer(MethodContract):
    name = "attention_transfer"


class TestSummedOverLayers(MethodContract):
    name = "attention_transfer"
    options = {"exponent": 4, "norm": "l1", "layers": "emkd"}  # noqa: RUF012


def test_taps_are_summed(pair: tuple[Array, Array]) -> None:
    student, teacher = (torch.tensor(x) for x in pair)
    both = AttentionTransfer(layers=["encoder", "dec1"])
    one = AttentionTransfer(layers=["encoder"])
    targets = [both.targets(Output(None, {"encoder": f, "dec1": f})) for f in (student, teacher)]
    torch.testing.assert_close(
        both(*targets), 2 * one(one.targets(as_output(student)), one.targets(as_output(teacher)))
    )


def test_only_the_pattern_counts_not_its_strength() -> None:
    a = torch.rand(2, 5, 5)
    assert AttentionTransfer().layer_loss(a * 1e-3, a * 1e30).abs().max() < 1e-6  # squares of it overflow


def test_a_dead_map_gives_a_finite_gap() -> None:
    dead = torch.zeros(1, 4, 4, requires_grad=True)
    loss = AttentionTransfer().layer_loss(dead, torch.rand(1, 4, 4))
    loss.sum().backward()
    assert loss.item() == pytest.approx(1.0)
    assert dead.grad is not None
    assert torch.isfinite(dead.grad).all()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="exponent is 3: choose from 1, 2, 4"):
        create_method("attention_transfer", exponent=3)
    with pytest.raises(InputError, match="norm is 'max': choose from l2, l1"):
        create_method("attention_transfer", norm="max")
