"""AMTML-KD: learned weights, relations and the composition, against NumPy."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from segdistill.distillation import create_method, create_weighting
from segdistill.distillation.methods.amtml import AMTML, Relations
from segdistill.distillation.weighting import AdaptiveFactors
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, blocks, hold_against
from tests.distillation.test_fitnet import TestNormalised

INFO = {"encoder": FeatureInfo("encoder", 4, 2)}


class TestRelations(MethodContract):
    name = "relations"

    def test_samples_are_independent(self) -> None:
        """They do: that is what relations are. Order does not matter, and alone there is nothing."""
        method = self.make()
        targets = [method.targets(Output(torch.randn(4, 2, 8, 8), {})) for _ in range(2)]
        turned = [{name: x.flip(0) for name, x in each.items()} for each in targets]
        torch.testing.assert_close(method(*turned), method(*targets).flip(0))
        alone = [{name: x[:1] for name, x in each.items()} for each in targets]
        assert method(*alone).tolist() == [0.0]

    def test_one_value_per_sample_not_negative(self) -> None:
        """Of two images the mean distance is their distance, and there is no angle: it takes three."""
        method = self.make()
        targets = [method.targets(Output(torch.randn(4, 2, 8, 8), {})) for _ in range(2)]
        loss = method(*targets)
        assert loss.shape == (4,)
        assert (loss > 0).all()

    def test_gradients_are_finite_and_reach_the_student(self) -> None:
        method = self.make()
        logits = torch.randn(4, 2, 8, 8, requires_grad=True)
        same = method.targets(Output(logits, {}))
        for teacher in (Output(logits.detach(), {}), Output(torch.randn(4, 2, 8, 8), {})):
            method(same, method.targets(teacher)).sum().backward(retain_graph=True)
            assert logits.grad is not None
            assert torch.isfinite(logits.grad).all()
        assert logits.grad.abs().max() > 0  # type: ignore[union-attr]


class TestAMTML(TestNormalised):
    """With hints through a projection that does nothing."""

    name = "amtml"
    options = {}  # noqa: RUF012
    numbers = 4


def relation_gap(own: Array, other: Array) -> Array:
    """By loops over pairs and triples of points (B, n)."""

    def smooth(d: float) -> float:
        return 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5

    def far(p: Array) -> Array:
        d = np.array([[np.linalg.norm(a - b) for b in p] for a in p])
        return d / d[d > 0].mean()

    def turned(p: Array, i: int, j: int, k: int) -> float:
        a, b = p[j] - p[i], p[k] - p[i]
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    n, distances = len(own), (far(own), far(other))
    losses = []
    for i in range(n):
        apart = np.mean([smooth(distances[0][i, j] - distances[1][i, j]) for j in range(n) if j != i])
        pairs = permutations([j for j in range(n) if j != i], 2)
        losses.append(apart + np.mean([smooth(turned(own, i, *p) - turned(other, i, *p)) for p in pairs]))
    return np.array(losses)


def test_relations_equal_numpy() -> None:
    rng = np.random.default_rng(0)
    own, other = ({"logits": rng.normal(size=(4, 3, 4, 4)) * 3} for _ in range(2))

    def points(z: Array) -> Array:
        return blocks(softmax(z / 5, axis=1), 2, np.mean).reshape(4, -1)

    hold_against(
        Relations(grid=2),
        lambda arrays: relation_gap(points(arrays["logits"]), points(other["logits"])),
        own,
        other,
        step=1e-5,
    )


def test_relations_of_a_mixture() -> None:
    method = Relations()
    targets = [method.targets(Output(torch.randn(3, 2, 8, 8), {})) for _ in range(2)]
    share = torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    mixed = method.combine_targets(targets, share)["points"]
    torch.testing.assert_close(mixed[0], 0.25 * targets[0]["points"][0] + 0.75 * targets[1]["points"][0])
    torch.testing.assert_close(mixed[1], targets[0]["points"][1])


def factors(teachers: int = 3, **options: float) -> AdaptiveFactors:
    torch.manual_seed(0)
    weighting = create_weighting("adaptive_factors", **options)
    assert isinstance(weighting, AdaptiveFactors)
    weighting.build(INFO, [f"t{j}" for j in range(teachers)])
    return weighting


def answer(seed: int = 0) -> Output:
    generator = torch.Generator().manual_seed(seed)
    return Output(None, {"encoder": torch.randn(2, 4, 3, 3, generator=generator, requires_grad=True)})


def test_weights_and_penalty_equal_numpy() -> None:
    weighting, output = factors(), answer()
    got = weighting(torch.ones(2, 3), [], torch.zeros(2, 3, 3), output)
    theta = weighting.factors.detach().double().numpy()
    w = weighting.scorer.detach().double().numpy()
    beta = output.features["encoder"].detach().double().numpy().max((2, 3))
    scores = np.array(
        [[sum(w[c] * (row[c] * theta[k, c]) for c in range(4)) for k in range(3)] for row in beta]
    )
    np.testing.assert_allclose(got.detach().numpy(), softmax(scores, axis=1), rtol=1e-5)
    expected = 0.1 * (np.linalg.norm(w) ** 2 + np.linalg.norm(theta) ** 2)
    assert weighting.penalty().item() == pytest.approx(expected, rel=1e-5)


def test_weights_learn_and_the_student_does_not_choose() -> None:
    weighting, output = factors(), answer()
    (weighting(torch.ones(2, 3), [], torch.zeros(2, 3, 3), output)[:, 0]).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in weighting.parameters())
    assert output.features["encoder"].grad is None


def test_who_does_not_speak_stays_silent_and_gradients_stay_finite() -> None:
    weighting = factors()
    given = torch.tensor([[0.5, 0.0, 0.2], [0.0, 0.0, 0.0]])
    got = weighting(given, [], torch.zeros(2, 3, 3), answer())
    np.testing.assert_allclose(got.sum(1).detach().numpy(), [1, 0], rtol=1e-6)
    assert not got[:, 1].any()
    got[:, 0].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in weighting.parameters())  # type: ignore[arg-type]


def test_two_phases() -> None:
    weighting = factors(steps=2)
    learned = []
    for _ in range(4):
        weights = weighting(torch.ones(2, 3), [], torch.zeros(2, 3, 3), answer())
        learned.append((weights.requires_grad, weighting.penalty().requires_grad))
    assert learned == [(True, True)] * 2 + [(False, False)] * 2
    assert int(weighting.state_dict()["taken"]) == 4  # a resumed training knows its phase


def test_amtml_is_the_sum_of_its_terms() -> None:
    """0.7 x 2 T^2 KL at T = 5 as a mean over 3 classes, plus hints of length 1; the one teacher is the mixture."""
    rng = np.random.default_rng(0)
    own, other = (
        {"logits": rng.normal(size=(2, 3, 4, 4)), "encoder": rng.normal(size=(2, 4, 2, 2))} for _ in range(2)
    )
    method = AMTML()
    method.build(INFO, {"t": INFO})
    (weight,) = (each.detach().double().numpy() for each in method.parameters())

    def reference(arrays: Arrays) -> Array:
        t, s = (softmax(z["logits"] / 5, axis=1) for z in (other, arrays))
        soft = 0.7 * 2 * 25 * (t * np.log(t / s)).mean((1, 2, 3))
        own, theirs = (
            x / np.sqrt((x * x).sum(1, keepdims=True)) for x in (arrays["encoder"], other["encoder"])
        )
        hint = np.einsum("oc,bchw->bohw", weight, own)
        return soft + ((hint - theirs) ** 2).sum(1).mean((1, 2))

    hold_against(method, reference, own, other)
    assert not method.methods["hints"].weighted
    assert sorted(AMTML(relations=1.0).weights) == ["hints", "prediction", "relations"]


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="relations: distance and angle must not be negative"):
        create_method("relations", angle=-1.0)
    with pytest.raises(InputError, match="penalty and steps must not be negative"):
        create_weighting("adaptive_factors", steps=-1)
    with pytest.raises(InputError, match="needs a student that declares its features"):
        create_weighting("adaptive_factors").build({}, ["t"])
