"""Lesions that are missed, apart from how well the others are outlined: by case, and by connected component.

A mean Dice mixes two faults: a lesion that is not found at all, and an outline that is a little off. Here the first is
counted. A lesion is a connected component of the reference, corners included. Where an image has nothing to find, a
share of lesions is 1 if nothing was predicted, else 0 (the convention of metrics/overlap.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segdistill.errors import MissingExtra
from segdistill.imaging.components import label_components
from segdistill.metrics.base import Pair, register_metric
from segdistill.metrics.overlap import dice

MISSED_BELOW = 0.3
"""Dice below which a case counts as missed."""
MATCHED_FROM = 0.3
"""IoU from which a predicted component matches a lesion."""


class Components(NamedTuple):
    """The components of a prediction and of its reference.

    Attributes:
        overlap: pixels that each lesion shares with each predicted component (R, P).
        reference: pixels of each lesion (R,).
        prediction: pixels of each predicted component (P,).
    """

    overlap: NDArray[np.int64]
    reference: NDArray[np.int64]
    prediction: NDArray[np.int64]


def find_components(pair: Pair) -> Components:
    """The connected components of both masks, 8-connected in 2-D and 26-connected in 3-D, and what they share.

    Raises:
        MissingExtra: the masks are volumes, and scipy is not installed.

    >>> find_components(Pair(np.array([[1, 0, 1, 1]]), np.array([[1, 1, 0, 0]]))).overlap.tolist()
    [[1, 0]]
    """
    predicted, p = _label(pair.prediction)
    reference, r = _label(pair.reference)
    table = np.bincount(
        (reference.astype(np.int64) * (p + 1) + predicted).ravel(), minlength=(r + 1) * (p + 1)
    )
    table = table.reshape(r + 1, p + 1)
    return Components(table[1:, 1:], table[1:].sum(axis=1), table[:, 1:].sum(axis=0))


def _label(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    if mask.ndim == 2:
        return label_components(mask)
    try:
        from scipy.ndimage import label
    except ImportError as error:
        raise MissingExtra("lesions of a volume", "report") from error
    labels, count = label(mask, structure=np.ones((3,) * mask.ndim))
    return labels, int(count)


@register_metric("missed", higher_is_better=False, label="Missed (Dice below 0.3)")
def missed(pair: Pair) -> float:
    """1 where the Dice of the case is below 0.3, else 0: its mean is the share of cases that are missed.

    >>> missed(Pair(np.array([[1, 0, 0]]), np.array([[0, 1, 1]])))
    1.0
    """
    return float(dice(pair) < MISSED_BELOW)


@register_metric("lesions_found", higher_is_better=True, label="Lesions found")
def lesions_found(pair: Pair) -> float:
    """Share of the lesions of a case that the prediction overlaps by a pixel or more.

    >>> lesions_found(Pair(np.array([[1, 0, 0, 0]]), np.array([[1, 1, 0, 1]])))
    0.5
    """
    found = pair.shared(find_components)
    return _share(int((found.overlap.sum(axis=1) > 0).sum()), found)


@register_metric("lesions_matched", higher_is_better=True, label="Lesions matched (IoU from 0.3)")
def lesions_matched(pair: Pair) -> float:
    """Share of the lesions of a case that a predicted component of their own covers with an IoU of 0.3 or more.

    Lesions and components are paired one to one, the largest IoU first.

    >>> lesions_matched(Pair(np.array([[1, 0, 0, 1]]), np.array([[1, 1, 0, 1]])))
    1.0
    >>> lesions_matched(Pair(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 0, 1]])))  # one component for two lesions
    0.5
    """
    found = pair.shared(find_components)
    union = found.reference[:, None] + found.prediction[None, :] - found.overlap
    scores = found.overlap / np.maximum(union, 1)
    lesions: set[int] = set()
    components: set[int] = set()
    for k in np.argsort(-scores, axis=None, kind="stable"):
        lesion, component = divmod(int(k), scores.shape[1])
        if scores[lesion, component] < MATCHED_FROM:
            break
        if lesion not in lesions and component not in components:
            lesions.add(lesion)
            components.add(component)
    return _share(len(lesions), found)


@register_metric(
    "false_positive_components", higher_is_better=False, label="False components", unit="per image"
)
def false_positive_components(pair: Pair) -> float:
    """Number of predicted components that touch no pixel of the reference.

    >>> false_positive_components(Pair(np.array([[1, 0, 1, 0]]), np.array([[1, 1, 0, 0]])))
    1.0
    """
    return float((pair.shared(find_components).overlap.sum(axis=0) == 0).sum())


def _share(count: int, found: Components) -> float:
    if len(found.reference):
        return count / len(found.reference)
    return float(len(found.prediction) == 0)
