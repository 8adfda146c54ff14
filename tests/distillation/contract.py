"""What every method and every weighting must hold to; a test class for each inherits it and sets how it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segdistill.distillation import (
    METHODS,
    WEIGHTINGS,
    DistillationMethod,
    Weighting,
    create_method,
    create_weighting,
)
from segdistill.distillation.base import Balance, Targets, trained_with_student, weighted_terms
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output

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


def hidden_parts(module: nn.Module) -> list[str]:
    """Attributes that hold trainable modules or parameters without registering them."""

    def trains(value: object) -> bool:
        if isinstance(value, dict):
            return any(trains(each) for each in value.values())
        if isinstance(value, (list, tuple)):
            return any(trains(each) for each in value)
        tensors = value.parameters() if isinstance(value, nn.Module) else [value]
        return any(isinstance(each, Tensor) and each.requires_grad for each in tensors)

    own = set(vars(nn.Module()))
    return [
        name
        for part in module.modules()
        if isinstance(part, DistillationMethod)
        for name, value in vars(part).items()
        if name not in own and trains(value)
    ]


GENERATED = ("mgd", "af_dcd")
"""Methods with a loss to itself: their convolutions begin anywhere."""


class MethodContract:
    """Inherit as `class TestX(MethodContract)` and set `name`."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    floor: ClassVar[float] = 1e-6
    """The largest loss to itself."""
    numbers: ClassVar[int] = 2
    """The most numbers in the targets, per position of the image."""

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

    def mask(self, size: int = 16) -> Tensor:
        generator = torch.Generator().manual_seed(9)
        return bigger(bigger(torch.randint(0, 2, (2, 4, 4), generator=generator), 2), size // 8)

    def targets(self, method: DistillationMethod, size: int = 16, seed: int = 0) -> Targets:
        return method.targets(self.output(size, seed), self.mask(size))

    def test_is_registered_under_its_name(self) -> None:
        part = METHODS[self.name]
        assert isinstance(part.build, type)
        assert isinstance(self.make(), part.build)
        assert part.summary

    def test_is_a_module_whose_learned_parts_are_submodules(self) -> None:
        method = self.make()
        assert isinstance(method, nn.Module)
        assert hidden_parts(method) == []
        shared = [id(weight) for part in trained_with_student(method) for weight in part.parameters()]
        critics = [m.critics for m in method.modules() if isinstance(m, DistillationMethod)]
        apart = [id(weight) for each in critics for weight in each.parameters()]
        assert sorted(shared + apart) == sorted(id(weight) for weight in method.parameters())

    def test_training_can_set_the_weight_of_every_term(self) -> None:
        method = self.make()
        method.set_ratio(0.25)
        for weight, term in weighted_terms(2.0, method).values():
            assert (weight, term.scale, term.ratio) == (2.0, "gradient", 0.25)

    def test_targets_do_not_depend_on_who_is_the_teacher(self) -> None:
        method = self.make()
        student = method.targets(self.output(), self.mask(), "student")
        teacher = method.targets(self.output(), self.mask(), "t")
        assert student.keys() == teacher.keys()
        assert all(torch.equal(value, teacher[name]) for name, value in student.items())

    def test_needs_mask_as_declared(self) -> None:
        method = self.make()
        if method.needs_mask:
            with pytest.raises(InputError, match="needs the reference masks"):
                method.targets(self.output(), None)
            return
        without = method.targets(self.output(), None)
        if method.takes_mask:  # the prediction is used in its place
            hidden = method.targets(self.output(), torch.full_like(self.mask(), -1))
            assert all(torch.equal(value, hidden[name]) for name, value in without.items())
            assert any(not torch.equal(value, without[name]) for name, value in self.targets(method).items())
            return
        assert all(torch.equal(value, without[name]) for name, value in self.targets(method).items())

    def test_what_a_cache_keeps_gives_the_targets_back(self) -> None:
        method = self.make()
        kept = method.from_cache(method.to_cache(self.output(), self.mask(), "t"))
        targets = self.targets(method)
        assert kept.keys() == targets.keys()
        for name, value in targets.items():
            torch.testing.assert_close(kept[name], value)

    def test_equal_teachers_combine_to_themselves(self) -> None:
        method = self.make()
        targets = self.targets(method)
        if not method.combinable:
            with pytest.raises(NotImplementedError):
                method.combine_targets([targets, targets], torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
            return
        combined = method.combine_targets([targets, targets], torch.tensor([[0.5, 0.5], [0.2, 0.8]]))
        for name, value in targets.items():
            torch.testing.assert_close(combined[name], value)

    def test_no_loss_to_itself(self) -> None:
        method = self.make()
        targets = self.targets(method)
        assert method(targets, targets).abs().max() <= self.floor

    def test_one_value_per_sample_not_negative(self) -> None:
        method = self.make()
        loss = method(self.targets(method), self.targets(method, seed=1))
        assert loss.shape == (2,)
        assert (loss >= 0).all()
        assert loss.max() > 1e-3
        assert loss.dtype == torch.float32

    def test_samples_are_independent(self) -> None:
        """Weights and caches are per sample."""
        method = self.make()
        student, teacher, mask = self.output(), self.output(seed=1), self.mask()

        def second(output: Output) -> Output:
            assert output.logits is not None
            return Output(output.logits[1:], {name: f[1:] for name, f in output.features.items()})

        both = method(method.targets(student, mask), method.targets(teacher, mask))
        alone = method(method.targets(second(student), mask[1:]), method.targets(second(teacher), mask[1:]))
        torch.testing.assert_close(alone, both[1:])

    def test_targets_are_small(self) -> None:
        """At most as many numbers as the image has positions, per layer or class: they can be cached.

        Features that are compared by their channels are not small.
        """
        targets = self.targets(self.make(), size=64)
        assert all(len(value) == 2 for value in targets.values())
        assert sum(value[0].numel() for value in targets.values()) <= self.numbers * 64 * 64

    def test_the_same_at_every_size(self) -> None:
        method = self.make()
        losses = [method(self.targets(method, s), self.targets(method, s, seed=1)) for s in (8, 64)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-6)

    def test_float32_under_autocast(self) -> None:
        method = self.make()
        plain = method(self.targets(method), self.targets(method, seed=1))
        with torch.autocast("cpu", torch.bfloat16):
            low = method(self.targets(method), self.targets(method, seed=1))
        torch.testing.assert_close(low, plain)

    def test_low_precision_outputs_are_computed_in_float32(self) -> None:
        method, mask = self.make(), self.mask()
        outputs = [self.output(seed=seed, dtype=torch.bfloat16) for seed in (0, 1)]
        widened = [
            Output(a.logits.float(), {n: f.float() for n, f in a.features.items()})  # type: ignore[union-attr]
            for a in outputs
        ]
        low = method(*(method.targets(a, mask) for a in outputs))
        torch.testing.assert_close(low, method(*(method.targets(a, mask) for a in widened)))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_gradients_are_finite_and_reach_the_student(self, seed: int) -> None:
        """Also where student and teacher are equal (seed 0), where a root has no slope."""
        method, mask = self.make(), self.mask()
        output = self.output(seed=0)
        assert output.logits is not None
        leaves = [leaf.requires_grad_() for leaf in (output.logits, *output.features.values())]
        loss = method(method.targets(output, mask), self.targets(method, seed=seed))
        loss.sum().backward()
        slopes = [leaf.grad for leaf in leaves if leaf.grad is not None]
        assert slopes
        assert all(torch.isfinite(slope).all() for slope in slopes)
        if seed:
            assert max(slope.abs().max() for slope in slopes) > 1e-6

    @pytest.mark.parametrize("balance", ["class", "boundary"])
    def test_a_balance_counts_two_regions_alike(self, balance: Balance) -> None:
        """Where an image has one region the loss is as without a balance, and elsewhere it is not."""
        plain, method = self.make(), self.make()
        if not method.balances:
            if not create_method(self.name).balances:
                with pytest.raises(InputError, match="no mean over positions"):
                    create_method(self.name, balance=balance)
            return
        plain.set_balance("none")
        method.set_balance(balance)
        outputs = self.output(), self.output(seed=1)
        losses = {}
        for mask in (torch.zeros_like(self.mask()), self.mask()):
            pairs = [[each.targets(output, mask) for output in outputs] for each in (plain, method)]
            losses[bool(mask.any())] = [
                each(*pair) for each, pair in zip((plain, method), pairs, strict=True)
            ]
            assert (
                method(pairs[1][1], pairs[1][1]).abs().max() <= max(self.floor, 1e-6)
                or self.name in GENERATED
            )
        torch.testing.assert_close(*losses[False])
        assert not torch.allclose(*losses[True], rtol=1e-4)

    def make_for(self, classes: int, dimensions: int) -> DistillationMethod:
        """As `make`, for so many classes and dimensions, where the method has these options."""
        facts = {"classes": classes, "dimensions": dimensions}
        known = {name: value for name, value in facts.items() if name in METHODS[self.name].options}
        self.options = {**self.options, **known}  # type: ignore[misc]
        return self.make()

    def wide(
        self, method: DistillationMethod, classes: int, dimensions: int, seed: int = 0
    ) -> tuple[Output, Tensor]:
        """Four images or volumes and their masks, in blocks, so that every class has some area."""
        generator = torch.Generator().manual_seed(seed)
        coarse, factor = (4,) * dimensions, 16 // 4

        def grown(small: Tensor, by: int) -> Tensor:
            for axis in range(-dimensions, 0):
                small = small.repeat_interleave(by, axis)
            return small

        mask = grown(torch.randint(0, classes, (4, *coarse), generator=generator), factor)
        logits = grown(torch.randn(4, classes, *coarse, generator=generator), factor)
        features = {
            layer: grown(torch.randn(4, 5, *coarse, generator=generator), 2) for layer in method.features
        }
        return Output(logits=logits, features=features), mask

    @pytest.mark.parametrize("dimensions", [2, 3])
    @pytest.mark.parametrize("classes", [2, 4])
    def test_pictures_and_volumes_of_two_and_more_classes(self, classes: int, dimensions: int) -> None:
        method = self.make_for(classes, dimensions)
        output, mask = self.wide(method, classes, dimensions)
        other, _ = self.wide(method, classes, dimensions, seed=1)
        targets = method.targets(other, mask, "t")
        assert output.logits is not None
        leaves = [leaf.requires_grad_() for leaf in (output.logits, *output.features.values())]
        loss = method(method.targets(output, mask), targets)
        assert loss.shape == (4,)
        assert torch.isfinite(loss).all()
        if loss.requires_grad:
            loss.sum().backward()
            slopes = [leaf.grad for leaf in leaves if leaf.grad is not None]
            assert all(torch.isfinite(slope).all() for slope in slopes)
            assert max(slope.abs().max() for slope in slopes) > 0


class WeightingContract:
    """Inherit as `class TestX(WeightingContract)` and set `name`."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    normalised: ClassVar[bool] = True
    """Whether the weights of the active teachers sum to 1."""

    def make(self) -> Weighting:
        torch.manual_seed(0)
        weighting = create_weighting(self.name, **self.options)
        weighting.build({layer: FeatureInfo(layer, 4, 4) for layer in weighting.features}, ["a", "b", "c"])
        return weighting

    def weights(self, given: Tensor) -> Tensor:
        """Of three teachers on two images."""
        generator = torch.Generator().manual_seed(0)
        logits = [torch.randn(2, 2, 8, 8, generator=generator) for _ in range(3)]
        mask = torch.randint(0, 2, (2, 8, 8), generator=generator)
        weighting = self.make()
        features = {layer: torch.rand(2, 4, 2, 2, generator=generator) for layer in weighting.features}
        weights: Tensor = weighting(given, logits, mask, Output(None, features))
        return weights

    def test_is_registered_under_its_name(self) -> None:
        part = WEIGHTINGS[self.name]
        assert isinstance(part.build, type)
        assert isinstance(self.make(), part.build)
        assert part.summary

    def test_one_weight_per_sample_and_teacher(self) -> None:
        weights = self.weights(torch.tensor([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]]))
        assert weights.shape == (2, 3)
        assert weights.dtype == torch.float32
        assert (weights > 0).all()
        if self.normalised:
            torch.testing.assert_close(weights.sum(1), torch.ones(2))

    def test_inactive_teachers_stay_inactive(self) -> None:
        weights = self.weights(torch.tensor([[0.5, 0.0, 0.2], [0.0, 0.0, 0.0]]))
        assert (weights[:, 1] == 0).all()
        assert (weights[1] == 0).all()
        assert (weights[0, [0, 2]] > 0).all()

    def test_a_graph_only_to_learned_parts(self) -> None:
        learned = list(self.make().parameters())
        assert self.weights(torch.ones(2, 3)).requires_grad == bool(learned)
        penalty = self.make().penalty()
        assert penalty is None or (penalty.ndim == 0 and penalty.requires_grad)

    def test_reads_logits_as_declared(self) -> None:
        weighting = self.make()
        output = Output(None, {layer: torch.rand(2, 4, 2, 2) for layer in weighting.features})
        given, mask = torch.ones(2, 3), torch.zeros(2, 8, 8, dtype=torch.long)
        if weighting.reads_logits:
            with pytest.raises(InputError, match="need teachers with logits"):
                weighting(given, [None] * 3, mask, output)
        else:
            assert weighting(given, [None] * 3, mask, output).shape == (2, 3)
