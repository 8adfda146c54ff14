"""Gradients of a distillation's terms beside that of the supervised loss: weights set from them, curves, warnings.

Weights of papers belong to their own supervised loss and number of classes. With two classes and another loss a term
may do nothing, or drown the reference. So training measures both gradients at the student's weights: every ten steps
of the first epoch, and in the last step of every epoch (of every second one where an epoch has five to nine steps, and
so on) and of the training. That only reads: no random numbers are drawn, and weights, optimiser and batches stay as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from lightning_fabric import wrappers
from torch import Tensor, distributed, nn

from segdistill.distillation.base import DistillationMethod, Weighted

EVERY = 10
"""Steps of the first epoch between two measurements; at least as many are between those of later epochs."""
SETTLED = 50
"""Batches over which a weight is set; then it stays."""
TRIED = 10
"""Times as many batches are tried, where some have no mask."""
LOW, HIGH = 0.01, 10.0
"""A term whose gradient is outside these multiples of the supervised one's is a warning."""
BALANCED = DistillationMethod.ratio
"""The multiple that a warning suggests."""

_RATIO, _COSINE, _WEIGHT, _SET = "grad/", "grad_cosine/", "grad_weight/", "set_weight/"

Row = Mapping[str, float]
_Gradient = list[Tensor | None]


