"""Numbers that are no numbers stop training before they reach the weights that are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segdistill.errors import SegdistillError


class TrainingStopped(SegdistillError):
    """Training cannot go on, for a reason that is in the numbers; the last good checkpoint is kept."""


def numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as plain numbers, with one transfer from the device for all of them.

    >>> numbers({"loss": torch.tensor(0.5)})
    {'loss': 0.5}
    """
    return dict(zip(values, torch.stack(list(values.values())).float().tolist(), strict=True))


def require_finite(values: Mapping[str, float], epoch: int, step: int) -> None:
    """Lets finite values pass.

    Raises:
        TrainingStopped: names the first that is not, and where in training (both counted from 0) it happened.

    >>> require_finite({"loss": float("nan")}, 0, 2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.training.finite.TrainingStopped: loss became nan in epoch 1, step 3; the last good ...
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrainingStopped(
            f"{', '.join(bad)} became {values[bad[0]]} in epoch {epoch + 1}, step {step + 1}; the last good "
            "checkpoint is kept; lower optimizer.lr, set clip_norm or precision=fp32, which trains this stage anew"
        )


def require_finite_weights(networks: Mapping[str, nn.Module], epoch: int, step: int) -> None:
    """The same for weights: a gradient can be infinite where the loss is not, and such weights are never saved.

    >>> require_finite_weights({"net": nn.Linear(1, 1)}, 0, 0)
    """
    sums = {
        f"weights of {name}": torch.stack([weight.detach().sum() for weight in network.parameters()]).sum()
        for name, network in networks.items()
    }
    require_finite(numbers(sums), epoch, step)
