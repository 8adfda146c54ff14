"""Functions on maps (B, C, ...) of two or three spatial axes that several methods share; all in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.errors import InputError
from segdistill.losses import log_probabilities, one_hot
from segdistill.models.network import Output

TINY = 1e-6
"""Shorter vectors have no direction: their cosine with any other is 0, without a gradient."""


def exact(tensor: Tensor) -> torch.autocast:
    """A context without autocast: products of float32 stay float32.

    >>> with exact(torch.zeros(1)):
    ...     torch.is_autocast_enabled("cpu")
    False
    """
    return torch.autocast(tensor.device.type, enabled=False)


def logits_of(output: Output, method: str) -> Tensor:
    """The logits of an output.

    Raises:
        InputError: there are none, since the network is a classifier.

    >>> logits_of(Output(torch.zeros(1, 2, 4, 4), {}), "skd").shape
    torch.Size([1, 2, 4, 4])
    """
    if output.logits is None:
        raise InputError(f"{method} needs a network with logits, not a classifier")
    return output.logits


def mask_of(mask: Tensor | None, method: str) -> Tensor:
    """The reference masks, for a method that needs them; background in rows without one, which training leaves out.

    Raises:
        InputError: there are none.

    >>> mask_of(torch.zeros(1, 4, 4), "ifvd").shape
    torch.Size([1, 4, 4])
    """
    if mask is None:
        raise InputError(f"{method} needs the reference masks of the images")
    return mask.clamp(min=0)


def classes_of(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The class of each position: by the reference mask, and by the prediction in rows without one.

    Args:
        logits: (B, C, ...).
        mask: (B, ...) class indices, -1 in rows without a reference; None without any.

    Returns:
        (B, 1, ...) class indices at the size of the logits.

    >>> logits = torch.tensor([[[-1.0, 2.0]], [[-1.0, 2.0]]])
    >>> classes_of(logits, torch.tensor([[1, 0], [-1, -1]])).tolist()
    [[[1, 0]], [[0, 1]]]
    """
    predicted = log_probabilities(logits).argmax(1, keepdim=True)
    if mask is None:
        return predicted
    known = mask[:, None]
    if known.shape != predicted.shape:
        known = F.interpolate(known.float(), predicted.shape[2:], mode="nearest").long()
    return torch.where(known < 0, predicted, known)


def boundary_band(classes: Tensor, width: int) -> Tensor:
    """Positions near another class: where the mask of some class, dilated, differs from the same mask, eroded.

    Args:
        classes: (B, 1, ...) class indices; or (B, K, ...) masks of the classes, for the band of each.
        width: positions by which masks are dilated and eroded, with a square or a cube.

    Returns:
        booleans of the same shape.

    >>> boundary_band(torch.tensor([[[[0, 0, 0, 1, 1, 1]]]]), 1).int().flatten().tolist()
    [0, 0, 1, 1, 0, 0]
    """
    pooling = F.max_pool2d if classes.ndim == 4 else F.max_pool3d
    index, side = classes.float(), 2 * width + 1
    largest = pooling(index, side, stride=1, padding=width)  # padding never counts as the largest
    smallest = -pooling(-index, side, stride=1, padding=width)
    return largest > smallest


def region_of(logits: Tensor, mask: Tensor | None, balance: str) -> Tensor:
    """The positions that a balanced mean counts as much as all the others together.

    Args:
        logits: (B, C, ...).
        mask: as in `classes_of`.
        balance: "class": the foreground, all classes but 0; "boundary": positions that are no farther from another
            class than a 64th of the shortest side, and one position at least.

    Returns:
        (B, 1, ...) booleans at the size of the logits.

    >>> mask = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    >>> logits = torch.zeros(1, 2, 1, 6)
    >>> [region_of(logits, mask, balance).int().flatten().tolist() for balance in ("class", "boundary")]
    [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]]
    """
    classes = classes_of(logits, mask)
    if balance == "class":
        return classes > 0
    return boundary_band(classes, max(1, round(min(classes.shape[2:]) / 64)))


def balanced_weights(region: Tensor, size: Sequence[int]) -> Tensor:
    """Weights of positions with which a sum is the mean of two means: over a region, and over the rest.

    A coarser position counts for each of both by its share of it, so that small structures do not vanish.

    Args:
        region: (B, 1, ...) booleans.
        size: spatial, of what is summed.

    Returns:
        (B, n) positive, with the sum 1 in each row; all equal where the region is everything or nothing.

    >>> balanced_weights(torch.tensor([[[True, False, False, False]]]), (4,)).tolist()
    [[0.5, 0.1666666716337204, 0.1666666716337204, 0.1666666716337204]]
    """
    regions = torch.cat([region, ~region], dim=1).float()
    shares = F.interpolate(regions, tuple(size), mode="area").flatten(2)
    count = shares.sum(2, keepdim=True)
    means = shares / count.clamp(min=torch.finfo(shares.dtype).tiny)
    return means.sum(1) / (count > 0).sum(1)


