"""What every segmentation loss must hold to; a test class per loss inherits it and gives an independent reference."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from segdistill.losses import LOSSES, create_loss


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def random_case(classes: int = 2, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, classes, size, size)) * 2, rng.integers(0, max(classes, 2), (3, size, size))


def as_torch(z: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(z, dtype=torch.float32), torch.tensor(y)


class LossContract:
    """Inherit as `class TestX(LossContract)`, set `name`, and define `reference`."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    size_tolerance: ClassVar[float] = 1e-3
    """The largest relative change from 8x8 to 32x32."""

    def make(self) -> nn.Module:
        return create_loss(self.name, **self.options)

    def reference(self, z: np.ndarray, y: np.ndarray) -> float:
        """The loss in NumPy, from logits (B, C, H, W) and class indices (B, H, W)."""
        raise NotImplementedError

    def test_is_registered_under_its_name(self) -> None:
        assert LOSSES[self.name].summary
        assert isinstance(self.make(), nn.Module)

    def test_equals_numpy(self) -> None:
        z, y = random_case()
        assert self.make()(*as_torch(z, y)).item() == pytest.approx(self.reference(z, y), rel=1e-5)

    def test_one_logit_equals_two_classes(self) -> None:
        z, y = as_torch(*random_case())
        one = (z[:, 1:] - z[:, :1]).contiguous()  # sigmoid of the difference is the softmax of the pair
        torch.testing.assert_close(self.make()(one, y), self.make()(z, y), rtol=1e-5, atol=1e-6)

    def test_gradient(self) -> None:
        z, y = random_case(size=4)
        logits = torch.tensor(z, dtype=torch.float32, requires_grad=True)
        self.make()(logits, torch.tensor(y)).backward()
        assert logits.grad is not None
        step = 1e-4
        for index in [(0, 0, 1, 1), (1, 1, 2, 3), (2, 1, 0, 0)]:
            up, down = z.copy(), z.copy()
            up[index] += step
            down[index] -= step
            slope = (self.reference(up, y) - self.reference(down, y)) / (2 * step)
            assert logits.grad[index].item() == pytest.approx(slope, abs=1e-4)

    def test_does_not_change_with_size(self) -> None:
        z, y = as_torch(*random_case(size=8))
        big_z = z.repeat_interleave(4, 2).repeat_interleave(4, 3)
        big_y = y.repeat_interleave(4, 1).repeat_interleave(4, 2)
        small, big = (self.make()(*pair).item() for pair in ((z, y), (big_z, big_y)))
        assert big == pytest.approx(small, rel=self.size_tolerance)

    @pytest.mark.parametrize("classes", [1, 2, 4])
    def test_finite_for_empty_references_and_certain_logits(self, classes: int) -> None:
        y = torch.zeros(2, 6, 6, dtype=torch.long)
        for scale in (0.0, 60.0, -60.0):
            z = torch.full((2, classes, 6, 6), scale, requires_grad=True)
            value = self.make()(z, y)
            value.backward()
            assert torch.isfinite(value)
            assert z.grad is not None
            assert torch.isfinite(z.grad).all()

    @pytest.mark.parametrize("classes", [2, 4])
    def test_volumes(self, classes: int) -> None:
        """Of three true axes of different lengths: each counts as the others do."""
        rng = np.random.default_rng(1)
        y = torch.tensor(rng.integers(0, classes, (2, 6, 8, 10)))
        z = torch.tensor(rng.normal(size=(2, classes, 6, 8, 10)) * 2, dtype=torch.float32, requires_grad=True)
        value = self.make()(z, y)
        value.backward()
        assert z.grad is not None
        assert torch.isfinite(z.grad).all()
        for axes in ((1, 2, 0), (2, 0, 1), (0, 2, 1)):
            turned_z = z.detach().permute(0, 1, *(axis + 2 for axis in axes))
            turned = self.make()(turned_z, y.permute(0, *(axis + 1 for axis in axes)))
            torch.testing.assert_close(turned, value.detach(), rtol=1e-4, atol=1e-6)
        other_z, other_y = z.detach().clone(), y.clone()
        other_z[..., 1:], other_y[..., 1:] = (
            z.detach()[..., :1],
            y[..., :1],
        )  # the last axis is not passed over
        assert self.make()(other_z, other_y).item() != pytest.approx(value.item(), rel=1e-4)
        flat = self.make()(z.detach()[..., :1], y[..., :1])
        torch.testing.assert_close(flat, self.make()(z.detach()[..., 0], y[..., 0]))

    def test_low_precision_logits_are_computed_in_float32(self) -> None:
        z, y = as_torch(*random_case())
        half = z.bfloat16()
        assert self.make()(half, y).item() == pytest.approx(self.make()(half.float(), y).item(), rel=1e-5)
