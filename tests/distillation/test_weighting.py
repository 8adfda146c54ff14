"""Teachers' weights against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from segdistill.distillation import WEIGHTINGS, create_weighting
from segdistill.distillation.weighting import soft_dice_score
from segdistill.errors import InputError
from tests.distillation.contract import Array, WeightingContract


class TestFixed(WeightingContract):
    name = "fixed"
    normalised = False


class TestUniform(WeightingContract):
    name = "uniform"


class TestScore(WeightingContract):
    name = "score"


class TestPrinted(WeightingContract):
    name = "printed"


class TestSoftmax(WeightingContract):
    name = "softmax"


class TestAdaptiveFactors(WeightingContract):
    name = "adaptive_factors"


def test_every_weighting_is_under_contract() -> None:
    assert {each.name for each in WeightingContract.__subclasses__()} >= set(WEIGHTINGS)


@pytest.fixture
def case() -> tuple[list[Array], np.ndarray]:
    """Three teachers on five samples; the fourth has an empty mask."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (5, 8, 8))
    masks[3] = 0
    signs = np.stack([1 - masks, masks], 1) * 2 - 1
    return [rng.normal(size=(5, 2, 8, 8)) + strength * signs for strength in (0.2, 1.0, 3.0)], masks


def dice(z: Array, mask: np.ndarray) -> float:
    p = softmax(z, axis=0)[1]
    return float(2 * (p * mask).sum() / (p.sum() + mask.sum()))


def reference(name: str, teacher_targets: list[Array], masks: np.ndarray) -> Array:
    scores = np.array([[dice(z[i], mask) for z in teacher_targets] for i, mask in enumerate(masks)])
    rows = []
    for row in scores:
        if name == "uniform" or not row.any():
            rows.append(np.full(len(row), 1 / len(row)))
        elif name == "softmax":
            rows.append(softmax(row / 0.1))
        else:
            values = row if name == "score" else 1 - row
            rows.append(values / values.sum())
    return np.array(rows)


@pytest.mark.parametrize("name", ["uniform", "score", "printed", "softmax"])
def test_equals_numpy(name: str, case: tuple[list[Array], np.ndarray]) -> None:
    teacher_targets, masks = case
    got = create_weighting(name)(
        torch.ones(5, 3), [torch.tensor(z) for z in teacher_targets], torch.tensor(masks)
    )
    np.testing.assert_allclose(got.numpy(), reference(name, teacher_targets, masks), rtol=1e-4)
    np.testing.assert_allclose(got.sum(1).numpy(), 1, rtol=1e-6)
    np.testing.assert_allclose(got[3].numpy(), 1 / 3, rtol=1e-5)


def test_the_better_teacher_weighs_more_but_as_printed_less(case: tuple[list[Array], np.ndarray]) -> None:
    teacher_targets, masks = case
    logits, target = [torch.tensor(z) for z in teacher_targets], torch.tensor(masks)
    best = {
        name: create_weighting(name)(torch.ones(5, 3), logits, target)[0]
        for name in WEIGHTINGS
        if name != "adaptive_factors"
    }
    assert best["softmax"][2] > best["score"][2] > best["uniform"][2] > best["printed"][2]


def test_fixed_weights_are_left_as_they_are() -> None:
    given = torch.tensor([[0.5, 0.2], [0.0, 0.0]])
    assert create_weighting("fixed")(given, [], torch.zeros(2, 4, 4)) is given


def test_no_gradient_and_float32() -> None:
    logits = [torch.randn(2, 2, 4, 4, requires_grad=True) for _ in range(2)]
    target = torch.ones(2, 4, 4, dtype=torch.long)
    plain = create_weighting()(torch.ones(2, 2), logits, target)
    assert not plain.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(create_weighting()(torch.ones(2, 2), logits, target), plain)


def test_one_logit_and_several_classes() -> None:
    z = torch.randn(3, 2, 6, 6)
    target = torch.randint(0, 2, (3, 6, 6))
    torch.testing.assert_close(soft_dice_score(z[:, 1:] - z[:, :1], target), soft_dice_score(z, target))
    perfect = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [2, 1]]]), 3).movedim(-1, 1) * 90.0
    assert soft_dice_score(perfect, torch.tensor([[[0, 1], [2, 1]]])).item() == pytest.approx(1.0)


def test_perfect_teachers_are_equal_as_printed() -> None:
    perfect = torch.stack([torch.full((1, 4, 4), -90.0), torch.full((1, 4, 4), 90.0)], 1)
    target = torch.ones(1, 4, 4, dtype=torch.long)
    assert create_weighting("printed")(torch.ones(1, 2), [perfect, perfect], target).tolist() == [[0.5, 0.5]]


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="unknown teacher weighting 'scores': did you mean 'score'"):
        create_weighting("scores")
    with pytest.raises(InputError, match="temperature must be positive"):
        create_weighting("softmax", temperature=0)
    with pytest.raises(InputError, match="need teachers with logits"):
        create_weighting()(torch.ones(1, 1), [None], torch.zeros(1, 2, 2))
