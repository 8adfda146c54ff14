"""FitNet against NumPy, with its learned projection."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation import FitNet, Knowledge, create_knowledge
from segdistill.distillation.projection import Projection
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, KnowledgeContract
from tests.distillation.numbers import Arrays, hold_against, resized


def info(tap: str, channels: int, stride: int = 2) -> dict[str, FeatureInfo]:
    return {tap: FeatureInfo(tap, channels, stride)}


class TestSameWidth(KnowledgeContract):
    """With a projection that does nothing, so that one can equal oneself."""

    name = "fitnet"

    def make(self) -> Knowledge:
        knowledge = create_knowledge(self.name, **self.options)
        knowledge.connect(info("encoder", 5), {"": info("encoder", 5)})
        for module in knowledge.modules.values():
            assert isinstance(module, Projection)
            torch.nn.init.eye_(module.weight)
        return knowledge


class TestNormalised(TestSameWidth):
    options = {"normalise": True}  # noqa: RUF012


class TestWithoutProjection(TestSameWidth):
    options = {"projection": "differing", "taps": ["enc@2", "dec@2"]}  # noqa: RUF012
    numbers = 3

    def make(self) -> Knowledge:
        return create_knowledge(self.name, **self.options)


@pytest.mark.parametrize("normalise", [False, True])
def test_equals_numpy(normalise: bool) -> None:
    """Other width and other size: projected, then resized to the teacher's."""
    rng = np.random.default_rng(0)
    own, other = {"encoder": rng.normal(size=(2, 3, 4, 6))}, {"encoder": rng.normal(size=(2, 5, 8, 4))}
    knowledge = FitNet(normalise=normalise)
    knowledge.connect(info("encoder", 3), {"t": info("encoder", 5)})
    (projection,) = knowledge.modules.values()
    weight = projection.weight.detach().double().numpy()  # type: ignore[operator, union-attr]
    assert weight.shape == (5, 3)

    def reference(arrays: Arrays) -> Array:
        s = resized(np.einsum("oc,bchw->bohw", weight, arrays["encoder"]), (8, 4))
        t = other["encoder"]
        if normalise:
            s, t = (x / np.sqrt((x * x).sum(1, keepdims=True)) for x in (s, t))
        return ((s - t) ** 2).mean((1, 2, 3))

    hold_against(knowledge, reference, own, other)


def test_the_projection_learns() -> None:
    """A teacher that is a fixed mixture of the student's channels: only the projection has to be found."""
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 8, 8)
    mixed = torch.einsum("oc,bchw->bohw", torch.randn(5, 3), feature)
    knowledge = FitNet()
    knowledge.connect(info("encoder", 3), {"t": info("encoder", 5)})
    optimizer = torch.optim.Adam(next(iter(knowledge.modules.values())).parameters(), 0.1)
    pair = [Output(None, {"encoder": each}) for each in (feature, mixed)]
    said = [knowledge.extract(each) for each in pair]
    before = knowledge.gap(*said, "t").mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        knowledge.gap(*said, "t").mean().backward()
        optimizer.step()
    assert knowledge.gap(*said, "t").mean().item() < 1e-3 * before


def test_one_stage_for_each_teacher() -> None:
    taps = ["enc@2", "enc@4"]
    infos = {tap: FeatureInfo(tap, 3, 2) for tap in taps}
    knowledge = FitNet(taps, per_teacher=True)
    knowledge.connect(infos, dict.fromkeys("abc", infos))
    assert sorted(knowledge.modules) == ["a/enc@2", "b/enc@4", "c/enc@2"]
    features = {tap: torch.rand(1, 3, 4, 4) for tap in taps}
    said = knowledge.extract(Output(None, features))
    other = {tap: value.clone() for tap, value in said.items()}
    alike = knowledge.gap(said, other, "a")
    other["enc@4"] += 1  # the stage of another teacher
    assert torch.equal(knowledge.gap(said, other, "a"), alike)
    assert not torch.equal(knowledge.gap(said, other, "b"), alike)


def test_volumes_are_images_with_one_more_axis() -> None:
    rng = torch.Generator().manual_seed(0)
    own, other = torch.rand(1, 3, 4, 4, generator=rng), torch.rand(1, 5, 8, 8, generator=rng)
    knowledge = FitNet()
    knowledge.connect(info("encoder", 3), {"t": info("encoder", 5)})

    def gap(pair: list[torch.Tensor]) -> torch.Tensor:
        return knowledge.gap(*(knowledge.extract(Output(None, {"encoder": x})) for x in pair), "t")

    thick = [x[:, :, None].expand(-1, -1, 4, -1, -1) for x in (own, other)]
    torch.testing.assert_close(gap(thick), gap([own, other]))


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="projection is 'sometimes': choose from always, differing"):
        FitNet(projection="sometimes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fitnet needs networks that declare their features"):
        FitNet().connect({}, {"t": {}})
    knowledge = FitNet(projection="differing")
    knowledge.connect({}, {"t": {}})
    said = [knowledge.extract(Output(None, {"encoder": torch.rand(1, c, 2, 2)})) for c in (3, 5)]
    with pytest.raises(InputError, match="encoder has 3 channels in the student and 5 in the teacher"):
        knowledge.gap(*said, "t")
