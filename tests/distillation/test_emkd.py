"""EMKD's whole loss against NumPy."""

from __future__ import annotations

import numpy as np

from segdistill.distillation.methods.emkd import EMKD
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, cosine, hold_against, kl, nearest
from tests.distillation.test_ifvd_and_protokd import mean_of

TAPS = ("low|enc1", "high|encoder")


class TestEMKD(MethodContract):
    name = "emkd"
    numbers = 3


def attention(x: Array) -> Array:
    a = (np.abs(x) ** 4).sum(1).reshape(len(x), -1)
    return a / np.sqrt((a * a).sum(1, keepdims=True))


def contrast(x: Array, mask: Array) -> Array:
    y = nearest(mask, x.shape[2:])  # type: ignore[arg-type]
    return np.array([cosine(mean_of(x[b], y[b] == 0), mean_of(x[b], y[b] == 1)) for b in range(len(x))])


def test_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    mask = np.repeat(np.repeat(np.array([[[0, 1], [1, 0]], [[1, 1], [0, 1]]]), 4, 1), 4, 2)
    own, other = (
        {"logits": rng.normal(size=(2, 2, 8, 8))}
        | {layer: rng.normal(size=(2, c, n, n)) + 0.5 for layer, n in zip(TAPS, (8, 4), strict=True)}
        for c in (3, 5)
    )

    def reference(arrays: Arrays) -> Array:
        loss = 0.1 * 16 * kl(other["logits"] / 4, arrays["logits"] / 4, 1).mean((1, 2))
        for layer in TAPS:
            loss = loss + 0.9 * ((attention(arrays[layer]) - attention(other[layer])) ** 2).sum(1)
            loss = loss + 0.9 * (contrast(arrays[layer], mask) - contrast(other[layer], mask)) ** 2
        return loss

    hold_against(EMKD(), reference, own, other, mask)


def test_terms_can_be_left_out() -> None:
    method = EMKD(importance=0.0, affinity=0.0)
    assert list(method.terms) == ["prediction"]
    assert method.features == ()
    import torch

    targets = method.targets(Output(torch.zeros(1, 2, 2, 2), {}))
    assert list(targets) == ["prediction/log_probability"]
