"""CWD against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation.methods.cwd import CWD, ChannelWise, channel_wise_loss
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, MethodContract
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
        return 50 * kl(other["decoder"].reshape(2, 4, -1), s.reshape(2, 4, -1), 2).mean(1)

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
