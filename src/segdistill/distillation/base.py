"""The contract of every distillation method, the registry, and methods that are a weighted sum of others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn

from segdistill.distillation.maps import logits_of, region_of
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from segdistill.options import fit_option
from segdistill.registry import Registry

Targets = dict[str, Tensor]
"""What a method takes from a network's output: name -> (B, ...)."""

Balance = Literal["none", "class", "boundary"]
"""Every position counts the same; or foreground and background count the same; or boundaries and the rest do."""

Scale = Literal["published", "gradient"]
"""The weight is that of the recipe, or it is set from gradients in the first steps (training/gradients.py)."""

Layers = Mapping[str, FeatureInfo]
"""Layer -> what a network declares of the feature that it means (layers.py); empty if it declares no features."""

STUDENT = "student"
"""The name of the student in `DistillationMethod.targets`; teachers have the names of their recipe."""


class DistillationMethod(nn.Module, ABC):
    """What is compared between student and teacher (`targets`), and how (`forward`).

    Targets are one small record per sample, so that they can be weighted, combined and cached. Projections, memories
    and other learned parts are submodules, made in `build` when the networks are known. They are optimised and
    checkpointed with the student, but never saved with its weights.

    Attributes:
        features: layers (layers.py) that `targets` reads from `Output.features`, under these very names.
        needs_mask: `targets` reads the reference mask.
        takes_mask: `targets` reads the reference mask of the rows that have one, and does without it in others.
        weighted: False if every active teacher counts fully, whatever its weight.
        combinable: `combine_targets` can make one target of several teachers'.
        cacheable: False if a teacher's targets change while the student learns.
        cache_form: name of the form that `to_cache` gives; methods with one name share it. "" for the targets.
        loss_options: attributes that only `forward` or a critic reads: cached targets do not depend on them.
        critics: `module_key` of a teacher -> its critic. Critics train in turns with the student, each with its own
            optimiser. A method with critics keeps other learned parts in submodules, not in parameters of its own.
        critic_lr: learning rate of the critics; None for the stage's.
        balances: its loss is a mean over positions, which `balance` changes to the mean of two means.
        balance: of these positions, see `set_balance`.
        scale: "gradient" if training sets the weight.
        ratio: of the term's gradient to that of the supervised loss, for the scale "gradient".
    """

    features: tuple[str, ...] = ()
    needs_mask: bool = False
    takes_mask: bool = False
    weighted: bool = True
    combinable: bool = False
    cacheable: bool = True
    cache_form: str = ""
    loss_options: tuple[str, ...] = ()
    critic_lr: float | None = None
    balances: bool = False
    balance: Balance = "none"
    scale: Scale = "published"
    ratio: float = 0.5
    critics: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleDict()

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes the learned parts, or refuses networks that do not fit; called once before training.

        Args:
            student: the student's layers.
            teachers: name of each teacher -> its layers.
        """
        return

    @abstractmethod
    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """What is compared, computed in the same way for student and teacher.

        Args:
            output: of the network.
            mask: (B, H, W) class indices, -1 in rows without a reference; read only if `needs_mask` or
                `takes_mask`.
            network: its name; read only by methods with a part for each network.

        Raises:
            InputError: the method needs a mask, logits or a label, and there are none.
        """

    @abstractmethod
    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) loss of the student's targets against those of the teacher called `network`."""

    def combine_targets(self, targets: Sequence[Targets], weights: Tensor) -> Targets:
        """One target of J teachers, with weights (B, J) that sum to 1 for each sample; only if `combinable`."""
        raise NotImplementedError

    def set_ratio(self, ratio: float) -> None:
        """Training sets the weight, so that the gradient is so many times that of the supervised loss."""
        self.scale, self.ratio = "gradient", ratio

    def set_balance(self, balance: Balance) -> None:
        """Makes the mean over positions that of two means; only if `balances`.

        Args:
            balance: "none": every position counts the same; "class": the means over foreground and background of the
                reference, or, in rows without a mask, of the teacher's prediction; "boundary": the means over positions
                near a boundary of these classes, and over the rest (maps.region_of).
        """
        self.balance = balance
        self.takes_mask = balance != "none" and not self.needs_mask

    def region(self, output: Output, mask: Tensor | None) -> Targets:
        """The target `region` (B, 1, ...) of a balanced method, for `maps.mean_over_positions`; {} of others."""
        if self.balance == "none":
            return {}
        return {"region": region_of(logits_of(output, "balance"), mask, self.balance)}

    def to_cache(self, output: Output, mask: Tensor | None, network: str) -> Targets:
        """What a cache keeps of a teacher's output; the targets, unless there is a smaller form."""
        return self.targets(output, mask, network)

    def from_cache(self, cached: Targets) -> Targets:
        """The targets, from what `to_cache` gave."""
        return cached

    def critic_loss(self, critic: nn.Module, student: Targets, teacher: Targets) -> Tensor:
        """Scalar loss of a teacher's critic, from targets without a graph; only if there are `critics`."""
        raise NotImplementedError


