"""Missed lesions: hand-made masks, scipy's components, and the tables by size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from segdistill.metrics.base import METRICS, Pair
from segdistill.metrics.cases import CaseResult
from segdistill.metrics.lesions import find_components
from segdistill.stats.lesions import lesion_scores, lesion_tables

NAMES = ("missed", "lesions_found", "lesions_matched", "false_positive_components")


def measured(prediction: object, reference: object) -> tuple[float, ...]:
    pair = Pair(np.array(prediction), np.array(reference))
    return tuple(float(METRICS.create(name).function(pair)) for name in NAMES)


TWO = [[1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_by_hand() -> None:
    assert measured(TWO, TWO) == (0.0, 1.0, 1.0, 0.0)
    assert measured(np.zeros((3, 6)), TWO) == (1.0, 0.0, 0.0, 0.0)
    # one pixel of four: found, not matched (IoU 0.25), and Dice 2/6 is not missed; a component elsewhere
    assert measured([[1, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 1, 0, 1]], TWO)[1:] == (0.5, 0.0, 2.0)
    # corners connect: one lesion, not two
    assert measured([[1, 0], [0, 0]], [[1, 0], [0, 1]]) == (0.0, 1.0, 1.0, 0.0)


def test_nothing_to_find() -> None:
    empty = np.zeros((2, 3))
    assert measured(empty, empty) == (0.0, 1.0, 1.0, 0.0)
    assert measured([[1, 0, 1], [0, 0, 0]], empty) == (1.0, 0.0, 0.0, 2.0)


def test_one_component_matches_one_lesion() -> None:
    """A stripe over two lesions covers each with an IoU above 0.3, and counts for one of them."""
    reference = [[1, 1, 1, 0, 1, 1]]
    assert measured([[1, 1, 1, 1, 1, 1]], reference) == (0.0, 1.0, 0.5, 0.0)


@pytest.mark.parametrize("shape", [(40, 50), (9, 14, 15)])
def test_against_scipy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    prediction, reference = (rng.random(shape) < share for share in (0.12, 0.08))
    everywhere = np.ones((3,) * len(shape))
    (p, np_), (r, nr) = (ndimage.label(mask, structure=everywhere) for mask in (prediction, reference))
    found = [np.any(prediction[r == k]) for k in range(1, nr + 1)]
    lost = [not np.any(reference[p == k]) for k in range(1, np_ + 1)]
    values = measured(prediction, reference)
    assert (values[1], values[3]) == (pytest.approx(np.mean(found)), sum(lost))
    sizes = find_components(Pair(prediction, reference))
    assert sizes.reference.tolist() == [int((r == k).sum()) for k in range(1, nr + 1)]
    assert sizes.prediction.sum() == prediction.sum()


def test_directions() -> None:
    better = {name: METRICS.create(name).higher_is_better for name in NAMES}
    assert better == dict(zip(NAMES, (False, True, True, False), strict=True))


def case(k: int, dice: float, **more: float) -> CaseResult:
    return CaseResult(f"c{k}", f"c{k}", metrics={"dice": dice, **more}, reference_area=0.01 * (k + 1))


def test_missed_apart_from_outlines_by_size() -> None:
    """The small third is missed, the others have a Dice of 0.9; the other network finds all, with 0.6."""
    sharp = [case(k, 0.1 if k < 4 else 0.9) for k in range(12)]
    blunt = [case(k, 0.6, lesions_found=1.0) for k in range(12)]
    tables = lesion_tables({"sharp": sharp, "blunt": blunt})
    assert [table.title.partition(",")[0] for table in tables] == ["All cases", "Small", "Medium", "Large"]
    whole, small = tables[0].rows, tables[1].rows
    assert whole["sharp"].missed.mean == pytest.approx(1 / 3)
    assert whole["sharp"].outline.mean == pytest.approx(0.9)
    assert (whole["blunt"].missed.mean, whole["blunt"].outline.mean) == (0.0, pytest.approx(0.6))
    assert small["sharp"].missed.mean == 1.0
    assert small["sharp"].outline.mean is None
    assert whole["sharp"].components == {}
    assert whole["blunt"].components["lesions_found"].mean == 1.0
    assert lesion_tables({}) == []
    assert lesion_tables({"net": [CaseResult("n", "n", label="normal")]}) == []


def test_trainings_are_drawn_with_their_case() -> None:
    """Two trainings of three cases are three groups: the interval is that of the cases' means."""
    rows = [case(k, dice) for k, dice in enumerate((0.1, 0.8, 0.9))]
    once, twice = lesion_scores(rows), lesion_scores([*rows, *rows])
    assert (once.missed.low, once.missed.high) == (twice.missed.low, twice.missed.high)
