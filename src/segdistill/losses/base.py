"""The registry of segmentation losses, and logits to probabilities: the same for one logit and for C logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.registry import Registry

LOSSES: Registry[nn.Module] = Registry("loss", "segdistill.losses", "train")
register_loss, list_losses = LOSSES.register, LOSSES.names


def create_loss(name: str, **options: Any) -> nn.Module:
    """Builds the loss that is registered as `name`: a module from logits (B, C, ...) and class indices to a scalar.

    Raises:
        InputError: unknown name or option; the message lists the near names or the valid options.

    >>> type(create_loss("dice", squared=False)).__name__
    'DiceLoss'
    """
    return LOSSES.build(name, options)


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each class, in float32 also under autocast.

    Args:
        logits: (B, C, H, W) or (B, C, D, H, W); with C = 1 the one logit is that of the foreground.
        temperature: divides the logits.

    Returns:
        (B, max(C, 2), ...): one logit gives background and foreground.

    >>> log_probabilities(torch.zeros(1, 1, 1, 1)).exp().flatten().tolist()
    [0.5, 0.5]
    """
    scaled = logits.float() / temperature
    if scaled.shape[1] == 1:
        return torch.cat([F.logsigmoid(-scaled), F.logsigmoid(scaled)], dim=1)
    return F.log_softmax(scaled, dim=1)


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Probability of each class: see `log_probabilities`.

    >>> probabilities(torch.zeros(1, 4, 1, 1)).flatten().tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return log_probabilities(logits, temperature).exp()


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Class indices (B, ...) to float32 maps (B, classes, ...).

    >>> one_hot(torch.tensor([[0, 1]]), 2).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    # a comparison: torch's own one_hot takes three times as long and would need another order of axes
    numbers = torch.arange(classes, device=target.device).view(-1, *[1] * (target.ndim - 1))
    return (target.unsqueeze(1) == numbers).float()
