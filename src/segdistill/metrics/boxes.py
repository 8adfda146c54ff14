"""How well a predicted mask localises: box against box, as LA-Net scores data whose locations are boxes."""

from __future__ import annotations

from statistics import fmean
from typing import Any, NamedTuple

from numpy.typing import NDArray

from segdistill.imaging.boxes import Box, tight_box
from segdistill.metrics.base import Pair, register_metric

_NOTE = (
    "Boxes are the tightest around the largest marked region and around the reference; of a volume, the mean over the "
    "slices with a box in either."
)


class Overlap(NamedTuple):
    """IoU and Dice of two regions."""

    iou: float
    dice: float


def box_overlap(predicted: Box | None, reference: Box | None) -> Overlap:
    """Overlap of two boxes (left, top, right, bottom), right and bottom exclusive.

    No box against a box scores 0, no box against none 1.

    >>> box_overlap((0, 0, 2, 2), (1, 0, 3, 2)).iou
    0.3333333333333333
    >>> box_overlap(None, (0, 0, 1, 1)).dice, box_overlap(None, None).dice
    (0.0, 1.0)
    """
    if predicted is None or reference is None:
        same = float(predicted is None and reference is None)
        return Overlap(same, same)
    wide = min(predicted[2], reference[2]) - max(predicted[0], reference[0])
    high = min(predicted[3], reference[3]) - max(predicted[1], reference[1])
    shared = max(0, wide) * max(0, high)
    both = _area(predicted) + _area(reference)
    return Overlap(shared / (both - shared), 2 * shared / both)


def score_boxes(predicted: NDArray[Any], reference: NDArray[Any]) -> Overlap:
    """Overlap of the boxes of two masks (H, W): the prediction's largest component, all of the reference.

    Source: Fan et al. 2023, section 4.5; the rule for several components is ours (the release has none).

    Args:
        predicted: mask.
        reference: mask, or a filled box.

    >>> import numpy as np
    >>> score_boxes(np.eye(4)[:, :2], np.ones((4, 2))).iou
    0.5
    """
    return box_overlap(tight_box(predicted), tight_box(reference, largest=False))


def mean_box_overlap(predicted: NDArray[Any], reference: NDArray[Any]) -> Overlap:
    """Overlap of the boxes of all images of a case, mean over those with a box in either; 1 where none has one.

    Args:
        predicted: masks (D, H, W).
        reference: masks (D, H, W), or filled boxes.

    >>> import numpy as np
    >>> there, gone = np.ones((1, 2, 2)), np.zeros((1, 2, 2))
    >>> mean_box_overlap(np.concatenate([there, gone, gone]), np.concatenate([there, there, gone])).iou
    0.5
    """
    marked = [score_boxes(p, r) for p, r in zip(predicted, reference, strict=True) if p.any() or r.any()]
    if not marked:
        return Overlap(1.0, 1.0)
    return Overlap(fmean(one.iou for one in marked), fmean(one.dice for one in marked))


def _boxes(pair: Pair) -> Overlap:
    height, width = pair.prediction.shape[-2:]
    predicted, reference = (mask.reshape(-1, height, width) for mask in (pair.prediction, pair.reference))
    return mean_box_overlap(predicted, reference)


@register_metric("box_iou", higher_is_better=True, label="IoU of the boxes", note=_NOTE)
def box_iou(pair: Pair) -> float:
    """IoU of the boxes around prediction and reference; of a volume the mean over slices."""
    return pair.shared(_boxes).iou


@register_metric("box_dice", higher_is_better=True, label="Dice of the boxes", note=_NOTE)
def box_dice(pair: Pair) -> float:
    """Dice of the boxes around prediction and reference; of a volume the mean over slices."""
    return pair.shared(_boxes).dice


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