def mean_over_positions(values: Tensor, region: Tensor | None = None) -> Tensor:
    """(B,) mean of values (B, ...) over positions, or the mean of the means over a region (B, 1, ...) and the rest.

    >>> errors = torch.tensor([[4.0, 1.0, 1.0, 1.0]])
    >>> mean_over_positions(errors), mean_over_positions(errors, torch.tensor([[[True, False, False, False]]]))
    (tensor([1.7500]), tensor([2.5000]))
    """
    if region is None:
        return values.flatten(1).mean(1)
    return (values.flatten(1) * balanced_weights(region, values.shape[1:])).sum(1)


def mean_square(difference: Tensor, region: Tensor | None = None) -> Tensor:
    """(B,) mean square of maps (B, C, ...) over channels and positions; over positions as `mean_over_positions`.

    >>> mean_square(torch.tensor([[[2.0, 0.0]]]))
    tensor([2.])
    """
    if region is None:
        return difference.square().flatten(1).mean(1)
    return mean_over_positions(difference.square().mean(1), region)


def require_classes(classes: int, method: str) -> None:
    """Refuses fewer than two classes.

    Raises:
        InputError: names the method.

    >>> require_classes(1, "ifvd")
    Traceback (most recent call last):
    segdistill.errors.InputError: ifvd: classes is 1, but must be at least 2: background and one more
    """
    if classes < 2:
        raise InputError(f"{method}: classes is {classes}, but must be at least 2: background and one more")


def resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Resized linearly along each axis to a spatial size; the same tensor if it has that size.

    >>> resize(torch.ones(1, 1, 2, 2), (4, 4)).sum().item()
    16.0
    """
    if values.shape[2:] == torch.Size(size):
        return values
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[values.ndim - 2]
    return F.interpolate(values, tuple(size), mode=mode, align_corners=False)


def pool(values: Tensor, side: int, kind: Literal["mean", "max"] = "mean") -> Tensor:
    """Pooled to at most `side` positions along each spatial axis; the same tensor if it has no more.

    >>> pool(torch.ones(1, 1, 8, 2), 4).shape
    torch.Size([1, 1, 4, 2])
    """
    size = [min(side, own) for own in values.shape[2:]]
    if size == list(values.shape[2:]):
        return values
    pooling: Any = {
        ("mean", 2): F.adaptive_avg_pool2d,
        ("mean", 3): F.adaptive_avg_pool3d,
        ("max", 2): F.adaptive_max_pool2d,
        ("max", 3): F.adaptive_max_pool3d,
    }[kind, len(size)]
    pooled: Tensor = pooling(values, size)
    return pooled


def unit(values: Tensor, dim: int = 1, constant_norm: bool = False) -> Tensor:
    """Vectors along `dim` divided by their length; zero without a gradient for vectors of no length.

    Args:
        values: any shape; half precision becomes float32.
        dim: the axis of the vectors.
        constant_norm: the length is a constant in the gradient.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    values = values.float()
    length = torch.linalg.vector_norm(values.detach() if constant_norm else values, dim=dim, keepdim=True)
    return torch.where(length > TINY, values / length.clamp(min=TINY), 0)


def class_masks(target: Tensor, size: Sequence[int], classes: int) -> Tensor:
    """Masks of each class at another size, by the nearest position.

    Args:
        target: (B, ...) class indices; indices beyond the last class count as the last.
        size: spatial.
        classes: their number K.

    Returns:
        (B, K, n) float32 of 0 and 1, over n positions.

    >>> class_masks(torch.tensor([[[0, 0, 2, 2]]]), (1, 2), 3).tolist()
    [[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]]
    """
    index = F.interpolate(target[:, None].float(), tuple(size), mode="nearest")[:, 0].long()
    return one_hot(index.clamp(max=classes - 1), classes).flatten(2)


def prototypes(feature: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean feature of each class in each image.

    Args:
        feature: (B, C, ...) of n positions.
        masks: (B, K, n), see `class_masks`.

    Returns:
        (B, K, C), zero for a class that the image lacks, and (B, K) booleans: whether the image has it.

    >>> feature = torch.tensor([[[[1.0, 3.0]]]])
    >>> means, there = prototypes(feature, torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))
    >>> means.tolist(), there.tolist()
    ([[[2.0], [0.0]]], [[True, False]])
    """
    count = masks.sum(2)
    with exact(feature):
        sums = masks @ feature.float().flatten(2).mT
    return sums / count.clamp(min=1)[..., None], count > 0


def cosines(feature: Tensor, means: Tensor) -> Tensor:
    """Cosine of the feature at every position with every mean: (B, C, ...) and (B, K, C) to (B, K, ...).

    >>> cosines(torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]]), torch.tensor([[[5.0, 0.0]]])).tolist()
    [[[[1.0, 0.0]]]]
    """
    with exact(feature):
        flat = unit(means, 2) @ unit(feature.flatten(2))
    return flat.reshape(*flat.shape[:2], *feature.shape[2:])
