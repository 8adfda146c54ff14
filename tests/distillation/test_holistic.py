"""SKD's critic and the two sides of its game."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.methods.skd import Critic, Holistic, SelfAttention
from segdistill.errors import InputError
from segdistill.models.network import Output
from tests.distillation.contract import MethodContract


def connected(**options: int) -> Holistic:
    torch.manual_seed(0)
    method = Holistic(**{"width": 4, **options})  # type: ignore[arg-type]
    method.build({}, {"": {}})
    return method


class TestHolistic(MethodContract):
    name = "holistic"

    def make(self) -> DistillationMethod:
        return connected(**self.options)

    def test_one_value_per_sample_not_negative(self) -> None:
        """A difference of scores may be negative: the critic may be wrong."""
        method = self.make()
        loss = method(self.targets(method), self.targets(method, seed=1))
        assert loss.shape == (2,)
        assert loss.dtype == torch.float32
        assert loss.abs().max() > 1e-5

    def test_gradients_are_finite_and_reach_the_student(self) -> None:
        method = self.make()
        logits = torch.randn(2, 2, 16, 16, requires_grad=True)
        method(method.targets(Output(logits, {})), self.targets(method)).sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.abs().max() > 0

    def test_float32_under_autocast(self) -> None:
        """The critic is a network: it runs in the precision of the training."""
        method = self.make()
        targets = [self.targets(method, seed=seed) for seed in (0, 1)]
        plain = method(*targets)
        with torch.autocast("cpu", torch.bfloat16):
            low = method(*targets)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, plain, rtol=0.1, atol=0.02)


class Linear(nn.Module):
    """A critic whose score and slope are known: the mean of weight x logits."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, logits: Tensor) -> Output:
        return Output(None, {}, label=(logits * self.weight).flatten(1).sum(1, keepdim=True))


def test_the_critics_loss_is_wgan_gp() -> None:
    """Score(student) - score(teacher) + 10 (|slope| - 1)^2; a linear critic has one slope everywhere."""
    rng = np.random.default_rng(0)
    weight, s, t = (rng.normal(size=(n, 2, 4, 4)) for n in (1, 3, 3))
    critic = Linear(torch.tensor(weight))
    got = connected().critic_loss(critic, {"logits": torch.tensor(s)}, {"logits": torch.tensor(t)})
    slope = np.sqrt((weight**2).sum())
    expected = ((s - t) * weight).sum((1, 2, 3)).mean() + 10 * (slope - 1) ** 2
    assert got.item() == pytest.approx(expected, rel=1e-5)
    got.backward()
    # d/dw of the penalty is 20 (|w| - 1) w / |w|
    gradient = (s - t).mean(0) + 20 * (slope - 1) * weight[0] / slope
    np.testing.assert_allclose(critic.weight.grad.numpy()[0], gradient, rtol=1e-4)  # type: ignore[union-attr]


def test_the_students_turn_leaves_the_critic_alone() -> None:
    method = connected()
    critic = method.critics["/"].train()
    before = copy.deepcopy(critic.state_dict())
    logits = torch.randn(2, 2, 16, 16, requires_grad=True)
    targets = [method.targets(Output(x, {})) for x in (logits, torch.randn(2, 2, 16, 16))]
    loss = method(*targets)
    loss.sum().backward()
    assert logits.grad is not None
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert critic.training
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())
    critic.eval()
    scores = [critic(each["logits"]).label[:, 0] for each in targets]
    torch.testing.assert_close(loss, scores[1] - scores[0])


def test_a_critic_learns_to_tell_them_apart_and_the_student_to_fool_it() -> None:
    method = connected()
    critic = method.critics["/"].train()
    targets = [{"logits": torch.randn(8, 2, 64, 64) * 0.3 + shift} for shift in (-0.5, 0.5)]
    optimizer = torch.optim.Adam(critic.parameters(), 4e-3)
    for _ in range(15):
        optimizer.zero_grad()
        method.critic_loss(critic, *targets).backward()
        optimizer.step()
    critic.eval()
    student, teacher = (critic(each["logits"]).label.mean() for each in targets)
    assert teacher > student
    assert method(*targets).mean() > 0


def test_architecture() -> None:
    """Widths, kernels and attention of the original; spectral norm keeps each layer's largest stretch at 1."""
    critic = Critic(2)
    kernels = [tuple(stage[0].weight.shape) for stage in critic.stages]  # type: ignore[index, union-attr]
    assert kernels == [(64, 2, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4)]
    attention = [layer.value.weight.shape[0] for layer in critic.attention]  # type: ignore[union-attr]
    assert attention == [256, 512]
    for stage in critic.stages:
        matrix = stage[0].weight.detach().flatten(1)  # type: ignore[index, union-attr]
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=0.2)
    convolutions = 16 * (2 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 128 + 256 + 512
    attentions = sum(2 * (c // 8) * (c + 1) + c * (c + 1) + 1 for c in (256, 512))
    last, norm = 512 * 16 + 1, 4
    assert sum(p.numel() for p in critic.parameters()) == convolutions + attentions + last + norm


def test_self_attention_equals_numpy() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    nn.init.constant_(layer.factor, 0.7)
    x = torch.randn(1, 16, 2, 3, dtype=torch.float64)

    def apply(conv: nn.Conv2d) -> np.ndarray:
        weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()  # type: ignore[union-attr]
        return weight @ x[0].flatten(1).numpy() + bias[:, None]

    q, k, v = (apply(conv) for conv in (layer.query, layer.key, layer.value))
    found = np.zeros_like(v)
    for i in range(6):
        weights = np.exp([q[:, i] @ k[:, j] for j in range(6)])
        found[:, i] = (v * (weights / weights.sum())).sum(1)
    expected = 0.7 * found + x[0].flatten(1).numpy()
    np.testing.assert_allclose(layer(x)[0].flatten(1).detach().numpy(), expected, rtol=1e-6)


def test_one_logit_is_two_classes() -> None:
    z = torch.randn(2, 1, 16, 16)
    one, two = (connected().targets(Output(x, {}))["logits"] for x in (z, torch.cat([-z / 2, z / 2], 1)))
    assert torch.equal(one, two)


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="dimensions is 2, and the logits have 3: set dimensions: 3"):
        Holistic().targets(Output(torch.zeros(1, 2, 4, 4, 4), {}))
    with pytest.raises(InputError, match="classes is 2, but the networks have 3: set classes: 3"):
        Holistic().targets(Output(torch.zeros(1, 3, 4, 4), {}))
    with pytest.raises(InputError, match="width at least 1"):
        create_method("holistic", width=0)
