"""FitNet against NumPy, with its learned projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.methods.fitnet import FitNet
from segdistill.distillation.projection import Projection
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, hold_against, resized


def info(layer: str, channels: int, stride: int = 2) -> dict[str, FeatureInfo]:
    return {layer: FeatureInfo(layer, channels, stride)}


class TestSameWidth(MethodContract):
    """With a projection that does nothing, so that one can equal oneself."""

    name = "fitnet"

    def make(self) -> DistillationMethod:
        method = create_method(self.name, **self.options)
        method.build(info("encoder", 5), {"": info("encoder", 5)})
        for module in method.modules():
            if isinstance(module, Projection):
                torch.nn.init.eye_(module.weight)
        return method


class TestNormalised(TestSameWidth):
    options = {"normalise": True}  # noqa: RUF012


class TestWithoutProjection(TestSameWidth):
    options = {"projection": "differing", "layers": ["enc@2", "dec@2"]}  # noqa: RUF012
    numbers = 3

    def make(self) -> DistillationMethod:
        return create_method(self.name, **self.options)


@pytest.mark.parametrize("normalise", [False, True])
def test_equals_numpy(normalise: bool) -> None:
    """Other width and other size: projected, then resized to the teacher's."""
    rng = np.random.default_rng(0)
    own, other = {"encoder": rng.normal(size=(2, 3, 4, 6))}, {"encoder": rng.normal(size=(2, 5, 8, 4))}
    method = FitNet(normalise=normalise)
    method.build(info("encoder", 3), {"t": info("encoder", 5)})
    (projection,) = method.projections.values()
    weight = projection.weight.detach().double().numpy()  # type: ignore[operator, union-attr]
    assert weight.shape == (5, 3)
    assert (np.abs(weight) <= 0.005).all() == normalise

    def reference(arrays: Arrays) -> Array:
        s, t = arrays["encoder"], other["encoder"]
        if normalise:
            s, t = (x / np.sqrt((x * x).sum(1, keepdims=True)) for x in (s, t))
        square = (resized(np.einsum("oc,bchw->bohw", weight, s), (8, 4)) - t) ** 2
        return square.sum(1).mean((1, 2)) if normalise else square.mean((1, 2, 3))

    hold_against(method, reference, own, other)


def test_the_projection_learns() -> None:
    """A teacher that is a fixed mixture of the student's channels: only the projection has to be found."""
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 8, 8)
    mixed = torch.einsum("oc,bchw->bohw", torch.randn(5, 3), feature)
    method = FitNet()
    method.build(info("encoder", 3), {"t": info("encoder", 5)})
    optimizer = torch.optim.Adam(next(iter(method.projections.values())).parameters(), 0.1)
    pair = [Output(None, {"encoder": each}) for each in (feature, mixed)]
    targets = [method.targets(each) for each in pair]
    before = method(*targets, "t").mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        method(*targets, "t").mean().backward()
        optimizer.step()
    assert method(*targets, "t").mean().item() < 1e-3 * before


def test_one_stage_for_each_teacher() -> None:
    layers = ["enc@2", "enc@4"]
    infos = {layer: FeatureInfo(layer, 3, 2) for layer in layers}
    method = FitNet(layers, per_teacher=True)
    method.build(infos, dict.fromkeys("abc", infos))
    assert sorted(method.projections) == ["a/enc@2", "b/enc@4", "c/enc@2"]
    features = {layer: torch.rand(1, 3, 4, 4) for layer in layers}
    targets = method.targets(Output(None, features))
    other = {layer: value.clone() for layer, value in targets.items()}
    alike = method(targets, other, "a")
    other["enc@4"] += 1  # the stage of another teacher
    assert torch.equal(method(targets, other, "a"), alike)
    assert not torch.equal(method(targets, other, "b"), alike)


def test_volumes_are_images_with_one_more_axis() -> None:
    rng = torch.Generator().manual_seed(0)
    own, other = torch.rand(1, 3, 4, 4, generator=rng), torch.rand(1, 5, 8, 8, generator=rng)
    method = FitNet()
    method.build(info("encoder", 3), {"t": info("encoder", 5)})

    def loss(pair: list[torch.Tensor]) -> torch.Tensor:
        return method(*(method.targets(Output(None, {"encoder": x})) for x in pair), "t")

    thick = [x[:, :, None].expand(-1, -1, 4, -1, -1) for x in (own, other)]
    torch.testing.assert_close(loss(thick), loss([own, other]))


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="projection is 'sometimes': choose from always, differing"):
        FitNet(projection="sometimes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fitnet needs networks that declare their features"):
        FitNet().build({}, {"t": {}})
    method = FitNet(projection="differing")
    method.build({}, {"t": {}})
    targets = [method.targets(Output(None, {"encoder": torch.rand(1, c, 2, 2)})) for c in (3, 5)]
    with pytest.raises(InputError, match="encoder has 3 channels in the student and 5 in the teacher"):
        method(*targets, "t")
