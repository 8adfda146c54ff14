"""CWD against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation import create_method
from segdistill.distillation.methods.cwd import CWD, ChannelWise, channel_wise_loss
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, MethodContract, slope_of
from tests.distillation.numbers import Arrays, hold_against, kl, resized


class TestLogits(MethodContract):
    name = "channel_wise"


class TestFeatures(MethodContract):
    name = "channel_wise"
    options = {"layers": ["encoder"], "temperature": 4.0}  # noqa: RUF012


class TestSpatial(MethodContract):
    name = "channel_wise"
    options = {"normalise": "spatial"}  # noqa: RUF012


class TestPlain(MethodContract):
    name = "channel_wise"
    options = {"normalise": "none"}  # noqa: RUF012


class TestCWD(MethodContract):
    name = "cwd"
    numbers = 4
    options = {"features": 50.0}  # noqa: RUF012
    floor = 1e-4


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_logits_equal_numpy(temperature: float, classes: int) -> None:
    rng = np.random.default_rng(0)
    own, other = ({"logits": rng.normal(size=(2, classes, 3, 5)) * 2} for _ in range(2))

    def reference(arrays: Arrays) -> Array:
        t, s = (z["logits"].reshape(2, classes, -1) / temperature for z in (other, arrays))
        return 3 * temperature**2 * kl(t, s, 2).mean(1)

    hold_against(CWD(temperature=temperature), reference, own, other)


@pytest.mark.parametrize("normalise", ["spatial", "none"])
def test_other_normalisations_equal_numpy(normalise: str) -> None:
    rng = np.random.default_rng(0)
    own, other = ({"logits": rng.normal(size=(2, 3, 3, 5)) * 2} for _ in range(2))

    def reference(arrays: Arrays) -> Array:
        if normalise == "none":
            return ((arrays["logits"] - other["logits"]) ** 2).mean((1, 2, 3))
        return 4 * kl(other["logits"] / 2, arrays["logits"] / 2, 1).mean((1, 2))

    hold_against(ChannelWise(None, 2.0, normalise), reference, own, other)  # type: ignore[arg-type]


def test_features_of_other_width_and_size_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    own, other = {"decoder": rng.normal(size=(2, 3, 8, 4))}, {"decoder": rng.normal(size=(2, 4, 4, 4))}
    method = CWD(logits=0.0, features=50.0)
    method.build({"decoder": FeatureInfo("decoder", 3, 1)}, {"t": {"decoder": FeatureInfo("decoder", 4, 2)}})
    ((name, learned),) = method.named_parameters()
    assert name == "terms.features.projections.t/decoder.weight"
    weight = learned.detach().double().numpy()

    def reference(arrays: Arrays) -> Array:
        s = resized(np.einsum("oc,bchw->bohw", weight, arrays["decoder"]), (4, 4))
        t = other["decoder"]
        return 50 * 16 * kl(t.reshape(2, 4, -1) / 4, s.reshape(2, 4, -1) / 4, 2).mean(1)

    hold_against(method, reference, own, other)


def test_one_logit_against_two_classes() -> None:
    """Both become the logit of the foreground, whichever side has one."""
    z, t = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4)
    method = ChannelWise()

    def loss(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return method(*(method.targets(Output(x, {})) for x in (own, other)))

    one, other = (x[:, 1:] - x[:, :1] for x in (z, t))
    torch.testing.assert_close(loss(one, t), channel_wise_loss(one, other))
    torch.testing.assert_close(loss(z, other), channel_wise_loss(one, other))


def test_volumes_are_images_with_one_more_axis() -> None:
    pair = [torch.randn(2, 2, 4, 4) for _ in range(2)]
    for normalise in ("channel", "spatial", "none"):
        values = [
            channel_wise_loss(*xs, 2.0, normalise)  # type: ignore[arg-type]
            for xs in (pair, [x[:, :, None].expand(-1, -1, 3, -1, -1) for x in pair])
        ]
        torch.testing.assert_close(*values)


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="normalise is 'channels': choose from channel, spatial, none"):
        CWD(normalise="channels")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="temperature must be positive"):
        CWD(temperature=0.0)
    with pytest.raises(InputError, match="needs a network with logits"):
        ChannelWise().targets(Output(None, {}))


class TestBalancedLogits(MethodContract):
    name = "channel_wise"
    options = {"temperature": 4.0, "balance": "class"}  # noqa: RUF012
    numbers = 3


class TestBalancedFeatures(MethodContract):
    name = "channel_wise"
    options = {"layers": ["encoder"], "balance": "class"}  # noqa: RUF012
    numbers = 3


class TestBalancedSpatial(MethodContract):
    name = "channel_wise"
    options = {"normalise": "spatial", "balance": "class"}  # noqa: RUF012
    numbers = 3


class TestBalancedPlain(MethodContract):
    name = "channel_wise"
    options = {"normalise": "none", "balance": "class"}  # noqa: RUF012
    numbers = 3


class TestBalancedCWD(MethodContract):
    name = "cwd"
    numbers = 6
    options = {"features": 50.0, "balance": "class", "scale": "gradient"}  # noqa: RUF012
    floor = 1e-4


def regions_mean(values: Array, shares: Array) -> Array:
    """Mean of the means over foreground and background of values (B, ..., n), by shares of the foreground (B, n)."""
    rows = []
    for v, f in zip(values, shares, strict=True):
        rows.append(np.mean([(v * part).sum(-1) / part.sum() for part in (f, 1 - f) if part.any()], axis=0))
    return np.array(rows)


@pytest.mark.parametrize("normalise", ["channel", "spatial", "none"])
def test_balanced_features_equal_numpy(normalise: str) -> None:
    """A coarse map counts for each region by the share of it that a position covers."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 2, 8, 8))
    own, other = ({"decoder": rng.normal(size=(2, 3, 4, 4)), "logits": logits} for _ in range(2))
    mask = np.zeros((2, 8, 8), dtype=np.int64)
    mask[0, 1:4, 2:5] = 1  # the second image has no lesion
    shares = (mask > 0).reshape(2, 4, 2, 4, 2).mean((2, 4)).reshape(2, 16)

    def reference(arrays: Arrays) -> Array:
        t, s = (z["decoder"].reshape(2, 3, 16) for z in (other, arrays))
        if normalise == "none":
            return regions_mean(((s - t) ** 2).mean(1), shares)
        if normalise == "spatial":
            return 4 * regions_mean(kl(t / 2, s / 2, 1), shares)
        one, two = (np.exp(z / 2) / regions_mean(np.exp(z / 2), shares)[..., None] for z in (t, s))
        return 4 * regions_mean(one * np.log(one / two), shares).mean(1)

    method = create_method(
        "channel_wise", layers=["decoder"], temperature=2.0, normalise=normalise, balance="class"
    )
    features = {"decoder": torch.tensor(own["decoder"], requires_grad=True)}
    known = torch.tensor(mask)
    loss = method(
        method.targets(Output(torch.tensor(logits), features), known),
        method.targets(Output(torch.tensor(logits), {"decoder": torch.tensor(other["decoder"])}), known),
    )
    np.testing.assert_allclose(loss.detach().numpy(), reference(own), rtol=1e-4)
    loss.sum().backward()
    slope = slope_of(lambda z: reference({"decoder": z}), own["decoder"], (0, 1, 1, 2))
    np.testing.assert_allclose(features["decoder"].grad[0, 1, 1, 2].item(), slope, rtol=1e-3)  # type: ignore[index]


def test_one_region_is_plain_cwd() -> None:
    """An image of background alone has one mean: that over all positions."""
    empty = torch.zeros(2, 8, 8, dtype=torch.long)
    pair = [Output(torch.randn(2, 2, 8, 8), {}) for _ in range(2)]
    values = [
        method(*(method.targets(each, empty) for each in pair))
        for method in (
            ChannelWise(None, 4.0),
            create_method("channel_wise", temperature=4.0, balance="class"),
        )
    ]
    torch.testing.assert_close(*values)


def test_scaled_terms_keep_no_published_weights() -> None:
    method = create_method("cwd", features=50.0, scale="gradient", ratio=0.25)
    assert isinstance(method, CWD)
    assert method.weights == {"logits": 1.0, "features": 1.0}
    assert [term.ratio for term in method.methods.values()] == [0.25, 0.25]
    with pytest.raises(InputError, match="features must not be negative"):
        create_method("cwd", features=-1.0, scale="gradient")
