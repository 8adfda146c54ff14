"""Soft predictions against scipy's divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from segdistill.distillation import create_method
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import MethodContract
from tests.distillation.numbers import band_of


def output(z: np.ndarray) -> Output:
    return Output(logits=torch.tensor(z, dtype=torch.float32), features={})


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4, 8, 8)) * 3, rng.normal(size=(3, 4, 8, 8)) * 3


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_equals_scipy(pair: tuple[np.ndarray, np.ndarray], temperature: float, direction: str) -> None:
    student, teacher = pair
    method = SoftPrediction(temperature, direction)  # type: ignore[arg-type]
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    if direction == "student_teacher":
        p, q = q, p
    expected = rel_entr(p, q).sum(1).mean((1, 2)) * temperature**2
    got = method(method.targets(output(student)), method.targets(output(teacher)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_bernoulli_form_for_one_logit(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """LightBTSeg's form for one channel: t log(t/s) + (1-t) log((1-t)/(1-s))."""
    student, teacher = pair[0][:, :1], pair[1][:, :1]
    s, t = 1 / (1 + np.exp(-student)), 1 / (1 + np.exp(-teacher))
    expected = (t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))).mean((1, 2, 3))
    method = SoftPrediction()
    got = method(method.targets(output(student)), method.targets(output(teacher)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3)


def test_gradient_with_respect_to_student_logits(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """d KL(t || softmax(z)) / dz = softmax(z) - t, over the number of positions."""
    student, teacher = pair
    method = SoftPrediction()
    z = torch.tensor(student, requires_grad=True)
    targets = method.targets(Output(logits=z, features={}))
    method(targets, method.targets(output(teacher))).sum().backward()
    expected = (softmax(student, axis=1) - softmax(teacher, axis=1)) / 64
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-6)


class TestSoftPrediction(MethodContract):
    name = "soft_prediction"


class TestSoftMask(MethodContract):
    name = "soft_mask"


def test_the_combination_is_the_weighted_sum_of_probabilities(pair: tuple[np.ndarray, np.ndarray]) -> None:
    method = SoftPrediction(4.0)
    weights = np.array([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    targets = [method.targets(output(z)) for z in pair]
    got = method.combine_targets(targets, torch.tensor(weights, dtype=torch.float32))["log_probability"]
    p, q = (softmax(z / 4, axis=1) for z in pair)
    share = weights[:, :, None, None, None]
    np.testing.assert_allclose(got.exp().numpy(), share[:, 0] * p + share[:, 1] * q, rtol=1e-4)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="temperature must be positive"):
        SoftPrediction(temperature=0)
    with pytest.raises(InputError, match="direction is 'both': choose from teacher_student, student_teacher"):
        create_method("soft_prediction", direction="both")
    with pytest.raises(InputError, match="needs a network with logits"):
        SoftPrediction().targets(Output(logits=None, features={}))


def test_log_softmax_is_what_is_kept(pair: tuple[np.ndarray, np.ndarray]) -> None:
    targets = SoftPrediction(2.0).targets(output(pair[0]))["log_probability"]
    np.testing.assert_allclose(targets.numpy(), log_softmax(pair[0] / 2, axis=1), rtol=1e-4, atol=1e-5)


class TestBalanced(MethodContract):
    name = "soft_prediction"
    options = {"temperature": 4.0, "balance": "class", "scale": "gradient"}  # noqa: RUF012
    numbers = 3


def balanced(values: np.ndarray, foreground: np.ndarray) -> list[float]:
    """The mean of the means over the regions that an image has."""
    return [
        float(np.mean([v[region].mean() for region in (f, ~f) if region.any()]))
        for v, f in zip(values, foreground, strict=True)
    ]


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_balance_is_the_mean_of_two_means(pair: tuple[np.ndarray, np.ndarray], direction: str) -> None:
    """A lesion of one position; nothing but background; no mask, so where the teacher predicts foreground."""
    student, teacher = pair
    mask = np.zeros((3, 8, 8), dtype=np.int64)
    mask[0, 2, 3] = 2
    mask[2] = -1
    method = create_method("soft_prediction", temperature=2.0, direction=direction, balance="class")
    p, q = softmax(teacher / 2, axis=1), softmax(student / 2, axis=1)
    first, second = (p, q) if direction == "teacher_student" else (q, p)
    foreground = mask > 0
    foreground[2] = teacher[2].argmax(0) > 0
    expected = balanced(4 * rel_entr(first, second).sum(1), foreground)
    known = torch.tensor(mask)
    got = method(method.targets(output(student), known), method.targets(output(teacher), known))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_balance_gives_the_lesion_half_of_the_gradient() -> None:
    """Of the mean over positions a lesion of 1 % has 1 %."""
    mask = torch.zeros(1, 10, 10, dtype=torch.long)
    mask[0, 4, 4] = 1
    shares = []
    for balance in ("none", "class"):
        z = torch.zeros(1, 2, 10, 10, requires_grad=True)
        method = create_method("soft_prediction", balance=balance)  # type: ignore[arg-type]
        teacher = torch.tensor([0.0, 3.0]).reshape(1, 2, 1, 1).expand(z.shape)
        method(
            method.targets(Output(z, {}), mask), method.targets(Output(teacher, {}), mask)
        ).sum().backward()
        slope = z.grad.abs().sum(1)  # type: ignore[union-attr]
        shares.append((slope[0, 4, 4] / slope.sum()).item())
    np.testing.assert_allclose(shares, [0.01, 0.5], rtol=1e-5)


def test_the_boundary_is_a_region_as_wide_as_a_64th_of_the_image() -> None:
    """Against scipy: two positions on each side at 128, one at 32."""
    for side, width in ((128, 2), (32, 1)):
        mask = np.zeros((side, side), dtype=np.int64)
        mask[8:20, 5:17], mask[14:25, 17:25] = 1, 2
        rng = np.random.default_rng(0)
        student, teacher = rng.normal(size=(2, 1, 3, side, side))
        region = band_of(mask, width, 3)
        method = create_method("soft_prediction", balance="boundary")
        known = torch.tensor(mask)[None]
        got = method(*(method.targets(output(z), known) for z in (student, teacher)))
        values = rel_entr(softmax(teacher, axis=1), softmax(student, axis=1)).sum(1)
        np.testing.assert_allclose(got.numpy(), balanced(values, region[None]), rtol=1e-4)


def test_without_balance_the_mask_changes_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    method = SoftPrediction()
    targets = method.targets(output(pair[0]), torch.ones(3, 8, 8, dtype=torch.long))
    assert list(targets) == ["log_probability"]


def test_the_foreground_of_combined_teachers(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The reference where there is one, and else what the majority of the weights predicts."""
    method = create_method("soft_prediction", balance="class")
    mask = torch.zeros(3, 8, 8, dtype=torch.long)
    mask[0, :4] = 1
    mask[1:] = -1
    targets = [method.targets(output(z), mask) for z in (pair[0], pair[1])]
    weights = torch.tensor([[0.5, 0.5], [0.8, 0.2], [0.3, 0.7]])
    found = method.combine_targets(targets, weights)["region"]
    assert torch.equal(found[0, 0], mask[0] > 0)
    assert torch.equal(found[1], targets[0]["region"][1])
    assert torch.equal(found[2], targets[1]["region"][2])


def test_bad_scales_are_refused() -> None:
    with pytest.raises(InputError, match="balance is 'classes': choose from none, class, boundary"):
        create_method("soft_prediction", balance="classes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="scale is 'own': choose from published, gradient"):
        create_method("soft_mask", scale="own")
    with pytest.raises(InputError, match="soft_prediction: ratio must be positive, not 0"):
        create_method("soft_prediction", ratio=0.0)
