"""Gradients of a distillation's terms beside that of the supervised loss: weights set from them, and warnings.

Weights of papers belong to their own supervised loss and number of classes. With two classes and another loss a term
may do nothing, or drown the reference. So the first steps measure both gradients at the student's weights. They only
read: no random numbers are drawn, and weights, optimiser and batches stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from lightning_fabric import wrappers
from torch import Tensor, distributed, nn

from segdistill.distillation.base import DistillationMethod, Weighted

MEASURED = 3
"""Batches in which the gradients are compared."""
SETTLED = 50
"""Batches over which a weight is set; then it stays."""
TRIED = 10
"""Times as many batches are tried, where some have no mask."""
LOW, HIGH = 0.01, 10.0
"""A term whose gradient is outside these multiples of the supervised one's is a warning."""
BALANCED = DistillationMethod.ratio
"""The multiple that a warning suggests."""

_RATIO, _WEIGHT, _SET = "gradient/", "gradient_weight/", "set_weight/"

Row = Mapping[str, float]


class Gradients(nn.Module):
    """Norms of gradients at the student's weights, summed over the first batches; checkpointed with the student.

    Batches without a gradient of the supervised loss, such as those without masks, do not count. With several processes
    norms are summed.

    Args:
        terms: name -> (weight, method).

    Attributes:
        sums: (terms, 4) number of batches, norms of the supervised loss, norms of the term without its weight, and
            number of batches with those that do not count.

    >>> from segdistill.distillation import create_method
    >>> weight = nn.Linear(1, 1, bias=False)
    >>> gradients = Gradients({"soft": (2.0, create_method("soft_prediction", scale="gradient", ratio=0.5))})
    >>> gradients.measure(weight, 4.0 * weight.weight.sum(), {"soft": 2.0 * weight.weight.sum()})
    >>> gradients.factor("soft").item()  # times 1, the gradient without its weight of 2, is half of 4
    2.0
    """

    sums: Tensor

    def __init__(self, terms: Weighted) -> None:
        super().__init__()
        self.terms = {
            name: (strength, method.ratio if method.scale == "gradient" else None)
            for name, (strength, method) in terms.items()
        }
        self.is_open = True
        self.register_buffer("sums", torch.zeros(len(terms), 4))

    def measure(self, network: nn.Module, supervised: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Adds the norms of a batch, as long as a term needs them.

        Args:
            network: whose weights.
            supervised: scalar, weighted; its graph is kept.
            terms: name -> scalar, weighted.
        """
        if not self.is_open or not torch.is_grad_enabled():
            return
        due = [
            name for name, row in zip(self.terms, self.sums.tolist(), strict=True) if self._is_due(name, row)
        ]
        self.is_open = bool(due)
        if not due:
            return
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        norms = torch.zeros_like(self.sums)
        norms[:, 1] = _norm(supervised, weights)
        for row, (name, (strength, _)) in enumerate(self.terms.items()):
            if name in due and norms[row, 1] > 0:
                norms[row, 2] = _norm(terms[name], weights) / strength
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(norms)
        known = torch.isfinite(norms).all(1) & (norms[:, 1] > 0)
        norms[:, 0] = 1
        norms = torch.where(known[:, None], norms, 0)
        norms[:, 3] = 1
        chosen = torch.tensor([name in due for name in self.terms], device=norms.device)
        self.sums += torch.where(chosen[:, None], norms, 0)

    def factor(self, name: str) -> Tensor | None:
        """What the weighted term is multiplied by; None for a term with the weight of the recipe."""
        _, wanted = self.terms[name]
        if wanted is None:
            return None
        _, supervised, own, _ = self.sums[list(self.terms).index(name)]
        return torch.where(own > 0, wanted * supervised / own, torch.ones_like(own))

    def columns(self) -> dict[str, float]:
        """For the curves, of each term that is measured: its gradient as a multiple of the supervised one's and its
        weight, or the weight that was set.
        """
        found: dict[str, float] = {}
        for (name, (strength, wanted)), row in zip(self.terms.items(), self.sums.tolist(), strict=True):
            _, supervised, own, _ = row
            if self._is_due(name, row) or not supervised:
                continue
            if wanted is None:
                found |= {_RATIO + name: strength * own / supervised, _WEIGHT + name: strength}
            elif own:
                found[_SET + name] = strength * wanted * supervised / own
        return found

    def _is_due(self, name: str, row: Sequence[float]) -> bool:
        """Whether a term with this row of `sums` needs further batches."""
        batches = MEASURED if self.terms[name][1] is None else SETTLED
        return row[0] < batches and row[3] < TRIED * batches


def _norm(loss: Tensor, weights: Sequence[Tensor]) -> Tensor | float:
    """Euclidean norm of a loss's gradient at the weights; its graph is kept."""
    if not loss.requires_grad:
        return 0.0
    with _no_guard():
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return nn.utils.get_total_norm([each.detach().float() for each in found if each is not None])


@contextmanager
def _no_guard() -> Iterator[None]:
    """Lets gradients be read in mixed precision, where Fabric's wrapper allows only `fabric.backward`.

    That one adds to `grad`, which is what the optimiser steps on.
    """
    before = getattr(wrappers, "_in_fabric_backward", False)
    wrappers._in_fabric_backward = True
    try:
        yield
    finally:
        wrappers._in_fabric_backward = before


def find_imbalance(rows: Sequence[Row]) -> list[str]:
    """A warning for each term whose gradient is hardly anything beside the supervised one, or drowns it.

    Args:
        rows: of curves.csv.

    >>> find_imbalance([{"gradient/cwd/features": 0.004, "gradient_weight/cwd/features": 50.0}])[0].split(": ")[0]
    'the gradient of cwd/features is 0.4 % of the supervised one'
    >>> find_imbalance([{"gradient/soft_prediction": 0.5, "gradient_weight/soft_prediction": 1.0}])
    []
    """
    found = []
    for column, ratio in _first(rows, _RATIO).items():
        if LOW <= ratio <= HIGH:
            continue
        name = column.removeprefix(_RATIO)
        weight = _first(rows, _WEIGHT)[_WEIGHT + name]
        if not ratio:
            found.append(f"{name} has no gradient: it teaches nothing: remove it, or check its teachers")
            continue
        share = f"{100 * ratio:.2g} % of" if ratio < LOW else f"{ratio:.3g} times"
        effect = "it hardly teaches" if ratio < LOW else "the reference hardly counts"
        found.append(
            f"the gradient of {name} is {share} the supervised one: {effect}: the weight "
            f"{BALANCED * weight / ratio:.2g} in place of {weight:.2g} would make it {BALANCED} times"
        )
    return found


def find_set_weights(rows: Sequence[Row]) -> list[str]:
    """A message for each term whose weight was set from gradients.

    >>> find_set_weights([{"loss": 1.0}, {"set_weight/soft_prediction": 0.8312}])
    ['soft_prediction has the weight 0.831 from now on, set from the gradients of the first 50 batches']
    """
    return [
        f"{column.removeprefix(_SET)} has the weight {weight:.3g} from now on, set from the gradients of the first "
        f"{SETTLED} batches"
        for column, weight in _first(rows, _SET).items()
    ]


def new_lines(find: Callable[[Sequence[Row]], list[str]], rows: Sequence[Row]) -> list[str]:
    """What `find` gives of the rows for the first time with the last one: for messages during training, once each.

    >>> rows = [{"loss": 1.0}, {"set_weight/kd": 2.0}, {"set_weight/kd": 2.0}]
    >>> [len(new_lines(find_set_weights, rows[:count])) for count in (1, 2, 3)]
    [0, 1, 0]
    """
    before = find(rows[:-1])
    return [line for line in find(rows) if line not in before]


def _first(rows: Sequence[Row], start: str) -> dict[str, float]:
    """The first value of every column that begins so."""
    found: dict[str, float] = {}
    for row in rows:
        found |= {name: value for name, value in row.items() if name.startswith(start) and name not in found}
    return found
