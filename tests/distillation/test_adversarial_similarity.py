"""ASD against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from segdistill.distillation import create_method
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import Array, MethodContract, slope_of


def reference(student: Array, teacher: Array, masks: np.ndarray, form: str, one_sided: bool) -> Array:
    losses = []
    for s, t, mask in zip(student, teacher, masks, strict=True):
        own, wanted = (np.abs(softmax(z, axis=0)[1] - mask) for z in (s, t))
        if form == "image":
            own, wanted = (np.sqrt((e**2).sum()) / np.sqrt(e.size) for e in (own, wanted))
        d = own - wanted
        d = np.maximum(d, 0) if one_sided else d
        losses.append(abs(d) if form == "image" else np.sqrt((d**2).mean() + 1e-12))
    return np.array(losses)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("form", ["image", "pixel"])
def test_equals_numpy(form: str, one_sided: bool) -> None:
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(4, 2, 6, 6)) * 2, rng.normal(size=(4, 2, 6, 6)) * 2
    masks = rng.integers(0, 2, (4, 6, 6))
    method = create_method("adversarial_similarity", form=form, one_sided=one_sided)
    leaf = torch.tensor(student, requires_grad=True)
    own, wanted = (method.targets(Output(z, {}), torch.tensor(masks)) for z in (leaf, torch.tensor(teacher)))
    loss = method(own, wanted)
    expected = reference(student, teacher, masks, form, one_sided)
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    assert (expected > 1e-3).any()
    loss.sum().backward()
    assert leaf.grad is not None
    for sample in range(4):
        place = (sample, 1, 2, sample)
        slope = slope_of(lambda x: reference(x, teacher, masks, form, one_sided), student, place)
        assert leaf.grad[place].item() == pytest.approx(slope, rel=2e-3, abs=1e-5)


def test_one_sided_leaves_a_better_student_alone() -> None:
    target = torch.ones(1, 4, 4, dtype=torch.long)
    sure = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 3.0)], 1)
    unsure = torch.zeros(1, 2, 4, 4)
    for one_sided in (True, False):
        method = create_method("adversarial_similarity", form="image", one_sided=one_sided)
        loss = method(*(method.targets(Output(z, {}), target) for z in (sure, unsure)))
        assert (loss.item() == 0) == one_sided


class TestLiteral(MethodContract):
    name = "adversarial_similarity"
    options = {"form": "image", "one_sided": False}  # noqa: RUF012


class TestPixel(MethodContract):
    name = "adversarial_similarity"
    floor = 2e-6  # the root of the 1e-12 inside it


def test_perfect_predictions_have_finite_gradients() -> None:
    logits = torch.stack([torch.full((1, 4, 4), -90.0), torch.full((1, 4, 4), 90.0)], 1).requires_grad_()
    target = torch.ones(1, 4, 4, dtype=torch.long)
    for form in ("image", "pixel"):
        method = create_method("adversarial_similarity", form=form)
        own = method.targets(Output(logits, {}), target)
        method(own, {"error": own["error"].detach() + 0.1}).sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="form is 'line': choose from image, pixel"):
        create_method("adversarial_similarity", form="line")
    with pytest.raises(InputError, match="needs the reference masks"):
        create_method("adversarial_similarity").targets(Output(torch.zeros(1, 2, 2, 2), {}))
    with pytest.raises(InputError, match="needs a network with logits"):
        create_method("adversarial_similarity").targets(Output(None, {}), torch.zeros(1, 2, 2))