class Gradients(nn.Module):
    """Gradients at the student's weights, of the supervised loss and of each term; checkpointed with the student.

    Batches without a gradient of the supervised loss, such as those without masks, do not count. With several processes
    the norms are sums over processes.

    Args:
        terms: name -> (weight, method).

    Attributes:
        sums: (terms, 4) number of batches, norms of the supervised loss, norms of the term without its weight, and
            number of batches with those that do not count: of terms whose weight is set.
        row: what the last step measured, for the curves: of each term the norm of its gradient as a multiple of the
            supervised one's, the cosine between both, and the weight that it had. Empty after most steps.
        is_open: False measures nothing more.

    >>> from segdistill.distillation import create_method
    >>> weight = nn.Linear(1, 1, bias=False)
    >>> gradients = Gradients({"soft": (2.0, create_method("soft_prediction", scale="gradient", ratio=0.5))})
    >>> gradients.begin_step(epoch=0, step=0, is_last=False)
    >>> gradients.measure(weight, 4.0 * weight.weight.sum(), {"soft": 2.0 * weight.weight.sum()})
    >>> gradients.factor("soft").item()  # times 1, the gradient without its weight of 2, is half of 4
    2.0
    >>> gradients.row  # with this factor the gradient of 2 becomes 4, and the weight of 2 the same
    {'grad/soft': 1.0, 'grad_cosine/soft': 1.0, 'grad_weight/soft': 4.0}
    """

    sums: Tensor

    def __init__(self, terms: Weighted) -> None:
        super().__init__()
        self.terms = {
            name: (strength, method.ratio if method.scale == "gradient" else None)
            for name, (strength, method) in terms.items()
        }
        self.is_open = True
        self.row: dict[str, float] = {}
        self._is_due, self._may_settle = False, True
        self.register_buffer("sums", torch.zeros(len(terms), 4))

    def begin_step(self, epoch: int, step: int, is_last: bool, is_end: bool = False) -> None:
        """Says which step comes next, counted from 0, and whether it is the last of its epoch, and of the training."""
        apart = -(-EVERY // (step + 1))  # epochs between measurements, where an epoch is short
        ends_epoch = is_last and (is_end or epoch % apart == 0)
        self._is_due = ends_epoch if epoch or is_last else step % EVERY == 0
        self.row = {}

    def measure(self, network: nn.Module, supervised: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Reads the gradients in a batch, where one is due.

        Args:
            network: whose weights.
            supervised: scalar, weighted; its graph is kept.
            terms: name -> scalar, weighted.
        """
        if not self.is_open or not torch.is_grad_enabled():
            return
        unsettled = self._unsettled() if self._may_settle else []
        self._may_settle = bool(unsettled)
        chosen = list(self.terms) if self._is_due else unsettled
        if not chosen:
            return
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        found = torch.zeros(len(self.terms), 3, device=self.sums.device)  # norms of both, and their product
        reference = _gradient(supervised, weights)
        found[:, 0] = _norm(reference)
        for row, name in enumerate(self.terms):
            if name in chosen and found[row, 0] > 0:
                own = _gradient(terms[name], weights)
                found[row, 1], found[row, 2] = _norm(own), _product(reference, own)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(found)
        known = torch.isfinite(found).all(1) & (found[:, 0] > 0)
        self._add(torch.where(known[:, None], found, 0), known, unsettled)
        if self._is_due and bool(known.all()):
            self.row = self._shown(found.tolist())
        self._is_due = False  # of the batches of one step, the first

    def _add(self, found: Tensor, known: Tensor, unsettled: Sequence[str]) -> None:
        """Adds a batch to the sums of the terms whose weight is not settled."""
        strengths = torch.tensor([strength for strength, _ in self.terms.values()], device=found.device)
        added = torch.stack(
            [known.float(), found[:, 0], found[:, 1] / strengths, torch.ones_like(strengths)], 1
        )
        counts = torch.tensor([name in unsettled for name in self.terms], device=found.device)
        self.sums += torch.where(counts[:, None], added, 0)

    def _shown(self, found: Sequence[Sequence[float]]) -> dict[str, float]:
        shown = {}
        for (name, (strength, _)), (supervised, own, product) in zip(self.terms.items(), found, strict=True):
            factor = self.factor(name)
            weight = strength if factor is None else strength * factor.item()
            shown[_RATIO + name] = weight / strength * own / supervised
            shown[_COSINE + name] = product / (own * supervised) if own else 0.0
            shown[_WEIGHT + name] = weight
        return shown

    def factor(self, name: str) -> Tensor | None:
        """What the weighted term is multiplied by; None for a term with the weight of the recipe."""
        _, wanted = self.terms[name]
        if wanted is None:
            return None
        _, supervised, own, _ = self.sums[list(self.terms).index(name)]
        return torch.where(own > 0, wanted * supervised / own, torch.ones_like(own))

    def columns(self) -> dict[str, float]:
        """For the curves, the weight of each term for which it was set and is settled."""
        found: dict[str, float] = {}
        unsettled = self._unsettled()
        for (name, (strength, wanted)), row in zip(self.terms.items(), self.sums.tolist(), strict=True):
            _, supervised, own, _ = row
            if wanted is not None and own and name not in unsettled:
                found[_SET + name] = strength * wanted * supervised / own
        return found

    def _unsettled(self) -> list[str]:
        """The terms that need further batches to set their weight."""
        return [
            name
            for (name, (_, wanted)), row in zip(self.terms.items(), self.sums.tolist(), strict=True)
            if wanted is not None and row[0] < SETTLED and row[3] < TRIED * SETTLED
        ]


def _gradient(loss: Tensor, weights: Sequence[Tensor]) -> _Gradient:
    """A loss's gradient at each of the weights, None for those that it does not depend on; its graph is kept."""
    if not loss.requires_grad:
        return [None] * len(weights)
    with _no_guard():
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return [None if each is None else each.detach().float() for each in found]


def _norm(gradient: _Gradient) -> Tensor:
    return nn.utils.get_total_norm([each for each in gradient if each is not None])


def _product(first: _Gradient, second: _Gradient) -> Tensor:
    pairs = zip(first, second, strict=True)
    products = [(a * b).sum() for a, b in pairs if a is not None and b is not None]
    return torch.stack(products).sum() if products else torch.zeros(())


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


def find_imbalance(rows: Sequence[Row], ended: bool = True) -> list[str]:
    """A warning for each term whose gradient is hardly anything beside the supervised one, or drowns it.

    Args:
        rows: of curves.csv.
        ended: the last of them is the end of the training, which counts beside that of the first epoch. Where an epoch
            has no measurement the nearest one that has counts, and the warning names it.

    >>> find_imbalance([{"grad/cwd/features": 0.004, "grad_weight/cwd/features": 50.0}])[0].split(": ")[0]
    'at the end of the first epoch the gradient of cwd/features is 0.4 % of the supervised one'
    >>> find_imbalance([{"grad/soft_prediction": 0.5, "grad_weight/soft_prediction": 1.0}])
    []
    """
    epochs = [{"epoch": float(k), **row} for k, row in enumerate(rows, 1)]
    lines = []
    for name in (column.removeprefix(_RATIO) for column in _first(rows, _RATIO)):
        known = [row for row in epochs if _RATIO + name in row]
        for row in known[:: max(1, len(known) - 1)] if ended else known[:1]:
            ends = {epochs[-1]["epoch"]: "the last epoch"} if ended else {}
            epoch = (ends | {epochs[0]["epoch"]: "the first epoch"}).get(
                row["epoch"], f"epoch {row['epoch']:g}"
            )
            lines.append(_imbalance(name, row[_RATIO + name], row[_WEIGHT + name], epoch))
    return list(dict.fromkeys(filter(None, lines)))


def _imbalance(name: str, ratio: float, weight: float, epoch: str) -> str:
    if LOW <= ratio <= HIGH:
        return ""
    if not ratio:
        return f"{name} has no gradient: it teaches nothing: remove it, or check its teachers"
    share = f"{100 * ratio:.2g} % of" if ratio < LOW else f"{ratio:.3g} times"
    effect = "it hardly teaches" if ratio < LOW else "the reference hardly counts"
    return (
        f"at the end of {epoch} the gradient of {name} is {share} the supervised one: {effect}: the weight "
        f"{BALANCED * weight / ratio:.2g} in place of {weight:.2g} would make it {BALANCED} times"
    )


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
