"""MGD against convolutions by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import correlate

from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.methods.mgd import MGD
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, hold_against


def built(student: int, teacher: int, hidden: float, network: str = "t", **options: Any) -> MGD:
    torch.manual_seed(0)
    method = MGD(hidden=hidden, **options)
    one, other = ({"decoder": FeatureInfo("decoder", width, 2)} for width in (student, teacher))
    method.build(one, {network: other})
    return method


class TestMGD(MethodContract):
    name = "mgd"
    numbers = 3

    def make(self) -> DistillationMethod:
        return built(5, 5, 0.0, "", **self.options)

    def test_no_loss_to_itself(self) -> None:
        """The generator begins anywhere."""

    def test_the_same_at_every_size(self) -> None:
        """Its convolutions have a size in positions."""


def convolved(x: Array, conv: torch.nn.Module) -> Array:
    weight, bias = (p.detach().double().numpy() for p in conv.parameters())
    return np.stack(
        [
            [
                sum(
                    correlate(channel, kernel, mode="same")
                    for channel, kernel in zip(image, kernels, strict=True)
                )
                + own
                for kernels, own in zip(weight, bias, strict=True)
            ]
            for image in x
        ]
    )


def test_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    own, other = ({"decoder": rng.normal(size=(2, width, 6, 6))} for width in (3, 4))
    method = built(3, 4, 0.0)
    (projection,) = (p.detach().double().numpy() for p in method.projections.parameters())
    first, _, second = method.generators["t/decoder"]  # type: ignore[misc]

    def reference(arrays: Arrays) -> Array:
        wide = np.einsum("oc,bchw->bohw", projection, arrays["decoder"])
        made = convolved(np.maximum(convolved(wide, first), 0), second)
        return ((made - other["decoder"]) ** 2).mean((1, 2, 3))

    hold_against(method, reference, own, other)


def test_a_share_of_positions_is_drawn_and_hidden_each_time() -> None:
    method = built(4, 4, 0.75)
    seen: list[torch.Tensor] = []
    method.generators["t/decoder"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    targets = {"decoder": torch.ones(2, 4, 64, 64)}
    for _ in range(2):
        method(targets, targets, "t")
    shown = [(each > 0).float() for each in seen]
    assert [each.mean().item() for each in shown] == pytest.approx([0.25, 0.25], abs=0.02)
    assert (shown[0] == shown[0][:, :1]).all()  # all channels of a position together
    assert not torch.equal(*shown)


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match=r"mgd: hidden is 1\.0: it is a share"):
        create_method("mgd", hidden=1.0)
    with pytest.raises(InputError, match="mgd needs networks that declare their features"):
        MGD().build({}, {"t": {}})
    method = built(4, 4, 0.0)
    volumes = method.targets(Output(None, {"decoder": torch.zeros(1, 4, 2, 2, 2)}))
    with pytest.raises(InputError, match="dimensions is 2, and the features have 3: set dimensions: 3"):
        method(volumes, volumes, "t")