class LayerMethod(DistillationMethod):
    """A method with one target per layer of `features`; its loss is the sum over layers."""

    @abstractmethod
    def target(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """(B, ...) from a feature (B, C, ...) and the mask (B, H, W), if there is one."""

    @abstractmethod
    def layer_loss(self, student: Tensor, teacher: Tensor, region: Tensor | None = None) -> Tensor:
        """(B,) loss of one layer's target; a mean over positions is balanced by the region (B, 1, ...), if any."""

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """One target per layer, under its name."""
        found = {layer: self.target(output.features[layer], mask) for layer in self.features}
        return found | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) sum over layers."""
        region = teacher.get("region")
        losses = [self.layer_loss(student[layer], teacher[layer], region) for layer in self.features]
        return sum(losses[1:], losses[0])


def trained_with_student(module: nn.Module) -> list[nn.Module]:
    """The largest submodules of a method (or it itself) that hold no critics: these train with the student.

    >>> from segdistill.distillation.methods.fitnet import FitNet
    >>> method = FitNet()
    >>> trained_with_student(method) == [method]
    True
    """
    critics = [each.critics for each in module.modules() if isinstance(each, DistillationMethod)]
    if not any(len(each) for each in critics):
        return [module]
    return [
        part for child in module.children() if child not in critics for part in trained_with_student(child)
    ]


def module_key(teacher: str, layer: str = "") -> str:
    """A key for the part of a teacher, or of a teacher and a layer, in an `nn.ModuleDict`.

    Names of stages may contain dots or be words such as "train", which `nn.ModuleDict` refuses as keys.

    >>> module_key("unet.v2", "encoder")
    'unet%2Ev2/encoder'
    """
    return f"{teacher}/{layer}".replace(".", "%2E")


METHODS: Registry[DistillationMethod] = Registry(
    "distillation method", "segdistill.distillation.methods", "train"
)
register_method, list_methods = METHODS.register, METHODS.names


def create_method(
    name: str,
    *,
    scale: Scale = "published",
    ratio: float = 0.5,
    balance: Balance = "none",
    **options: Any,
) -> DistillationMethod:
    """Builds the distillation method that is registered as `name`.

    Args:
        name: registered.
        scale: "published" takes the weights of the recipe and of the method's terms. "gradient" sets them in training:
            over the first 50 steps, so that the gradient of each term is `ratio` times the supervised one's; then they
            stay.
        ratio: of the gradients.
        balance: of positions, in all terms that are means over them; see `DistillationMethod.set_balance`.
        options: of the method.

    Raises:
        InputError: unknown name or option, a value that the option does not take, or a balance without a meaning.

    >>> create_method("soft_prediction", temperature=4.0).features
    ()
    >>> create_method("ifvd", scale="gradient").weights
    {'intra': 1.0, 'prediction': 1.0}
    >>> create_method("pair_wise", balance="class")
    Traceback (most recent call last):
    segdistill.errors.InputError: pair_wise: balance is class, but its loss is no mean over positions: remove balance
    """
    fit_option(f"{name}: balance", balance, Balance)
    fit_option(f"{name}: scale", scale, Scale)
    if not 0 < ratio < math.inf:
        raise InputError(f"{name}: ratio must be positive, not {ratio}")
    method = METHODS.build(name, options)
    if balance != "none":
        if not method.balances:
            raise InputError(
                f"{name}: balance is {balance}, but its loss is no mean over positions: remove balance"
            )
        method.set_balance(balance)
    if scale == "gradient":
        method.set_ratio(ratio)
    return method


Weighted = dict[str, tuple[float, DistillationMethod]]
"""Name -> (weight, method)."""


class Composed(DistillationMethod):
    """A method of several terms: its loss is the weighted sum of theirs.

    In training each term is handled by itself (see `weighted_terms`): in the curves, and when targets are combined.

    Args:
        name: of the method, for messages.
        terms: name -> (weight, method); those of weight 0 are dropped.

    Raises:
        InputError: a negative weight, or none above 0.

    >>> from segdistill.distillation.methods.soft_prediction import SoftPrediction
    >>> Composed("mine", {"prediction": (0.0, SoftPrediction())})
    Traceback (most recent call last):
    segdistill.errors.InputError: mine: the weights prediction are all 0: set one above 0
    """

    def __init__(self, name: str, terms: Weighted) -> None:
        super().__init__()
        for term, (weight, _) in terms.items():
            if weight < 0:
                raise InputError(f"{name}: {term} must not be negative, not {weight}")
        self.weights = {term: weight for term, (weight, _) in terms.items() if weight > 0}
        if not self.weights:
            raise InputError(f"{name}: the weights {', '.join(terms)} are all 0: set one above 0")
        self.terms = nn.ModuleDict({term: terms[term][1] for term in self.weights})
        methods = self.methods.values()
        self.features = tuple(dict.fromkeys(layer for method in methods for layer in method.features))
        self.needs_mask = any(method.needs_mask for method in methods)
        self.takes_mask = any(method.takes_mask for method in methods)
        self.balances = any(method.balances for method in methods)

    @property
    def methods(self) -> dict[str, DistillationMethod]:
        """Name of each term -> its method."""
        return cast(dict[str, DistillationMethod], dict(self.terms.items()))

    def set_ratio(self, ratio: float) -> None:
        """Training sets the weight of every term, so that those of the method do not count."""
        super().set_ratio(ratio)
        self.weights = dict.fromkeys(self.weights, 1.0)
        for method in self.methods.values():
            method.set_ratio(ratio)

    def set_balance(self, balance: Balance) -> None:
        """Balances the terms that are means over positions; the others stay as they are."""
        self.balance = balance
        for method in self.methods.values():
            if method.balances:
                method.set_balance(balance)
        self.takes_mask = any(method.takes_mask for method in self.methods.values())

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Builds the learned parts of every term."""
        for method in self.methods.values():
            method.build(student, teachers)

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The targets of every term, under `term/name`."""
        return {
            f"{term}/{name}": value
            for term, method in self.methods.items()
            for name, value in method.targets(output, mask, network).items()
        }

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) weighted sum of the terms' losses."""
        losses: list[Tensor] = [
            self.weights[term] * method(term_targets(student, term), term_targets(teacher, term), network)
            for term, method in self.methods.items()
        ]
        return sum(losses[1:], losses[0])


def term_targets(targets: Targets, term: str) -> Targets:
    """The targets of one term of a `Composed` method; all of them for the term "", the method itself.

    >>> import torch
    >>> list(term_targets({"pair/encoder": torch.zeros(1), "pixel/log_probability": torch.zeros(1)}, "pair"))
    ['encoder']
    """
    if not term:
        return targets
    start = f"{term}/"
    return {name.removeprefix(start): value for name, value in targets.items() if name.startswith(start)}


def weighted_terms(weight: float, method: DistillationMethod) -> Weighted:
    """The terms of a method, with their products of weights, by the name that `term_targets` takes.

    >>> from segdistill.distillation.methods.soft_prediction import SoftPrediction
    >>> method = Composed("mine", {"prediction": (0.5, SoftPrediction())})
    >>> {name: weight for name, (weight, _) in weighted_terms(4.0, method).items()}
    {'prediction': 2.0}
    >>> list(weighted_terms(4.0, SoftPrediction()))
    ['']
    """
    if not isinstance(method, Composed):
        return {"": (weight, method)}
    return {
        f"{term}/{name}" if name else term: found
        for term, inner in method.methods.items()
        for name, found in weighted_terms(weight * method.weights[term], inner).items()
    }
