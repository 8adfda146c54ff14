"""Segmentation losses, from logits (B, C, ...) and class indices (B, ...) to a scalar; and adversarial losses."""

from segdistill.losses.base import (
    LOSSES,
    create_loss,
    log_probabilities,
    one_hot,
    probabilities,
    register_loss,
)

__all__ = ["LOSSES", "create_loss", "log_probabilities", "one_hot", "probabilities", "register_loss"]
