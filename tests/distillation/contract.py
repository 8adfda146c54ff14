"""What every knowledge must hold to; a test class per knowledge inherits it and says how it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdistill.distillation import KNOWLEDGE, Knowledge, create_knowledge
from segdistill.distillation.base import Said
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


class KnowledgeContract:
    """Inherit as `class TestX(KnowledgeContract)` and set `name`."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    floor: ClassVar[float] = 1e-6
    """The largest gap to oneself."""
    numbers: ClassVar[int] = 2
    """The most numbers that are extracted, in those of the image's positions."""

    def make(self) -> Knowledge:
        return create_knowledge(self.name, **self.options)

    def output(self, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Output:
        """Two images of size x size; features at half of it, under the knowledge's own taps."""
        generator = torch.Generator().manual_seed(seed)
        logits = bigger(torch.randn(2, 2, 8, 8, generator=generator), size // 8)
        features = {
            tap: bigger(torch.randn(2, 5, 4, 4, generator=generator), size // 8).to(dtype)
            for tap in self.make().features
        }
        return Output(logits=logits.to(dtype), features=features)

    def target(self, size: int = 16) -> Tensor:
        generator = torch.Generator().manual_seed(9)
        return bigger(bigger(torch.randint(0, 2, (2, 4, 4), generator=generator), 2), size // 8)

    def said(self, knowledge: Knowledge, size: int = 16, seed: int = 0) -> Said:
        return knowledge.extract(self.output(size, seed), self.target(size))

    def test_is_registered_under_its_name(self) -> None:
        assert isinstance(self.make(), KNOWLEDGE[self.name])

    def test_nothing_to_learn_from_oneself(self) -> None:
        knowledge = self.make()
        said = self.said(knowledge)
        assert knowledge.gap(said, said).abs().max() <= self.floor

    def test_one_value_per_sample_not_negative(self) -> None:
        knowledge = self.make()
        gap = knowledge.gap(self.said(knowledge), self.said(knowledge, seed=1))
        assert gap.shape == (2,)
        assert (gap >= 0).all()
        assert gap.max() > 1e-3
        assert gap.dtype == torch.float32

    def test_samples_do_not_know_of_each_other(self) -> None:
        """Weights and caches are per sample."""
        knowledge = self.make()
        student, teacher, target = self.output(), self.output(seed=1), self.target()

        def second(output: Output) -> Output:
            assert output.logits is not None
            return Output(output.logits[1:], {name: f[1:] for name, f in output.features.items()})

        both = knowledge.gap(knowledge.extract(student, target), knowledge.extract(teacher, target))
        alone = knowledge.gap(
            knowledge.extract(second(student), target[1:]), knowledge.extract(second(teacher), target[1:])
        )
        torch.testing.assert_close(alone, both[1:])

    def test_what_is_extracted_is_small(self) -> None:
        """At most as many numbers as the image has positions, per tap or class: it can be kept.

        What is compared by its channels is not small: features as they are.
        """
        said = self.said(self.make(), size=64)
        assert all(len(value) == 2 for value in said.values())
        assert sum(value[0].numel() for value in said.values()) <= self.numbers * 64 * 64

    def test_the_same_at_every_size(self) -> None:
        knowledge = self.make()
        gaps = [knowledge.gap(self.said(knowledge, s), self.said(knowledge, s, seed=1)) for s in (8, 64)]
        torch.testing.assert_close(gaps[0], gaps[1], rtol=1e-3, atol=1e-6)

    def test_float32_under_autocast(self) -> None:
        knowledge = self.make()
        plain = knowledge.gap(self.said(knowledge), self.said(knowledge, seed=1))
        with torch.autocast("cpu", torch.bfloat16):
            low = knowledge.gap(self.said(knowledge), self.said(knowledge, seed=1))
        torch.testing.assert_close(low, plain)

    def test_low_precision_answers_are_worked_in_float32(self) -> None:
        knowledge, target = self.make(), self.target()
        answers = [self.output(seed=seed, dtype=torch.bfloat16) for seed in (0, 1)]
        widened = [
            Output(a.logits.float(), {n: f.float() for n, f in a.features.items()})  # type: ignore[union-attr]
            for a in answers
        ]
        low = knowledge.gap(*(knowledge.extract(a, target) for a in answers))
        torch.testing.assert_close(low, knowledge.gap(*(knowledge.extract(a, target) for a in widened)))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_gradients_are_finite_and_reach_the_student(self, seed: int) -> None:
        """Also where student and teacher agree (seed 0), where a root has no slope."""
        knowledge, target = self.make(), self.target()
        output = self.output(seed=0)
        assert output.logits is not None
        leaves = [leaf.requires_grad_() for leaf in (output.logits, *output.features.values())]
        gap = knowledge.gap(knowledge.extract(output, target), self.said(knowledge, seed=seed))
        gap.sum().backward()
        slopes = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert slopes
        assert all(torch.isfinite(slope).all() for slope in slopes)
        if seed:
            assert max(slope.abs().max() for slope in slopes) > 1e-6
