"""Region contrast against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.distillation import create_method
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract, slope_of


def contrast(feature: Array, mask: np.ndarray) -> float | None:
    """(C, h, w) and (H, W), where H and W are multiples of h and w."""
    step = (mask.shape[0] // feature.shape[1], mask.shape[1] // feature.shape[2])
    small = mask[:: step[0], :: step[1]] > 0
    if small.all() or not small.any():
        return None
    front, back = feature[:, small].mean(1), feature[:, ~small].mean(1)
    return float(front @ back / np.linalg.norm(front) / np.linalg.norm(back))


def reference(student: Array, teacher: Array, masks: np.ndarray, form: str) -> Array:
    losses = []
    for s, t, mask in zip(student, teacher, masks, strict=True):
        own, wanted = contrast(s, mask), contrast(t, mask)
        difference = 0.0 if own is None or wanted is None else own - wanted
        losses.append(difference**2 if form == "squared" else abs(difference))
    return np.array(losses)


@pytest.fixture
def case() -> tuple[Array, Array, np.ndarray]:
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (4, 16, 16))
    masks[1] = 0  # nothing to see
    masks[2] = 1  # nothing else to see
    return rng.normal(size=(4, 5, 8, 8)), rng.normal(size=(4, 9, 4, 4)), masks


@pytest.mark.parametrize("form", ["squared", "abs"])
def test_equals_numpy_and_skips_samples_of_one_class(
    case: tuple[Array, Array, np.ndarray], form: str
) -> None:
    student, teacher, masks = case
    method = create_method("region_contrast", form=form, layers=["encoder"])
    target = torch.tensor(masks)
    leaf = torch.tensor(student, requires_grad=True)
    own = method.targets(Output(None, {"encoder": leaf}), target)
    loss = method(own, method.targets(Output(None, {"encoder": torch.tensor(teacher)}), target))
    np.testing.assert_allclose(loss.detach().numpy(), reference(student, teacher, masks, form), rtol=1e-4)
    assert loss[1] == loss[2] == 0
    assert own["known"][:, 0].tolist() == [True, False, False, True]
    loss.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad[1:3].any()
    for place in [(0, 0, 0, 0), (3, 4, 7, 2), (0, 2, 3, 5)]:
        slope = slope_of(lambda x: reference(x, teacher, masks, form), student, place)
        assert leaf.grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_a_small_lesion_that_is_lost_at_the_size_of_the_feature_is_skipped() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.long)
    mask[0, 3, 3] = 1
    method = create_method("region_contrast", layers=["fine", "coarse"])
    features = {"fine": torch.rand(1, 4, 16, 16), "coarse": torch.rand(1, 4, 4, 4)}
    assert method.targets(Output(None, features), mask)["known"].tolist() == [[True, False]]


class TestRegionContrast(MethodContract):
    name = "region_contrast"


class TestAbsolute(MethodContract):
    name = "region_contrast"
    options = {"form": "abs", "layers": "emkd"}  # noqa: RUF012


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="form is 'l1': choose from squared, abs"):
        create_method("region_contrast", form="l1")
    with pytest.raises(InputError, match="needs the reference masks"):
        create_method("region_contrast").targets(Output(None, {}))
