"""Soft predictions against scipy's divergence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from segdistill.errors import InputError
from segdistill.knowledge import KNOWLEDGE, SoftPrediction, create_knowledge
from segdistill.models.output import Output


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
    knowledge = SoftPrediction(temperature, direction)  # type: ignore[arg-type]
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    if direction == "student_teacher":
        p, q = q, p
    expected = rel_entr(p, q).sum(1).mean((1, 2)) * temperature**2
    got = knowledge.gap(knowledge.extract(output(student)), knowledge.extract(output(teacher)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4)


def test_bernoulli_form_for_one_logit(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """LightBTSeg's form for one channel: t log(t/s) + (1-t) log((1-t)/(1-s))."""
    student, teacher = pair[0][:, :1], pair[1][:, :1]
    s, t = 1 / (1 + np.exp(-student)), 1 / (1 + np.exp(-teacher))
    expected = (t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))).mean((1, 2, 3))
    knowledge = SoftPrediction()
    got = knowledge.gap(knowledge.extract(output(student)), knowledge.extract(output(teacher)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-3)


def test_gradient_with_respect_to_student_logits(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """d KL(t || softmax(z)) / dz = softmax(z) - t, over the number of positions."""
    student, teacher = pair
    knowledge = SoftPrediction()
    z = torch.tensor(student, requires_grad=True)
    said = knowledge.extract(Output(logits=z, features={}))
    knowledge.gap(said, knowledge.extract(output(teacher))).sum().backward()
    expected = (softmax(student, axis=1) - softmax(teacher, axis=1)) / 64
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", KNOWLEDGE)
class TestKnowledgeContract:
    """What every registered knowledge must hold to."""

    def make(self, size: int, seed: int) -> Output:
        generator = torch.Generator().manual_seed(seed)
        small = torch.randn(2, 2, 8, 8, generator=generator)
        big = small.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)
        return Output(logits=big, features=dict.fromkeys(KNOWLEDGE["soft_prediction"]().features, big))

    def test_nothing_to_learn_from_oneself(self, name: str) -> None:
        knowledge = create_knowledge(name)
        said = knowledge.extract(self.make(16, 0))
        assert knowledge.gap(said, said).abs().max() < 1e-6

    def test_one_value_per_sample_not_negative(self, name: str) -> None:
        knowledge = create_knowledge(name)
        gap = knowledge.gap(knowledge.extract(self.make(16, 0)), knowledge.extract(self.make(16, 1)))
        assert gap.shape == (2,)
        assert (gap >= 0).all()

    def test_the_same_at_every_size(self, name: str) -> None:
        knowledge = create_knowledge(name)
        gaps = [
            knowledge.gap(knowledge.extract(self.make(s, 0)), knowledge.extract(self.make(s, 1)))
            for s in (8, 64)
        ]
        torch.testing.assert_close(gaps[0], gaps[1], rtol=1e-2, atol=1e-6)

    def test_float32_under_autocast(self, name: str) -> None:
        knowledge = create_knowledge(name)
        student, teacher = self.make(16, 0), self.make(16, 1)
        plain = knowledge.gap(knowledge.extract(student), knowledge.extract(teacher))
        with torch.autocast("cpu", torch.bfloat16):
            low = knowledge.gap(knowledge.extract(student), knowledge.extract(teacher))
        torch.testing.assert_close(low, plain)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="temperature must be positive"):
        SoftPrediction(temperature=0)
    with pytest.raises(InputError, match="neither"):
        create_knowledge("soft_prediction", direction="both")
    with pytest.raises(InputError, match="needs a network with logits"):
        SoftPrediction().extract(Output(logits=None, features={}))


def test_log_softmax_is_what_is_kept(pair: tuple[np.ndarray, np.ndarray]) -> None:
    said = SoftPrediction(2.0).extract(output(pair[0]))["log_probability"]
    np.testing.assert_allclose(said.numpy(), log_softmax(pair[0] / 2, axis=1), rtol=1e-4, atol=1e-5)
