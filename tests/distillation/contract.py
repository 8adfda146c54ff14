"""What every method must hold to; a test class per method inherits it and says how it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdistill.distillation import METHODS, DistillationMethod, create_method
from segdistill.distillation.base import Targets
from segdistill.models.network import Output

Array = NDArray[np.float64]


def bigger(small: Tensor, factor: int) -> Tensor:
    """Every position `factor` times along each side."""
    return small.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def slope_of(
    function: Callable[[Array], Array], at: Array, place: tuple[int, ...], step: float = 1e-6
) -> float:
    """Central difference of the sum of a NumPy function."""
    up, down = at.copy(), at.copy()
    up[place] += step
    down[place] -= step
    return float((function(up).sum() - function(down).sum()) / (2 * step))


class MethodContract:
    """Inherit as `class TestX(MethodContract)` and set `name`."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    floor: ClassVar[float] = 1e-6
    """The largest loss to oneself."""
    numbers: ClassVar[int] = 2
    """The most numbers that are extracted, in those of the image's positions."""

    def make(self) -> DistillationMethod:
        return create_method(self.name, **self.options)

    def output(self, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Output:
        """Two images of size x size; features at half of it, under the method's own layers."""
        generator = torch.Generator().manual_seed(seed)
        logits = bigger(torch.randn(2, 2, 8, 8, generator=generator), size // 8)
        features = {
            layer: bigger(torch.randn(2, 5, 4, 4, generator=generator), size // 8).to(dtype)
            for layer in self.make().features
        }
        return Output(logits=logits.to(dtype), features=features)

    def target(self, size: int = 16) -> Tensor:
        generator = torch.Generator().manual_seed(9)
        return bigger(bigger(torch.randint(0, 2, (2, 4, 4), generator=generator), 2), size // 8)

    def targets(self, methods: DistillationMethod, size: int = 16, seed: int = 0) -> Targets:
        return methods.targets(self.output(size, seed), self.target(size))

    def test_is_registered_under_its_name(self) -> None:
        assert isinstance(self.make(), METHODS[self.name])

    def test_nothing_to_learn_from_oneself(self) -> None:
        methods = self.make()
        targets = self.targets(methods)
        assert methods.loss(targets, targets).abs().max() <= self.floor

    def test_one_value_per_sample_not_negative(self) -> None:
        methods = self.make()
        loss = methods.loss(self.targets(methods), self.targets(methods, seed=1))
        assert loss.shape == (2,)
        assert (loss >= 0).all()
        assert loss.max() > 1e-3
        assert loss.dtype == torch.float32

    def test_samples_do_not_know_of_each_other(self) -> None:
        """Weights and caches are per sample."""
        methods = self.make()
        student, teacher, target = self.output(), self.output(seed=1), self.target()

        def second(output: Output) -> Output:
            assert output.logits is not None
            return Output(output.logits[1:], {name: f[1:] for name, f in output.features.items()})

        both = methods.loss(methods.targets(student, target), methods.targets(teacher, target))
        alone = methods.loss(
            methods.targets(second(student), target[1:]), methods.targets(second(teacher), target[1:])
        )
        torch.testing.assert_close(alone, both[1:])

    def test_what_is_extracted_is_small(self) -> None:
        """At most as many numbers as the image has positions, per layer or class: it can be kept.

        What is compared by its channels is not small: features as they are.
        """
        targets = self.targets(self.make(), size=64)
        assert all(len(value) == 2 for value in targets.values())
        assert sum(value[0].numel() for value in targets.values()) <= self.numbers * 64 * 64

    def test_the_same_at_every_size(self) -> None:
        methods = self.make()
        losses = [methods.loss(self.targets(methods, s), self.targets(methods, s, seed=1)) for s in (8, 64)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-6)

    def test_float32_under_autocast(self) -> None:
        methods = self.make()
        plain = methods.loss(self.targets(methods), self.targets(methods, seed=1))
        with torch.autocast("cpu", torch.bfloat16):
            low = methods.loss(self.targets(methods), self.targets(methods, seed=1))
        torch.testing.assert_close(low, plain)

    def test_low_precision_answers_are_worked_in_float32(self) -> None:
        methods, target = self.make(), self.target()
        teacher_targets = [self.output(seed=seed, dtype=torch.bfloat16) for seed in (0, 1)]
        widened = [
            Output(a.logits.float(), {n: f.float() for n, f in a.features.items()})  # type: ignore[union-attr]
            for a in teacher_targets
        ]
        low = methods.loss(*(methods.targets(a, target) for a in teacher_targets))
        torch.testing.assert_close(low, methods.loss(*(methods.targets(a, target) for a in widened)))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_gradients_are_finite_and_reach_the_student(self, seed: int) -> None:
        """Also where student and teacher agree (seed 0), where a root has no slope."""
        methods, target = self.make(), self.target()
        output = self.output(seed=0)
        assert output.logits is not None
        leaves = [leaf.requires_grad_() for leaf in (output.logits, *output.features.values())]
        loss = methods.loss(methods.targets(output, target), self.targets(methods, seed=seed))
        loss.sum().backward()
        slopes = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert slopes
        assert all(torch.isfinite(slope).all() for slope in slopes)
        if seed:
            assert max(slope.abs().max() for slope in slopes) > 1e-6
