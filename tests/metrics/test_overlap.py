from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from segdistill.metrics.base import METRICS, Pair

ALWAYS = {name: METRICS.create(name) for name in METRICS.always()}
accuracy, dice, iou, precision, recall = (
    METRICS.create(name) for name in ("accuracy", "dice", "iou", "precision", "recall")
)

PAIRS = array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def by_hand(p: np.ndarray, r: np.ndarray) -> dict[str, float]:
    """Pixel by pixel, with Python's sets."""
    a, b = set(zip(*np.nonzero(p), strict=True)), set(zip(*np.nonzero(r), strict=True))
    empty = 1.0 if not a and not b else 0.0
    same = sum(x == y for x, y in zip(p.ravel().tolist(), r.ravel().tolist(), strict=True))
    return {
        "dice": 2 * len(a & b) / (len(a) + len(b)) if a or b else empty,
        "iou": len(a & b) / len(a | b) if a | b else empty,
        "precision": len(a & b) / len(a) if a else empty,
        "recall": len(a & b) / len(b) if b else empty,
        "accuracy": same / p.size,
    }


@given(PAIRS)
@settings(max_examples=150, deadline=None)
def test_metrics_equal_counting_by_hand(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = by_hand(*pair)
    assert {name: metric(*pair) for name, metric in ALWAYS.items()} == pytest.approx(expected)


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_identities(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = pair
    overlap = iou(p, r)
    assert dice(p, r) == pytest.approx(2 * overlap / (1 + overlap))
    assert dice(p, r) == dice(r, p)
    assert precision(p, r) == recall(r, p)
    assert accuracy(p, r) == pytest.approx(accuracy(~p, ~r))
    assert overlap <= dice(p, r)
    assert all(0 <= metric(p, r) <= 1 for metric in ALWAYS.values())
    assert all(metric(r, r) == 1 for metric in ALWAYS.values())
    assert sum(Pair(p, r).counts) == p.size
    if precision(p, r) + recall(p, r) > 0:
        harmonic = 2 * precision(p, r) * recall(p, r) / (precision(p, r) + recall(p, r))
        assert dice(p, r) == pytest.approx(harmonic)


@pytest.mark.parametrize("name", ["dice", "iou", "precision", "recall"])
@pytest.mark.parametrize(("p", "r", "expected"), [(0, 0, 1.0), (1, 0, 0.0), (0, 1, 0.0)])
def test_empty_masks(name: str, p: int, r: int, expected: float) -> None:
    assert ALWAYS[name](np.full((3, 4), p, bool), np.full((3, 4), r, bool)) == expected


def test_labels_count_as_foreground_and_shapes_must_agree() -> None:
    assert dice(np.array([[0, 255]]), np.array([[0, 1]])) == 1
    with pytest.raises(ValueError, match="shape"):
        dice(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
