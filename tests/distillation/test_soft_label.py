from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor

from segdistill.distillation import DistillationMethod
from segdistill.distillation.base import STUDENT, Targets
from segdistill.distillation.methods.soft_prediction import SoftLabel
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import MethodContract


class OfMeans(SoftLabel):
    """Soft labels of networks whose class is the mean of their logits: the contract's outputs have no label."""

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        assert output.logits is not None
        return super().targets(output._replace(label=output.logits.float().mean(dim=(2, 3))), mask, network)


class TestSoftLabel(MethodContract):
    name = "soft_label"

    def make(self) -> DistillationMethod:
        return OfMeans(temperature=0.1)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_the_loss_is_the_divergence_times_the_square_of_the_temperature(
    temperature: float, direction: str
) -> None:
    student, teacher = (np.random.default_rng(seed).normal(size=(5, 3)) * 2 for seed in (0, 1))
    method = SoftLabel(temperature, direction)  # type: ignore[arg-type]
    targets = [method.targets(Output(None, {}, label=torch.from_numpy(z))) for z in (student, teacher)]
    p, q = (softmax(z / temperature, axis=1) for z in (student, teacher))
    first, second = (q, p) if direction == "teacher_student" else (p, q)
    wanted = rel_entr(first, second).sum(axis=1) * temperature**2
    np.testing.assert_allclose(method(*targets).numpy(), wanted, rtol=1e-4)


def test_the_combination_is_the_weighted_sum_of_probabilities() -> None:
    logits = [np.random.default_rng(seed).normal(size=(3, 2)) for seed in (0, 1)]
    weights = np.array([[0.3, 0.7], [1.0, 0.0], [0.5, 0.5]])
    method = SoftLabel()
    targets = [method.targets(Output(None, {}, label=torch.from_numpy(z))) for z in logits]
    got = method.combine_targets(targets, torch.from_numpy(weights).float())["log_probability"].exp().numpy()
    p, q = (softmax(z, axis=1) for z in logits)
    np.testing.assert_allclose(got[..., 0], weights[:, :1] * p + weights[:, 1:] * q, rtol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="needs networks that classify images"):
        SoftLabel().targets(Output(torch.zeros(1, 2, 2, 2), {}))
    with pytest.raises(InputError, match="the student has 2 classes, its teacher 3"):
        SoftLabel()({"log_probability": torch.zeros(1, 2, 1)}, {"log_probability": torch.zeros(1, 3, 1)})
    with pytest.raises(InputError, match="temperature must be positive"):
        SoftLabel(temperature=0)
