"""DIST and BPKD against NumPy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from segdistill.distillation import create_method
from segdistill.distillation.maps import boundary_band
from segdistill.distillation.methods.bpkd import BPKD
from segdistill.distillation.methods.dist import DIST
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, band_of, hold_against


class TestDIST(MethodContract):
    name = "dist"


class TestBPKD(MethodContract):
    name = "bpkd"
    numbers = 8

    def test_the_same_at_every_size(self) -> None:
        """The band has a width in positions."""


class TestBoundaryPrediction(TestBPKD):
    name = "boundary_prediction"


class TestBodyChannels(TestBPKD):
    name = "body_channels"


@pytest.mark.parametrize("classes", [2, 4])
def test_dist_equals_numpy(classes: int) -> None:
    rng = np.random.default_rng(0)
    own, other = ({"logits": rng.normal(size=(2, classes, 4, 5))} for _ in range(2))

    def reference(arrays: Arrays) -> Array:
        s, t = (softmax(z["logits"] / 2, axis=1).reshape(2, classes, 20) for z in (arrays, other))
        found = []
        for a, b in zip(s, t, strict=True):
            intra = np.mean([np.corrcoef(a[c], b[c])[0, 1] for c in range(classes)])
            inter = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(20)])
            found.append(4 * (0.5 * (1 - intra) + (2 * (1 - inter) if classes > 2 else 0)))
        return np.array(found)

    hold_against(DIST(intra=0.5, inter=2.0, temperature=2.0), reference, own, other)


def test_a_balanced_correlation_equals_numpy() -> None:
    """Correlations with the weights of positions: half for the foreground, half for the background."""
    rng = np.random.default_rng(0)
    own, other = ({"logits": rng.normal(size=(2, 3, 4, 5))} for _ in range(2))
    mask = (rng.random((2, 4, 5)) < 0.3).astype(np.int64)

    def reference(arrays: Arrays) -> Array:
        found = []
        pairs = (softmax(z["logits"], axis=1).reshape(2, 3, 20) for z in (arrays, other))
        for a, b, inside in zip(*pairs, mask.reshape(2, 20) > 0, strict=True):
            weights = np.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum())
            intra = []
            for c in range(3):
                cov = np.cov(a[c], b[c], ddof=0, aweights=weights)
                intra.append(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
            inter = np.array([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(20)])
            found.append(2 - np.mean(intra) - (weights * inter).sum())
        return np.array(found)

    hold_against(create_method("dist", balance="class"), reference, own, other, mask)


def test_a_constant_map_has_no_direction() -> None:
    method = DIST()
    flat = torch.zeros(1, 2, 8, 8, requires_grad=True)
    other = method.targets(Output(torch.randn(1, 2, 8, 8), {}))
    loss = method(method.targets(Output(flat, {})), other)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1.0)
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("shape", [(12, 15), (6, 8, 9)])
@pytest.mark.parametrize("width", [1, 2])
def test_bands_equal_scipy(shape: tuple[int, ...], width: int) -> None:
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, [-(-n // 3) for n in shape]), np.ones((3,) * len(shape), int))
    mask = mask[tuple(slice(n) for n in shape)]
    found = boundary_band(torch.tensor(mask)[None, None], width)[0, 0]
    np.testing.assert_array_equal(found.numpy(), band_of(mask, width, 3))


@pytest.mark.parametrize("classes", [2, 3])
def test_bpkd_equals_numpy(classes: int) -> None:
    rng = np.random.default_rng(0)
    own, other = ({"logits": rng.normal(size=(2, classes, 8, 8))} for _ in range(2))
    mask = np.kron(rng.integers(0, classes, (2, 2, 2)), np.ones((1, 4, 4), int))
    mask[1] = 0  # no boundary at all

    def reference(arrays: Arrays) -> Array:
        found = []
        for z, theirs, own_mask in zip(arrays["logits"], other["logits"], mask, strict=True):
            bands = [band_of((own_mask == c).astype(int), 1, 2) for c in range(classes)]
            s, t = log_softmax(z, axis=0), log_softmax(theirs, axis=0)
            gap = (np.exp(t) * (t - s)).sum(0)
            edges = [gap[band].mean() for band in bands if band.any()]
            body = []
            for c, band in enumerate(bands):
                s, t = (log_softmax(each[c][~band] / 4) for each in (z, theirs))
                body.append((np.exp(t) * (t - s)).sum())
            found.append(np.sum(edges) / max(len(edges), 1) + 3 * 16 * np.mean(body))
        return np.array(found)

    hold_against(BPKD(classes=classes), reference, own, other, mask)


def test_the_bands_of_the_teachers_prediction() -> None:
    logits = torch.zeros(1, 2, 1, 6)
    logits[:, 1] = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    mask = torch.tensor([[[0, 1, 1, 1, 1, 1]]])
    for band, expected in (("reference", [1, 1, 0, 0, 0, 0]), ("teacher", [0, 0, 1, 1, 0, 0])):
        method = create_method("boundary_prediction", band=band)
        found = method.targets(Output(logits, {}), mask)["band"]
        assert found[0, :, 0].int().tolist() == [expected, expected]
        assert method.takes_mask == (band == "reference")
    with pytest.raises(InputError, match="band is 'mask': use reference or teacher"):
        create_method("bpkd", band="mask")


def test_a_band_that_covers_the_image_has_no_body() -> None:
    method = create_method("body_channels")
    mask = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = method(*(method.targets(Output(z, {}), mask) for z in (logits, torch.randn(1, 2, 2, 2))))
    assert loss.tolist() == [0.0]
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match=r"dist: intra -1\.0 and inter 1\.0: none below 0"):
        create_method("dist", intra=-1.0)
    method = create_method("dist", intra=0.0)
    targets = method.targets(Output(torch.zeros(1, 2, 2, 2), {}))
    with pytest.raises(InputError, match="two classes have no inter-class relation"):
        method(targets, targets)
    with pytest.raises(InputError, match="width at least 1"):
        create_method("bpkd", width=0)
